"""The gradient of every parameter of a model against central differences."""

from collections.abc import Sequence

import numpy as np

from vit.config import ViTConfig
from vit.position_checks.models import (
    Array,
    Failure,
    Pass,
    by_percent,
    declared_names,
    images_of,
    trial_model,
    upstream_of,
)
from vit.positions import encoding

STEPS = {1e-4: 1e-6, 1e-6: 1e-5}
"""Tolerances of gradients by the step of the differences. Small steps are for functions with kinks, such as ReLU."""
OFFSETS, STENCIL = np.array([-2.0, -1.0, 1.0, 2.0]), np.array([1.0, -8.0, 8.0, -1.0]) / 12
"""Of the central difference of fourth order."""


def check_gradients(config: ViTConfig) -> None:
    """Raise Failure if a gradient of random upstream is wrong."""
    model = trial_model(config)
    one = Pass.of(model)
    images = images_of(config, 2)
    logits = one.logits(images)
    if not np.isfinite(logits).all():
        raise Failure("the logits are not finite")
    upstream = upstream_of(logits.shape)
    gradients = one.gradients(upstream)
    own_parameters = declared_names(config)
    rng = np.random.default_rng(5)
    wrong: dict[str, str] = {}

    def slope(place: Array, direction: Array, step: float) -> float:
        start, values = place.copy(), []
        for offset in OFFSETS:
            place[...] = start + step * offset * direction
            values.append(float(np.sum(one.logits(images) * upstream)))
        place[...] = start
        return float(STENCIL @ np.array(values)) / step

    for name, place in model.parameters.items():
        along = _directions(place.shape, rng)
        for step, tolerance in STEPS.items():
            slopes = np.array([slope(place, direction, step) for direction in along])
            problem = _compare_gradient(gradients[name], along, slopes, tolerance)
            if problem is None:
                wrong.pop(name, None)
                break
            wrong[name] = problem
    model.derive()
    if not wrong:
        return
    if found := [name for name in wrong if name in own_parameters]:
        text = "; ".join(f"the gradient of {name} {wrong[name]}" for name in found)
        others = len(wrong) - len(found)
        more = f", and those of {others} other parameters of the model" if others else ""
        raise Failure(text + more + _shared_gradient(one))
    name = _last_in_backward(list(wrong))
    raise Failure(
        f"the gradients of {len(wrong)} parameters of the model are wrong, that of {name} {wrong[name]}: a backward "
        "hook does not pass on the right gradient"
    )


def _shared_gradient(one: Pass) -> str:
    """Return a hint if several blocks overwrite one gradient; otherwise an empty string."""
    hooks = encoding(one.model.config.position).hooks(one.model.config, one.network.workspace).blocks
    for name in ("rotation.dangles", "score_bias.dbias"):
        holder, gradient = name.split(".")
        arrays = [getattr(getattr(hook, holder), gradient, None) for hook in hooks]
        given = [array for array in arrays if array is not None]
        if any(np.shares_memory(a, b) for i, a in enumerate(given) for b in given[:i]):
            return f"; the blocks share one {gradient}, which each of them overwrites: give each block its own"
    return ""


def _directions(shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Return two random directions and two coordinates."""
    size = int(np.prod(shape))
    coordinates = np.zeros((2, size))
    coordinates[[0, 1], rng.choice(size, size=2, replace=size < 2)] = 1.0
    return np.concatenate([rng.normal(size=(2, *shape)), coordinates.reshape(2, *shape)])


def _compare_gradient(gradient: Array, along: Array, expected: Array, tolerance: float) -> str | None:
    """Return what is wrong with a gradient, given the slopes along some directions; None if nothing is."""
    if np.isnan(gradient).all():
        return "is not written by any backward pass"
    if not np.isfinite(gradient).all():
        return "is written in part only, or is not finite"
    found = np.array([np.sum(gradient * direction) for direction in along])
    scale = max(float(np.linalg.norm(gradient)), float(np.abs(expected).max()), 1e-4)
    if np.abs(found - expected).max() <= tolerance * scale:
        return None
    if not gradient.any():
        return "is zero, but the result depends on it"
    if np.abs(expected).max() <= tolerance * scale:
        return "is not zero, but the result of a pass does not depend on it"
    ratio = float(found @ expected / (expected @ expected))
    if np.abs(found - ratio * expected).max() <= 1e-3 * abs(ratio) * np.abs(expected).max():
        return "has the wrong sign" if abs(ratio + 1) < 1e-3 else f"is {ratio:.4g} times the right one"
    return f"is wrong {by_percent(float(np.abs(found - expected).max() / np.abs(expected).max()))}"


def _last_in_backward(names: Sequence[str]) -> str:
    """Return the parameter whose gradient is computed first among these: what acts after it is right."""
    blocks = [name for name in names if name.startswith("blocks.")]
    return max(blocks, key=lambda name: int(name.split(".")[1])) if blocks else names[0]
