"""The checks, and their results in words."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from vit.backend.numpy_ops import NumpyOps
from vit.backend.ops import Ops
from vit.config import ViTConfig
from vit.engine import AdamWConfig, Engine
from vit.errors import ConfigError
from vit.lane import Lane
from vit.model import ViT, attention_is_fusible, capture_error, capture_problem, layout, one_hot
from vit.position_checks.gradients import check_gradients
from vit.position_checks.models import (
    IMAGES,
    POOLS,
    Array,
    Failure,
    Pass,
    by_percent,
    declared_names,
    difference,
    images_of,
    small_configs,
    trial_model,
    upstream_of,
)
from vit.positions import encoding, own

Status = Literal["pass", "fail", "note"]

OTHER_GRID = (4, 6)
SHOWN = 4
"""Parameters that are named."""
SAME, SAME_GRADIENT = 1e-9, 1e-7
"""Tolerances of values and gradients that are computed in two ways, relative to the largest value of an array."""
NEGLIGIBLE = 1e-7
"""Gradients below this are rounding errors, such as that of a bias that all scores share."""


@dataclass(frozen=True)
class CheckResult:
    """Outcome of a check, in words."""

    name: str
    status: Status
    text: str


def check_position(text: str) -> Iterator[CheckResult]:
    """Yield the results of all checks of an encoding. Raises ConfigError if there is no such encoding."""
    kinds = [type(part) for part in encoding(text).parts]
    try:
        configs, remarks = small_configs(text)
    except ConfigError as error:
        yield CheckResult("model", "fail", f"no small model is supported: {error}")
        return
    except Exception as error:
        yield CheckResult("model", "fail", f"check raises {own.describe_error(error, kinds)}")
        return
    shown = next(iter(configs.values()))
    size = f"{shown.grid} x {shown.grid} patches, width {shown.width}, {shown.heads} heads, {shown.depth} blocks"
    pools = "with and without a class token" if len(configs) > 1 else POOLS[shown.pool]
    yield CheckResult("model", "note", f"{size}, {pools}")
    yield from (CheckResult("model", "note", remark) for remark in remarks)
    checks: list[tuple[str, Callable[[Mapping[str, ViTConfig]], str]]] = [
        ("parameters", _parameters),
        ("gradients", _each(check_gradients, "equal central differences")),
        ("images apart", _each(_images, "an image has the same result in a batch and alone, the first time and later")),
        ("parameters are read", _each(_reads, "hooks follow parameters that change after they are made")),
        ("runs apart", _each(_runs, "three runs trained together equal the same three alone")),
        ("threads", _threads),
        ("reference operations", _each(_reference, "the CPU kernels equal the reference operations")),
        ("saved weights", _each(_state, "a model with loaded weights has the same results")),
        ("another grid", _other_grid),
    ]
    for name, check in checks:
        result = _result(name, kinds, lambda check=check: check(configs))  # type: ignore[misc]
        yield result
        if name == "parameters" and result.status == "fail":
            return
    yield _captured(configs, kinds)
    yield _on_gpu(shown, kinds)


def _result(name: str, kinds: Sequence[Any], check: Callable[[], str]) -> CheckResult:
    try:
        with np.errstate(all="ignore"):
            return CheckResult(name, "pass", check())
    except Failure as failure:
        return CheckResult(name, "fail", str(failure))
    except Exception as error:
        return CheckResult(name, "fail", f"raises {own.describe_error(error, kinds)}")


def _each(check: Callable[[ViTConfig], None], passed: str) -> Callable[[Mapping[str, ViTConfig]], str]:
    """Return a check of every pooling."""

    def all_pools(configs: Mapping[str, ViTConfig]) -> str:
        for pool, config in configs.items():
            try:
                check(config)
            except Failure as failure:
                raise Failure(f"{failure} ({POOLS[pool]})") from None
        return passed

    return all_pools


def _parameters(configs: Mapping[str, ViTConfig]) -> str:
    config = next(iter(configs.values()))
    declared = encoding(config.position).declare(config)
    names = [parameter.name for parameter in declared]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise Failure(f"declare returns {twice[0]} twice; each parameter must have a name of its own")
    others = layout(replace(config, position="none")).parameters
    if taken := [name for name in names if name in others]:
        raise Failure(f"declare returns {taken[0]}, which is the name of another parameter of the model")
    if not names:
        return "the encoding has none"
    model = ViT(config, NumpyOps("float64"), [1])
    for name in names:
        if not np.isfinite(model.parameters[name]).all():
            raise Failure(f"the initial values of {name} are not finite")
    shown = [f"{p.name} ({', '.join(map(str, p.shape))})" for p in declared[:SHOWN]]
    return ", ".join(shown) + (f" and {len(declared) - SHOWN} more" if len(declared) > SHOWN else "")


def _images(config: ViTConfig) -> None:
    model = trial_model(config)
    one = Pass.of(model)
    images, others = images_of(config, 2), images_of(config, 2, seed=1)
    first = one.logits(images)
    upstream = upstream_of(first.shape)
    gradients = one.gradients(upstream)
    one.logits(others)
    one.gradients(upstream)
    again = one.logits(images)
    if (found := difference(again, first)) > SAME:
        raise Failure(
            f"a pass on the same images differs {by_percent(found)} after a pass on others: a hook keeps state"
        )
    for name, gradient in one.gradients(upstream).items():
        if np.abs(gradients[name]).max() > NEGLIGIBLE and difference(gradient, gradients[name]) > SAME_GRADIENT:
            raise Failure(f"the gradient of {name} differs in a second pass: a hook keeps state or adds to it")
    sums: dict[str, Array] = {}
    for i in range(IMAGES):
        alone = one.logits(images[:, i : i + 1])
        if (found := difference(alone, first[:, i : i + 1])) > SAME:
            raise Failure(f"an image alone has other logits than in a batch, {by_percent(found)}: images are mixed")
        for name, gradient in one.gradients(upstream[:, i : i + 1]).items():
            sums[name] = sums.get(name, 0) + gradient
    for name, gradient in gradients.items():
        if not np.isfinite(gradient).all():
            continue  # reported by the check of gradients
        if np.abs(gradient).max() > NEGLIGIBLE and (found := difference(sums[name], gradient)) > SAME_GRADIENT:
            raise Failure(f"the gradient of {name} over a batch is not the sum over its images, {by_percent(found)}")


def _reads(config: ViTConfig) -> None:
    model, images = trial_model(config), images_of(config, 2)
    before = Pass.of(model)
    before.logits(images)
    for i, name in enumerate(sorted(declared_names(config))):
        place = model.parameters[name]
        largest = float(np.abs(place).max(initial=0.0)) or 1.0
        place += 0.2 * largest * np.random.default_rng((6, i)).normal(size=place.shape)
    actual, expected = before.logits(images), Pass.of(model).logits(images)
    if (found := difference(actual, expected)) > SAME:
        raise Failure(
            f"after the parameters change, hooks made before differ {by_percent(found)} from new ones: they keep "
            "values that were computed from parameters when they were made; keep views, or use `derive`"
        )


def _runs(config: ViTConfig) -> None:
    seeds = (1, 2, 3)
    images = images_of(config, len(seeds))
    together = Pass.of(trial_model(config, seeds))
    logits = together.logits(images)
    upstream = upstream_of(logits.shape)
    gradients = together.gradients(upstream)
    for run, seed in enumerate(seeds):
        alone = Pass.of(trial_model(config, (seed,)))
        if (found := difference(logits[run : run + 1], alone.logits(images[run : run + 1]))) > SAME:
            raise Failure(
                f"run {run + 1} of three trained together has other logits than alone, {by_percent(found)}: arrays of "
                "parameters begin with the axis of runs, (R, ...)"
            )
        for name, expected in alone.gradients(upstream[run : run + 1]).items():
            if not np.isfinite(expected).all():
                continue
            found = difference(gradients[name][run : run + 1], expected)
            if np.abs(expected).max() > NEGLIGIBLE and found > SAME_GRADIENT:
                raise Failure(
                    f"the gradient of {name} in run {run + 1} of three trained together differs from that of the run "
                    f"alone, {by_percent(found)}"
                )


def _threads(configs: Mapping[str, ViTConfig]) -> str:
    config = list(configs.values())[-1]
    size, seeds = 24, (1, 2)
    images = images_of(config, len(seeds), size).astype("float32")
    labels = np.random.default_rng(7).integers(config.classes, size=(len(seeds), size))
    targets = one_hot(labels, config.classes).astype("float32")
    results = []
    for threads in (1, 2, 3):
        model = trial_model(config, seeds, "float32")
        engine = Engine(model, AdamWConfig(), batch_size=size, threads=threads)
        try:
            losses = [engine.step(images, targets, 1e-3) for _ in range(2)]
        finally:
            engine.close()
        results.append([*losses, model.parameters.flat])
    for threads, other in zip((2, 3), results[1:], strict=True):
        if not all(map(np.array_equal, results[0], other)):
            raise Failure(
                f"training with {threads} threads gives other bits than with one: hooks must keep their arrays in the "
                "workspace, and share none between networks"
            )
    return "the same bits with 1, 2 and 3 threads"


def _reference(config: ViTConfig) -> None:
    model, images = trial_model(config), images_of(config, 2)
    actual, expected = Pass.of(model), Pass.of(model, ops=Ops(np, "float64"))
    logits = expected.logits(images)
    if (found := difference(actual.logits(images), logits)) > SAME:
        raise Failure(f"logits differ from those of the reference operations {by_percent(found)}")
    upstream = upstream_of(logits.shape)
    gradients = actual.gradients(upstream)
    for name, reference in expected.gradients(upstream).items():
        if not np.isfinite(reference).all() or np.abs(reference).max() < NEGLIGIBLE:
            continue
        if (found := difference(gradients[name], reference)) > SAME_GRADIENT:
            raise Failure(f"the gradient of {name} differs from that of the reference operations {by_percent(found)}")


def _state(config: ViTConfig) -> None:
    model, images = trial_model(config, (1,)), images_of(config, 1)
    state = model.state_dict()
    other = ViT(config, NumpyOps("float64"), [9])
    other.load_state_dict(state)
    if (found := difference(other.forward(images), model.forward(images))) > SAME:
        raise Failure(f"a model with the weights of another differs from it {by_percent(found)}")
    model.loss_and_gradients(images, np.zeros((1, IMAGES), dtype=int))
    if model.gradients().keys() != state.keys():
        raise Failure("external_state must return the same names for weights and for gradients")


def _other_grid(configs: Mapping[str, ViTConfig]) -> str:
    config = list(configs.values())[-1]
    small, large = OTHER_GRID
    name = f"weights of {small} x {small} patches"
    try:
        trained, target = (replace(config, image_size=2 * grid) for grid in OTHER_GRID)
    except ConfigError as error:
        return f"not supported: {error}"
    state = trial_model(trained, (1,)).state_dict()
    model = ViT(target, NumpyOps("float64"), [1])
    try:
        model.load_state_dict(state)
    except ConfigError as error:
        if "\n" in str(error):
            raise Failure(f"the refusal of {name} must be one line, got {str(error)!r}") from error
        return f"{name} are refused by a model of {large} x {large}: {error}"
    if not np.isfinite(model.forward(images_of(target, 1))).all():
        raise Failure(f"with {name}, the logits of a model of {large} x {large} are not finite")
    return f"{name} work in a model of {large} x {large} ({encoding(config.position).other_grids[0]})"


def _captured(configs: Mapping[str, ViTConfig], kinds: Sequence[Any]) -> CheckResult:
    """Compare replays of a captured program with direct passes, also with other images and parameters."""
    config = list(configs.values())[-1]
    name = "captured program"
    try:
        if problem := capture_problem(config, "numpy"):
            return CheckResult(
                name,
                "note",
                f"not captured, because of {problem}{_place(config, 'numpy', kinds)}: correct, but training is slower "
                "on a CPU; methods of `ops` and tables from `derive` are captured",
            )
    except Exception as error:
        return CheckResult(name, "fail", f"raises {own.describe_error(error, kinds)}")

    def replays() -> str:
        model = trial_model(config)
        lane, direct = Lane(model, IMAGES), Pass.of(model)
        labels = np.random.default_rng(8).integers(config.classes, size=(2, IMAGES))
        targets = one_hot(labels, config.classes)
        for attempt in range(3):
            images = images_of(config, 2, seed=attempt)
            expected = direct.logits(images)
            direct.network.load(images, targets)
            losses = np.array(direct.network.train(0.5))
            gradients = direct.network.workspace.gradients.flat.copy()
            pairs = [
                ("logits", lane.logits(images), expected),
                ("losses", lane.train(images, targets, 0.5, None), losses),  # type: ignore[arg-type]
                ("gradients", lane.gradient, gradients),
            ]
            for what, actual, value in pairs:
                if np.isfinite(value).all() and (found := difference(actual, value)) > SAME:
                    raise Failure(
                        f"{what} of a captured program differ from those of a direct pass {by_percent(found)}"
                    )
            for parameter in model.parameters.values():
                parameter *= 1.05
        return "a replay equals a direct pass, also after images and parameters change"

    return _result(name, kinds, replays)


def _on_gpu(config: ViTConfig, kinds: Sequence[Any]) -> CheckResult:
    """Describe how a GPU runs the encoding; found out without one."""
    try:
        problem = capture_problem(config, "cupy")
        fused = attention_is_fusible(config)
    except Exception as error:
        return CheckResult("on a GPU", "fail", f"raises {own.describe_error(error, kinds)}")
    if problem:
        return CheckResult(
            "on a GPU",
            "note",
            f"correct, but slower: {problem}{_place(config, 'cupy', kinds)} is outside the kernels, and bf16 is not "
            "available",
        )
    attention = "attention is one fused kernel" if fused else "attention is not fused"
    return CheckResult("on a GPU", "note", f"all in kernels, a step is one CUDA graph; {attention}")


def _place(config: ViTConfig, backend: str, kinds: Sequence[Any]) -> str:
    """Return where the encoding does what cannot be captured: ` (mine.py, line 7)`, or an empty string."""
    error = capture_error(config, backend)
    place = own.place_of(error, kinds) if error else None
    return f" ({place})" if place else ""
