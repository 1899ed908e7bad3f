"""Cases of the operations on queries and keys, and of those that encodings use."""

import math

import numpy as np

from tests.support.cases import Case, Draw


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
