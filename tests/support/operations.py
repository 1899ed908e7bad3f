"""A case for every operation that the CPU backend overrides: its arguments, and which of them it may write."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vit.backend import Ops

SHAPES = [(1, 1, 1), (2, 5, 3), (3, 4, 17), (1, 3, 63), (2, 7, 65)]
"""Images, tokens, width."""
HEADS = [(1, 4), (3, 8), (2, 20)]
"""Heads and head width of a case about attention, which has them in place of the width."""


@dataclass
class Case:
    """One call: arrays by argument name in float64, other arguments, and the names of what is written.

    An argument that is only written starts as NaN, so that a gap shows.
    """

    arrays: dict[str, np.ndarray]
    written: set[str]
    other: dict[str, Any] = field(default_factory=dict)

    def run(self, ops: Ops, method: str) -> "Outcome":
        """Calls the method on copies of the arrays in the type of `ops`."""
        arrays = self.cast(ops)
        result = getattr(ops, method)(**arrays, **self.other)
        return Outcome(arrays, result)

    def cast(self, ops: Ops) -> dict[str, np.ndarray]:
        return {name: array if name in KEPT else array.astype(ops.dtype) for name, array in self.copies().items()}

    def copies(self) -> dict[str, np.ndarray]:
        return {name: array.copy() for name, array in self.arrays.items()}

    def rounded(self, dtype: str) -> "Case":
        """The same case with arrays that are exact in `dtype`."""
        arrays = {name: a if name in KEPT else a.astype(dtype).astype(np.float64) for name, a in self.arrays.items()}
        return Case(arrays, self.written, self.other)


KEPT = ("gradient_scale", "rate", "decay")
"""Arguments of the optimiser that are float64 whatever the type of the backend."""


@dataclass
class Outcome:
    arrays: dict[str, np.ndarray]
    result: Any

    def written(self, case: Case) -> dict[str, np.ndarray]:
        """What the call was for: the arrays it may write, and what it returns where that is no argument."""
        out = {name: self.arrays[name] for name in sorted(case.written)}
        if self.result is not None and not any(self.result is array for array in self.arrays.values()):
            out["result"] = np.asarray(self.result)
        return out


class Draw:
    """Normal arrays led by the run axis."""

    def __init__(self, runs: int, seed: int) -> None:
        self.runs, self.rng = runs, np.random.default_rng((7, seed))

    def __call__(self, *shape: int) -> np.ndarray:
        return self.rng.normal(size=(self.runs, *shape))

    def blank(self, *shape: int) -> np.ndarray:
        return np.full((self.runs, *shape), np.nan)

    def softmax(self, *shape: int) -> np.ndarray:
        e = np.exp(self(*shape))
        return e / e.sum(axis=-1, keepdims=True)


def matmul(draw: Draw, images: int, tokens: int, width: int) -> Case:
    a, b, out = draw(images, tokens, width), draw(images, width, tokens + 1), draw.blank(images, tokens, tokens + 1)
    return Case({"a": a, "b": b, "out": out}, {"out"})


def matmul_transposed(draw: Draw, images: int, tokens: int, width: int) -> Case:
    a, b, out = draw(images, width, tokens), draw(images, tokens + 1, width), draw.blank(images, tokens, tokens + 1)
    return Case({"a": a, "b": b, "out": out}, {"out"}, {"trans_a": True, "trans_b": True})


def add_bias(draw: Draw, images: int, tokens: int, width: int) -> Case:
    return Case({"x": draw(images, tokens, width), "bias": draw(width)}, {"x"})


def sum_tokens(draw: Draw, images: int, tokens: int, width: int) -> Case:
    return Case({"dy": draw(images, tokens, width), "out": draw.blank(width)}, {"out"})


def add_table(draw: Draw, images: int, tokens: int, width: int) -> Case:
    return Case({"x": draw(images, tokens, width), "table": draw(tokens, width)}, {"x"})


def add_table_of_all_runs(draw: Draw, images: int, tokens: int, width: int) -> Case:
    return Case({"x": draw(images, tokens, width), "table": draw(tokens, width)[:1]}, {"x"})


def sum_images(draw: Draw, images: int, tokens: int, width: int) -> Case:
    return Case({"dy": draw(images, tokens, width), "out": draw.blank(tokens, width)}, {"out"})


def mean_tokens(draw: Draw, images: int, tokens: int, width: int) -> Case:
    return Case({"x": draw(images, tokens, width), "out": draw.blank(images, width)}, {"out"})


def mean_tokens_backward(draw: Draw, images: int, tokens: int, width: int) -> Case:
    return Case({"dy": draw(images, width), "out": draw.blank(images, tokens, width)}, {"out"})


def copy_tokens(draw: Draw, images: int, tokens: int, width: int) -> Case:
    return Case({"source": draw(images, tokens, width), "out": draw.blank(images, tokens, width)}, {"out"})


def copy_tokens_to_all_images(draw: Draw, images: int, tokens: int, width: int) -> Case:
    return Case({"source": draw(1, tokens, width), "out": draw.blank(images, tokens, width)}, {"out"})


def fill(draw: Draw, images: int, tokens: int, width: int) -> Case:
    return Case({"out": draw.blank(images, tokens, width)}, {"out"}, {"value": 0.75})


def residual_layer_norm(draw: Draw, images: int, tokens: int, width: int) -> Case:
    shape = (images, tokens, width)
    arrays = {"x": draw(*shape), "branch": draw(*shape), "branch_bias": draw(width)}
    arrays |= {"weight": draw(width), "bias": draw(width), "stream": draw.blank(*shape), "out": draw.blank(*shape)}
    arrays |= {"mean": draw.blank(images, tokens), "rstd": draw.blank(images, tokens)}
    return Case(arrays, {"stream", "out", "mean", "rstd"})


def layer_norm(draw: Draw, images: int, tokens: int, width: int) -> Case:
    """No branch: the stream is x already."""
    case = residual_layer_norm(draw, images, tokens, width)
    arrays = {name: array for name, array in case.arrays.items() if not name.startswith("branch")}
    arrays["stream"] = arrays["x"].copy()
    return Case(arrays, {"out", "mean", "rstd"}, {"branch": None, "branch_bias": None})


def residual_layer_norm_backward(draw: Draw, images: int, tokens: int, width: int) -> Case:
    shape = (images, tokens, width)
    stream = draw(*shape)
    arrays = {"dout": draw(*shape), "dstream": draw(*shape), "stream": stream, "weight": draw(width)}
    arrays |= {"mean": stream.mean(axis=-1), "rstd": 1 / np.sqrt(stream.var(axis=-1) + 1e-6)}
    arrays |= {name: draw.blank(width) for name in ("dweight", "dbias", "dbranch_bias")}
    return Case(arrays, {"dstream", "dweight", "dbias", "dbranch_bias"})


def layer_norm_backward(draw: Draw, images: int, tokens: int, width: int) -> Case:
    case = residual_layer_norm_backward(draw, images, tokens, width)
    del case.arrays["dbranch_bias"]
    return Case(case.arrays, {"dstream", "dweight", "dbias"}, {"dbranch_bias": None})


def bias_gelu(draw: Draw, images: int, tokens: int, width: int) -> Case:
    shape = (images, tokens, width)
    arrays = {"x": 2 * draw(*shape), "bias": draw(width), "out": draw.blank(*shape)}
    return Case(arrays, {"out"}, {"derivative": False})


def bias_gelu_with_derivative(draw: Draw, images: int, tokens: int, width: int) -> Case:
    return Case(bias_gelu(draw, images, tokens, width).arrays, {"x", "out"}, {"derivative": True})


def bias_gelu_backward(draw: Draw, images: int, tokens: int, width: int) -> Case:
    shape = (images, tokens, width)
    return Case({"dy": draw(*shape), "derivative": draw(*shape), "dbias": draw.blank(width)}, {"dy", "dbias"})


def qkv_bias(draw: Draw, images: int, tokens: int, heads: int, width: int) -> Case:
    arrays = {"qkv": draw(images, tokens, 3, heads, width), "bias": draw(3 * heads * width)}
    return Case(arrays, {"qkv"}, {"scale": width**-0.5})


def qkv_bias_backward(draw: Draw, images: int, tokens: int, heads: int, width: int) -> Case:
    arrays = {"dqkv": draw(images, tokens, 3, heads, width), "dbias": draw.blank(3 * heads * width)}
    return Case(arrays, {"dqkv", "dbias"}, {"scale": width**-0.5})


def qkv_bias_rotate(
    draw: Draw, images: int, tokens: int, heads: int, width: int, prefix: int = 0, own: str = ""
) -> Case:
    case = qkv_bias(draw, images, tokens + prefix, heads, width)
    return Case(case.arrays | angles(draw, tokens, heads, width, own), case.written, case.other | {"prefix": prefix})


def qkv_bias_rotate_after_prefix(draw: Draw, images: int, tokens: int, heads: int, width: int) -> Case:
    return qkv_bias_rotate(draw, images, tokens, heads, width, 2, "run")


def qkv_bias_rotate_by_head(draw: Draw, images: int, tokens: int, heads: int, width: int) -> Case:
    return qkv_bias_rotate(draw, images, tokens, heads, width, 1, "run head")


def qkv_bias_rotate_backward(
    draw: Draw, images: int, tokens: int, heads: int, width: int, prefix: int = 0, own: str = ""
) -> Case:
    case = qkv_bias_backward(draw, images, tokens + prefix, heads, width)
    return Case(case.arrays | angles(draw, tokens, heads, width, own), case.written, case.other | {"prefix": prefix})


def qkv_bias_rotate_backward_after_prefix(draw: Draw, images: int, tokens: int, heads: int, width: int) -> Case:
    return qkv_bias_rotate_backward(draw, images, tokens, heads, width, 2, "run head")


def qkv_bias_rotate_backward_by_head(draw: Draw, images: int, tokens: int, heads: int, width: int) -> Case:
    return qkv_bias_rotate_backward(draw, images, tokens, heads, width, 1, "head")


def angles(draw: Draw, patches: int, heads: int, width: int, own: str) -> dict[str, np.ndarray]:
    """Cosines and sines (R or 1, H or 1, N, K/2); `own` names the axes that have tables of their own."""
    shape = (draw.runs if "run" in own else 1, heads if "head" in own else 1, patches, width // 2)
    drawn = 3 * draw.rng.normal(size=shape)
    return {"cos": np.cos(drawn), "sin": np.sin(drawn)}


def rotation_gradient(draw: Draw, images: int, tokens: int, heads: int, width: int, prefix: int = 0) -> Case:
    """Of the rotated projection, whose bias has been added."""
    shape = (images, tokens + prefix, 3, heads, width)
    arrays = {"qkv": draw(*shape), "dqkv": draw(*shape), "out": draw.blank(heads, tokens, width // 2)}
    return Case(arrays, {"out"}, {"bias": None, "prefix": prefix})


def rotation_gradient_after_prefix(draw: Draw, images: int, tokens: int, heads: int, width: int) -> Case:
    return rotation_gradient(draw, images, tokens, heads, width, prefix=2)


def rotation_gradient_with_bias(draw: Draw, images: int, tokens: int, heads: int, width: int) -> Case:
    case = rotation_gradient(draw, images, tokens, heads, width, prefix=1)
    return Case(case.arrays | {"bias": draw(3 * heads * width)}, {"out"}, {"prefix": 1})


def add_score_bias(draw: Draw, images: int, tokens: int, heads: int, width: int) -> Case:
    return Case({"scores": draw(images, heads, tokens, tokens), "bias": draw(heads, tokens, tokens)}, {"scores"})


def add_score_bias_of_all_runs(draw: Draw, images: int, tokens: int, heads: int, width: int) -> Case:
    case = add_score_bias(draw, images, tokens, heads, width)
    return Case(case.arrays | {"bias": case.arrays["bias"][:1]}, {"scores"})


def score_bias_gradient(draw: Draw, images: int, tokens: int, heads: int, width: int) -> Case:
    dscores, out = draw(images, heads, tokens, tokens), draw.blank(heads, tokens, tokens)
    return Case({"dscores": dscores, "out": out}, {"out"})


def qkv_bias_turn(
    draw: Draw, images: int, tokens: int, heads: int, width: int, prefix: int = 0, groups: int = 1, own: bool = True
) -> Case:
    case = qkv_bias(draw, images, tokens + prefix, heads, width)
    matrices = _rotations(draw, tokens, heads if own else 1, width, groups)
    return Case(case.arrays | {"matrices": matrices}, case.written, case.other | {"prefix": prefix})


def qkv_bias_turn_of_all_heads(draw: Draw, images: int, tokens: int, heads: int, width: int) -> Case:
    return qkv_bias_turn(draw, images, tokens, heads, width, 2, width // 2, own=False)


def qkv_bias_turn_by_eight(draw: Draw, images: int, tokens: int, heads: int, width: int) -> Case:
    return qkv_bias_turn(draw, images, tokens, heads, width, 1, max(1, width // 8))


def qkv_bias_turn_backward(
    draw: Draw, images: int, tokens: int, heads: int, width: int, prefix: int = 0, groups: int = 1, own: bool = True
) -> Case:
    shape = (images, tokens + prefix, 3, heads, width)
    arrays = {"qkv": draw(*shape), "dqkv": draw(*shape), "dbias": draw.blank(3 * heads * width)}
    arrays["matrices"] = _rotations(draw, tokens, heads if own else 1, width, groups)
    arrays["dmatrices"] = np.full_like(arrays["matrices"], np.nan)
    return Case(arrays, {"dqkv", "dbias", "dmatrices"}, {"scale": width**-0.5, "prefix": prefix})


def qkv_bias_turn_backward_of_all_heads(draw: Draw, images: int, tokens: int, heads: int, width: int) -> Case:
    return qkv_bias_turn_backward(draw, images, tokens, heads, width, 2, width // 2, own=False)


def qkv_bias_turn_backward_by_eight(draw: Draw, images: int, tokens: int, heads: int, width: int) -> Case:
    return qkv_bias_turn_backward(draw, images, tokens, heads, width, 1, max(1, width // 8))


def _rotations(draw: Draw, tokens: int, heads: int, width: int, groups: int) -> np.ndarray:
    """Orthogonal matrices (R, H, N, G, K/G, K/G)."""
    size = width // groups
    return np.linalg.qr(draw(heads, tokens, groups, size, size))[0]


def add_to_queries(draw: Draw, images: int, tokens: int, heads: int, width: int) -> Case:
    arrays = {"dqkv": draw(images, tokens, 3, heads, width), "dqueries": draw(images, tokens, heads, width)}
    return Case(arrays, {"dqkv"})


def add_relative_scores(draw: Draw, images: int, tokens: int, heads: int, width: int, prefix: int = 0) -> Case:
    """On the largest square grid of up to `tokens` patches."""
    grid = math.isqrt(tokens)
    tokens = grid * grid + prefix
    arrays = {"scores": draw(images, heads, tokens, tokens)}
    arrays["products"] = draw(images, tokens, heads, 2 * (2 * grid - 1))
    return Case(arrays, {"scores"}, {"prefix": prefix})


def add_relative_scores_after_prefix(draw: Draw, images: int, tokens: int, heads: int, width: int) -> Case:
    return add_relative_scores(draw, images, tokens, heads, width, prefix=2)


def relative_scores_gradient(draw: Draw, images: int, tokens: int, heads: int, width: int, prefix: int = 0) -> Case:
    case = add_relative_scores(draw, images, tokens, heads, width, prefix)
    scores, products = case.arrays.values()
    return Case({"dscores": scores, "out": np.full_like(products, np.nan)}, {"out"}, {"prefix": prefix})


def relative_scores_gradient_after_prefix(draw: Draw, images: int, tokens: int, heads: int, width: int) -> Case:
    return relative_scores_gradient(draw, images, tokens, heads, width, prefix=2)


def add_branch(draw: Draw, images: int, tokens: int, width: int) -> Case:
    shape = (images, tokens, width)
    arrays = {"stream": draw(*shape), "branch": draw(*shape), "bias": draw(width), "out": draw.blank(*shape)}
    return Case(arrays, {"out"})


def add_depthwise_conv(draw: Draw, images: int, tokens: int, width: int, prefix: int = 0) -> Case:
    """On the largest square grid of up to `tokens` patches."""
    tokens = math.isqrt(tokens) ** 2 + prefix
    arrays = {"x": draw(images, tokens, width), "weight": draw(width, 1, 3, 3), "bias": draw(width)}
    return Case(arrays | {"out": draw.blank(images, tokens, width)}, {"out"}, {"prefix": prefix})


def add_depthwise_conv_after_prefix(draw: Draw, images: int, tokens: int, width: int) -> Case:
    return add_depthwise_conv(draw, images, tokens, width, prefix=2)


def add_depthwise_conv_backward(draw: Draw, images: int, tokens: int, width: int, prefix: int = 0) -> Case:
    case = add_depthwise_conv(draw, images, tokens, width, prefix)
    x, weight, bias, out = case.arrays.values()
    arrays = {"dy": draw(*x.shape[1:]), "x": x, "weight": weight, "out": out}
    arrays |= {"dweight": np.full_like(weight, np.nan), "dbias": np.full_like(bias, np.nan)}
    return Case(arrays, {"out", "dweight", "dbias"}, {"prefix": prefix})


def add_depthwise_conv_backward_after_prefix(draw: Draw, images: int, tokens: int, width: int) -> Case:
    return add_depthwise_conv_backward(draw, images, tokens, width, prefix=2)


def softmax(draw: Draw, images: int, tokens: int, width: int) -> Case:
    return Case({"x": 3 * draw(images, tokens, width)}, {"x"})


def softmax_backward(draw: Draw, images: int, tokens: int, width: int) -> Case:
    return Case({"dy": draw(images, tokens, width), "y": draw.softmax(images, tokens, width)}, {"dy"})


def cross_entropy(draw: Draw, images: int, tokens: int, width: int) -> Case:
    logits, targets = 3 * draw(images, width), draw.softmax(images, width)
    arrays = {"logits": logits, "targets": targets, "losses": draw.blank(images), "dlogits": draw.blank(images, width)}
    return Case(arrays, {"losses", "dlogits"}, {"scale": 1 / 7})


def add(draw: Draw, images: int, tokens: int, width: int) -> Case:
    return Case({"x": draw(width), "y": draw(width)}, {"x"})


def sum_of_squares(draw: Draw, images: int, tokens: int, width: int) -> Case:
    return Case({"x": draw(tokens * width)}, set())


def adamw(draw: Draw, images: int, tokens: int, width: int, step: int = 1) -> Case:
    arrays = {name: draw(width) for name in ("parameters", "gradient", "first")}
    arrays |= {"second": draw(width) ** 2, "gradient_scale": 1 - 0.9 * draw.rng.random(draw.runs)}
    arrays |= {"rate": draw.rng.random(draw.runs), "decay": draw.rng.random(draw.runs)}
    other = {"betas": (0.9, 0.999), "epsilon": 1e-8, "step": step}
    return Case(arrays, {"parameters", "first", "second"}, other)


def adamw_late(draw: Draw, images: int, tokens: int, width: int) -> Case:
    return adamw(draw, images, tokens, width, step=5000)


Maker = Callable[..., Case]

CASES: list[tuple[str, Maker]] = [
    ("matmul", matmul),
    ("matmul", matmul_transposed),
    ("add_bias", add_bias),
    ("sum_tokens", sum_tokens),
    ("add_table", add_table),
    ("add_table", add_table_of_all_runs),
    ("sum_images", sum_images),
    ("mean_tokens", mean_tokens),
    ("mean_tokens_backward", mean_tokens_backward),
    ("copy_tokens", copy_tokens),
    ("copy_tokens", copy_tokens_to_all_images),
    ("fill", fill),
    ("residual_layer_norm", residual_layer_norm),
    ("residual_layer_norm", layer_norm),
    ("residual_layer_norm_backward", residual_layer_norm_backward),
    ("residual_layer_norm_backward", layer_norm_backward),
    ("bias_gelu", bias_gelu),
    ("bias_gelu", bias_gelu_with_derivative),
    ("bias_gelu_backward", bias_gelu_backward),
    ("qkv_bias", qkv_bias),
    ("qkv_bias_backward", qkv_bias_backward),
    ("qkv_bias_rotate", qkv_bias_rotate),
    ("qkv_bias_rotate", qkv_bias_rotate_after_prefix),
    ("qkv_bias_rotate", qkv_bias_rotate_by_head),
    ("qkv_bias_rotate_backward", qkv_bias_rotate_backward),
    ("qkv_bias_rotate_backward", qkv_bias_rotate_backward_after_prefix),
    ("qkv_bias_rotate_backward", qkv_bias_rotate_backward_by_head),
    ("rotation_gradient", rotation_gradient),
    ("rotation_gradient", rotation_gradient_after_prefix),
    ("add_score_bias", add_score_bias),
    ("add_score_bias", add_score_bias_of_all_runs),
    ("score_bias_gradient", score_bias_gradient),
    ("qkv_bias_turn", qkv_bias_turn),
    ("qkv_bias_turn", qkv_bias_turn_of_all_heads),
    ("qkv_bias_turn", qkv_bias_turn_by_eight),
    ("qkv_bias_turn_backward", qkv_bias_turn_backward),
    ("qkv_bias_turn_backward", qkv_bias_turn_backward_of_all_heads),
    ("qkv_bias_turn_backward", qkv_bias_turn_backward_by_eight),
    ("add_to_queries", add_to_queries),
    ("add_relative_scores", add_relative_scores),
    ("add_relative_scores", add_relative_scores_after_prefix),
    ("relative_scores_gradient", relative_scores_gradient),
    ("relative_scores_gradient", relative_scores_gradient_after_prefix),
    ("add_branch", add_branch),
    ("add_depthwise_conv", add_depthwise_conv),
    ("add_depthwise_conv", add_depthwise_conv_after_prefix),
    ("add_depthwise_conv_backward", add_depthwise_conv_backward),
    ("add_depthwise_conv_backward", add_depthwise_conv_backward_after_prefix),
    ("softmax", softmax),
    ("softmax_backward", softmax_backward),
    ("cross_entropy", cross_entropy),
    ("add", add),
    ("sum_of_squares", sum_of_squares),
    ("adamw", adamw),
    ("adamw", adamw_late),
]
"""Overridden method, and what makes a case of it from (draw, images, tokens, width) or (..., heads, head width)."""

CUDA_CASES = [*CASES, ("rotation_gradient", rotation_gradient_with_bias)]
"""With what only fused attention calls, which the CPU backend does not have."""

NAMES = [make.__name__ for _, make in CASES]
BY_HEAD = ("qkv", "rotation", "score", "relative", "add_score", "add_relative", "add_to_queries")
"""Beginnings of the names of methods whose cases have heads and a head width."""


def cases_of(method: str, make: Maker, runs: int) -> list[Case]:
    """The case in every shape."""
    if method.startswith(BY_HEAD):
        sizes: list[tuple[int, ...]] = [(2, 5, *heads) for heads in HEADS]
    else:
        sizes = [*SHAPES]
    return [make(Draw(runs, seed), *size) for seed, size in enumerate(sizes)]
