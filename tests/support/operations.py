"""A case for every operation that the CPU backend overrides: its arguments, and which of them it may write."""

from collections.abc import Callable

import numpy as np

from tests.support import encoding_operations as encoding
from tests.support.cases import Case, Draw

SHAPES = [(1, 1, 1), (2, 5, 3), (3, 4, 17), (1, 3, 63), (2, 7, 65)]
"""Images, tokens, width."""
HEADS = [(1, 4), (3, 8), (2, 20)]
"""Heads and head width of a case about attention, which has them in place of the width."""


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
    ("qkv_bias", encoding.qkv_bias),
    ("qkv_bias_backward", encoding.qkv_bias_backward),
    ("qkv_bias_rotate", encoding.qkv_bias_rotate),
    ("qkv_bias_rotate", encoding.qkv_bias_rotate_after_prefix),
    ("qkv_bias_rotate", encoding.qkv_bias_rotate_by_head),
    ("qkv_bias_rotate_backward", encoding.qkv_bias_rotate_backward),
    ("qkv_bias_rotate_backward", encoding.qkv_bias_rotate_backward_after_prefix),
    ("qkv_bias_rotate_backward", encoding.qkv_bias_rotate_backward_by_head),
    ("rotation_gradient", encoding.rotation_gradient),
    ("rotation_gradient", encoding.rotation_gradient_after_prefix),
    ("add_score_bias", encoding.add_score_bias),
    ("add_score_bias", encoding.add_score_bias_of_all_runs),
    ("score_bias_gradient", encoding.score_bias_gradient),
    ("qkv_bias_turn", encoding.qkv_bias_turn),
    ("qkv_bias_turn", encoding.qkv_bias_turn_of_all_heads),
    ("qkv_bias_turn", encoding.qkv_bias_turn_by_eight),
    ("qkv_bias_turn_backward", encoding.qkv_bias_turn_backward),
    ("qkv_bias_turn_backward", encoding.qkv_bias_turn_backward_of_all_heads),
    ("qkv_bias_turn_backward", encoding.qkv_bias_turn_backward_by_eight),
    ("add_to_queries", encoding.add_to_queries),
    ("add_relative_scores", encoding.add_relative_scores),
    ("add_relative_scores", encoding.add_relative_scores_after_prefix),
    ("relative_scores_gradient", encoding.relative_scores_gradient),
    ("relative_scores_gradient", encoding.relative_scores_gradient_after_prefix),
    ("add_branch", encoding.add_branch),
    ("add_depthwise_conv", encoding.add_depthwise_conv),
    ("add_depthwise_conv", encoding.add_depthwise_conv_after_prefix),
    ("add_depthwise_conv_backward", encoding.add_depthwise_conv_backward),
    ("add_depthwise_conv_backward", encoding.add_depthwise_conv_backward_after_prefix),
    ("softmax", softmax),
    ("softmax_backward", softmax_backward),
    ("cross_entropy", cross_entropy),
    ("add", add),
    ("sum_of_squares", sum_of_squares),
    ("adamw", adamw),
    ("adamw", adamw_late),
]
"""Overridden method, and what makes a case of it from (draw, images, tokens, width) or (..., heads, head width)."""

CUDA_CASES = [*CASES, ("rotation_gradient", encoding.rotation_gradient_with_bias)]
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
