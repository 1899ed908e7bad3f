"""Correctness checks of a device: operations, random draws, gradients, stacks, training, and captured work.

A check compares an error with its limit. `python -m benchmarks.gpu` and the tests marked `gpu` run the checks on a GPU.
Other tests run them on the CPU with the same kernels and engine. The reference is `Ops` in float64 on NumPy, which
needs no compiler. It needs SciPy for the error function, and Pillow for the augmentation of images.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from types import ModuleType

import numpy as np

from tests.support.cases import KEPT, Case
from tests.support.operations import CUDA_CASES, cases_of
from vit import ViT, ViTConfig, one_hot
from vit.backend import Array, Ops
from vit.backend.cuda.ops import CudaOps
from vit.graph_engine import AdamWConfig, DeviceAugmentation, GraphEngine
from vit.optim import AdamW
from vit.positions import POSITIONS

ENCODINGS = (*POSITIONS, "rope(base=10)", "cpe(where=each)", "lie-rope(block=16, heads=shared)", "rope+learned")
"""Every encoding, those with options that change its kernels, and a sum."""
LIMITS = {"float32": 2e-5, "tf32": 2e-3, "bf16": 1.6e-2}
"""Maximum error of an operation, relative to the largest magnitude: a few rounding errors of float32, TF32 or bf16."""
GRADIENT_LIMITS = {"float32": 1e-4, "tf32": 2e-2, "bf16": 8e-2}
LOSS_LIMITS = {"float32": 1e-4, "tf32": 2e-3, "bf16": 2e-2}
OWN_LAUNCH = ("sum_of_squares", "adamw")
"""Operations that are launched separately in a graph. The losses of ten training steps check them."""
ATTENTIONS = ((2, 17, 2, 16), (1, 65, 3, 32), (2, 5, 1, 64), (1, 65, 1, 64), (1, 144, 1, 32), (1, 160, 1, 64))
ATTENTIONS += ((1, 256, 1, 64),)
"""Images, tokens, heads, head width. Tiles are incomplete, or shared memory is near the default limit of a block."""
RECIPES = {
    "crop, flip": DeviceAugmentation(2, True),
    "erase": DeviceAugmentation(2, True, erase=0.5),
    "trivial augment": DeviceAugmentation(2, True, trivial_augment=True),
    "mixup": DeviceAugmentation(mixup=0.8),
    "cutmix": DeviceAugmentation(cutmix=1.0),
}
BIASES = ("relative-bias", "relative-bias-mlp")
"""Encodings whose gradients are checked without a class token. If only that is pooled, their gradients in the last
block are small differences of large numbers, which bf16 rounds."""
LEVELS_OFF = 5e-3
"""Maximum share of pixels whose level may differ from that of the host with TrivialAugment, because of rounding."""

ROUNDED = {
    "matmul": ("a", "b"),
    "residual_layer_norm": ("branch", "out"),
    "residual_layer_norm_backward": ("dout",),
    "bias_gelu": ("x", "out"),
    "bias_gelu_backward": ("dy", "derivative"),
    "qkv_bias": ("qkv",),
    "qkv_bias_backward": ("dqkv",),
    "qkv_bias_rotate": ("qkv",),
    "qkv_bias_rotate_backward": ("dqkv",),
    "rotation_gradient": ("qkv", "dqkv"),
    "add_score_bias": ("scores",),
    "score_bias_gradient": ("dscores",),
    "add_relative_scores": ("scores", "products"),
    "relative_scores_gradient": ("dscores", "out"),
    "add_to_queries": ("dqkv", "dqueries"),
    "qkv_bias_turn": ("qkv",),
    "qkv_bias_turn_backward": ("qkv", "dqkv"),
    "add_branch": ("branch",),
    "softmax": ("x",),
    "softmax_backward": ("dy", "y"),
    "mean_tokens": ("x", "out"),
    "mean_tokens_backward": ("dy", "out"),
    "cross_entropy": ("dlogits",),
}
"""Arguments that are operands of matrix products. They are bf16 if the products are computed in bf16."""


@dataclass(frozen=True)
class Check:
    """Result of a comparison: the error and its limit."""

    name: str
    error: float
    limit: float

    @property
    def passed(self) -> bool:
        return self.error <= self.limit  # False for NaN


def operations(ops: CudaOps, runs: int = 2) -> Iterator[Check]:
    """Compare every operation with float64 `Ops` on the same arrays, rounded as on the device."""
    yield from prepared(ops, lambda: _operations(ops, runs))


def prepared(ops: CudaOps, checks: Callable[[], Iterator[Check]]) -> Iterator[Check]:
    """Compile all kernels of the checks together, and return the checks. A run without launches finds the kernels."""
    with np.errstate(all="ignore"):
        ops.load_kernels(lambda: list(checks()))
    return checks()


def _operations(ops: CudaOps, runs: int) -> Iterator[Check]:
    for method, make in CUDA_CASES:
        if method not in OWN_LAUNCH:
            cases = cases_of(method, make, runs)
            yield Check(make.__name__, max(errors(ops, method, cases)), LIMITS[ops.precision])
    for position in ("none", "rope", "bias"):
        worst = max(attention_error(ops, position, 2, *size) for size in ATTENTIONS)
        yield Check(f"attention, {position}", worst, 2 * LIMITS[ops.precision])


def errors(ops: CudaOps, method: str, cases: Sequence[Case]) -> Iterator[float]:
    """Yield the errors of an operation, one for each array that it writes."""
    narrow = ROUNDED.get(method, ()) if ops.rounds_operands else ()
    for case in cases:
        held = {name: on_device(ops, array, name in narrow, name) for name, array in case.arrays.items()}
        exact = Case({name: from_device(ops, array) for name, array in held.items()}, case.written, case.other)
        expected = exact.run(reference(), method)
        getattr(ops, method)(**held, **case.other)
        amplified = expected.arrays.get("rstd", np.ones(1)).max()  # a small divisor amplifies rounding errors
        for name in case.written:
            value = expected.arrays[name]
            yield float(np.abs(from_device(ops, held[name]) - value).max() / max(amplified, np.abs(value).max()))


def on_device(ops: CudaOps, array: Array, narrow: bool, name: str = "") -> Array:
    """Return a float64 host array as a device array, in the type of operands if `narrow`."""
    if name in KEPT:
        return ops.xp.asarray(array)
    wide = ops.xp.asarray(array.astype(np.float32))
    if not narrow:
        return wide
    operand = ops.empty_operand(array.shape)
    with np.errstate(invalid="ignore"):
        ops.round_operand(wide, operand)
    return operand


def from_device(ops: CudaOps, array: Array) -> np.ndarray:
    """Return a device array as float64 on the host. bf16 arrays are uint16 with the same bits."""
    host = np.ascontiguousarray(ops.to_numpy(array))
    if host.dtype == np.uint16:
        host = (host.astype(np.uint32) << 16).view(np.float32)
    return host.astype(np.float64)


def attention_error(ops: CudaOps, position: str, runs: int, batch: int, tokens: int, heads: int, width: int) -> float:
    """Return the largest error of fused attention and its gradients, with one class token.

    `position` is "none", "rope" (angles of each run and head) or "bias" (a bias of the scores, with its gradient).
    """
    rng, exactly = np.random.default_rng(11), reference()
    angles = rng.normal(size=(runs, heads, tokens - 1, width // 2))
    cos, sin = (np.cos(angles), np.sin(angles)) if position == "rope" else (None, None)
    score_bias = rng.normal(size=(runs, heads, tokens, tokens)) if position == "bias" else None
    shape = (runs, batch, tokens, 3, heads, width)
    qkv, dout = rng.normal(size=shape), rng.normal(size=(*shape[:3], heads * width))
    held, dheld = (on_device(ops, x, ops.rounds_operands) for x in (qkv, dout))
    bias = rng.normal(size=(runs, 3 * heads * width))
    wide = [None if x is None else on_device(ops, x, narrow=False) for x in (bias, cos, sin, score_bias)]
    scale = width**-0.5
    made: dict[str, Array] = {"out": ops.empty_operand(dout.shape), "logsumexp": ops.empty((*shape[:2], heads, tokens))}
    made |= {"dqkv": ops.empty_operand(shape), "dbias": ops.empty(bias.shape)}
    made["dscore_bias"] = None if score_bias is None else ops.empty(score_bias.shape)
    _both_passes(ops, held, wide, scale, dheld, made)
    wanted = {name: None if x is None else np.empty(x.shape) for name, x in made.items()}
    exact = [None if x is None else from_device(ops, x) for x in (held, *wide, dheld)]
    _both_passes(exactly, exact[0], exact[1:-1], scale, exact[-1], wanted)
    return max(distance(from_device(ops, made[name]), x) for name, x in wanted.items() if x is not None)


def _both_passes(
    ops: Ops, qkv: Array, wide: Sequence[Array], scale: float, dout: Array, made: dict[str, Array]
) -> None:
    """Compute fused attention and its gradients. `wide` are the bias, cosines, sines and bias of the scores."""
    bias, cos, sin, score_bias = wide
    forward, out, logsumexp = (qkv, bias, scale, cos, sin, 1, score_bias), made["out"], made["logsumexp"]
    ops.attention(*forward, out=out, logsumexp=logsumexp)
    gradients = {name: made[name] for name in ("dqkv", "dbias", "dscore_bias")}
    ops.attention_backward(dout, *forward, out, logsumexp, **gradients)


def draws(ops: CudaOps) -> Iterator[Check]:
    """Compare batches and dropout with a host implementation that uses the same random draws."""
    yield from prepared(ops, lambda: each_draw(ops))


def each_draw(ops: CudaOps) -> Iterator[Check]:
    limit = LIMITS[ops.precision]
    for bias in (True, False):
        yield Check(f"dropout, {'with' if bias else 'no'} bias", _dropout_error(ops, bias), limit)
    for name, recipe in RECIPES.items():
        error = loading_error(ops, recipe)
        yield Check(f"load_batch, {name}", error, LEVELS_OFF if recipe.trivial_augment else limit)
    yield Check(
        "load_batch, large images", loading_error(ops, DeviceAugmentation(4, True, erase=1.0), 128, 128, 2), limit
    )


def _dropout_error(ops: CudaOps, bias: bool) -> float:
    from tests.support.draws import dropped

    rng = np.random.default_rng(23)
    x = on_device(ops, rng.normal(size=(2, 3, 5, 48)), ops.rounds_operands)
    added = on_device(ops, rng.normal(size=(2, 48)), narrow=False) if bias else None
    drawn = {"rate": 0.3, "path_rate": 0.2, "site": 9}
    state = {"seeds": np.array([3, 2**33 + 1]), "step": np.array([4], dtype=np.int32)}
    out = ops.empty_operand(x.shape)
    ops.dropout(x, added, **drawn, **{name: ops.xp.asarray(value) for name, value in state.items()}, out=out)
    exact = (from_device(ops, x), None if added is None else from_device(ops, added))
    return distance(from_device(ops, out), dropped(*exact, **drawn, **state))  # type: ignore[arg-type]


def loading_error(ops: CudaOps, recipe: DeviceAugmentation, size: int = 12, patch: int = 4, batch: int = 6) -> float:
    """Return the largest error of patches and targets.

    TrivialAugment rounds its levels. With it, return instead the share of patch elements with an error of more than
    half a level, if the targets are correct.
    """
    from tests.support.draws import loaded

    rng, runs, classes = np.random.default_rng(size), 2, 7
    images = rng.integers(0, 256, size=(3 * batch, size, size, 3), dtype=np.uint8)
    images[::3] = 90 + images[::3] // 4  # a reduced range of levels
    data = (images, rng.integers(0, classes, len(images)).astype(np.int32))
    state = (np.stack([rng.permutation(len(images)) for _ in range(runs)]).astype(np.int32), np.array([4], np.int32))
    named = {"mean": rng.uniform(0.3, 0.6, (runs, 3)), "std": rng.uniform(0.1, 0.3, (runs, 3))}
    named = {name: value.astype(np.float32) for name, value in named.items()}
    named |= {"seeds": np.array([5, 2**35 + 1]), "smoothing": np.array([0.1, 0.0], np.float32)}
    plain = {"steps_per_epoch": 3, "patch": patch, **asdict(recipe)}
    shape = (runs, batch, (size // patch) ** 2, 3 * patch**2)
    patches = ops.empty(shape) if recipe.trivial_augment else ops.empty_operand(shape)
    targets = ops.empty((runs, batch, classes))
    held = [ops.xp.asarray(array) for array in (*data, *state)]
    held_named = {name: ops.xp.asarray(value) for name, value in named.items()}
    ops.kernels.load_batch(*held, **plain, **held_named, patches=patches, targets=targets)
    wanted = loaded(*data, *state, batch, classes, **plain, **named)
    errors = [distance(from_device(ops, got), exact) for got, exact in zip((patches, targets), wanted, strict=True)]
    if recipe.trivial_augment and errors[1] <= LIMITS["float32"]:
        off = np.abs(from_device(ops, patches) - wanted[0]) * 255 * float(named["std"].min())
        return float((off > 0.5).mean()) if np.isfinite(off).all() else float("nan")
    return float(np.max(errors))  # NaN if any is NaN


def small(position: str, **changes: object) -> ViTConfig:
    """Return the configuration of a small model whose sizes do not fill tiles: 17 tokens, 7 classes."""
    fields = {
        "image_size": 16,
        "patch_size": 4,
        "channels": 3,
        "classes": 7,
        "width": 32,
        "depth": 2,
        "heads": 2,
        "position": position,
        "pool": "cls",
    }
    return ViTConfig(**fields | changes)  # type: ignore[arg-type]


def images_and_labels(config: ViTConfig, runs: int, batch: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(13)
    side = config.image_size
    images = rng.normal(size=(runs, batch, side, side, config.channels)).astype(np.float32)
    return images, rng.integers(config.classes, size=(runs, batch))


def gradients(ops: CudaOps, positions: Sequence[str] = ENCODINGS) -> Iterator[Check]:
    """Compare the gradients of whole models with float64, by the largest relative error of any array."""
    yield from prepared(ops, lambda: _gradients(ops, positions))


def _gradients(ops: CudaOps, positions: Sequence[str]) -> Iterator[Check]:
    for position in positions:
        config = small(position, pool="mean" if position in BIASES else "cls")
        images, labels = images_and_labels(config, 2, 5)
        ours, exact = (ViT(config, each, seeds=[1, 2]) for each in (ops, reference()))
        for model in (ours, exact):
            for run in range(2):
                model.load_state_dict(_scrambled(exact.state_dict(run), run), run)
        loss, wanted = (model.loss_and_gradients(images, labels) for model in (ours, exact))
        limit = GRADIENT_LIMITS[ops.precision]
        yield Check(f"loss, {position}", distance(from_device(ops, loss), wanted), limit)
        for run in range(2):
            theirs = without_key_bias(exact.gradients(run))
            mine = without_key_bias(ours.gradients(run))
            worst = max(distance(mine[name], theirs[name]) for name in theirs)
            yield Check(f"gradients, {position}, run {run}", worst, limit)


def stacks(ops: CudaOps, runs: int = 8, steps: int = 4) -> Iterator[Check]:
    """Compare the losses of R runs trained as one model with those of each run trained alone, in captured steps."""
    config = small("rope", pool="mean")
    images, labels = images_and_labels(config, runs, 6)
    targets = one_hot(labels, config.classes, 0.1).astype(np.float32)

    def losses(chosen: slice) -> np.ndarray:
        model = ViT(config, ops, seeds=list(range(runs))[chosen])
        engine = GraphEngine(model, AdamWConfig(), images.shape[1])
        steps_made = [engine.step(images[chosen], targets[chosen], 3e-3) for _ in range(steps)]
        return np.stack([from_device(ops, loss) for loss in steps_made])

    alone = np.concatenate([losses(slice(run, run + 1)) for run in range(runs)], axis=1)
    yield Check(f"R={runs} against {runs} x R=1", distance(losses(slice(None)), alone), LOSS_LIMITS[ops.precision])


def training(ops: CudaOps, positions: Sequence[str] = ENCODINGS, steps: int = 10) -> Iterator[Check]:
    """Compare the losses of ten steps with those on NumPy. Includes clipping, AdamW and rounded copies."""
    for position in positions:
        config = small(position)
        images, labels = images_and_labels(config, 1, 6)
        targets = one_hot(labels, config.classes, 0.1).astype(np.float32)
        engine = GraphEngine(ViT(config, ops, seeds=[3]), AdamWConfig(), 6)
        ours = [from_device(ops, engine.step(images, targets, 3e-3)) for _ in range(steps)]
        theirs = reference_losses(ViT(config, reference(), seeds=[3]), images, targets, steps, 3e-3)
        yield Check(f"ten losses, {position}", distance(np.stack(ours), theirs), LOSS_LIMITS[ops.precision])


def reference_losses(model: ViT, images: np.ndarray, targets: np.ndarray, steps: int, rate: float) -> np.ndarray:
    """Train a model by its layers and AdamW alone, on one batch. Return the losses (steps, R)."""
    network, losses = model.network(images.shape[1]), []
    views, rates = network.workspace.gradients, np.full(len(images), rate)
    optimizer = AdamW(model.layout, model.parameters.flat, AdamWConfig(), model.ops)
    for step in range(1, steps + 1):
        model.derive(step)
        network.load(images, targets)
        losses.append(network.train(1 / images.shape[1]).mean(axis=1))
        model.derive_backward(network.workspace.dtables, views)
        optimizer.step = step
        slices = range(len(optimizer.slices))
        scale = optimizer.clip_scale([optimizer.sum_of_squares(views.flat, i) for i in slices])
        for i in slices:
            optimizer.update(views.flat, i, scale, rates)
    return np.stack(losses)


def captured(ops: CudaOps, positions: Sequence[str] = ENCODINGS) -> Iterator[Check]:
    """Compare captured steps and evaluations with those that run as they are. All numbers must be the same bits.

    Batches are gathered, augmented, dropped and averaged, as in an epoch. The first replay of each kind counts, too.
    """
    for position in positions:
        as_they_are, replayed = (_epochs(ops, position, captures=captures) for captures in (False, True))
        for what, expected in as_they_are.items():
            yield Check(f"captured {what}, {position}", distance(replayed[what], expected), 0.0)


def _epochs(ops: CudaOps, position: str, *, captures: bool) -> dict[str, np.ndarray]:
    """Train for two epochs of three steps; return what can differ."""
    config = small(position, dropout=0.1, drop_path=0.2)
    engine = GraphEngine(ViT(config, ops, seeds=[1, 2]), AdamWConfig(), 4, ema=0.9)
    if not captures:
        engine._run = lambda key, work, *kept: work()  # type: ignore[method-assign]
    rng, moments = np.random.default_rng(1), np.full((2, 3), 0.5)
    images = rng.integers(0, 256, (12, 16, 16, 3), dtype=np.uint8)
    data = engine.resident(images, rng.integers(0, config.classes, 12), moments, moments)
    found: dict[str, np.ndarray] = {}
    losses = []
    for epoch in range(2):
        engine.start_epoch(np.stack([rng.permutation(12)] * 2), np.full((2, 3), 1e-3 * (1 + epoch)))
        for _ in range(3):
            engine.train(data, DeviceAugmentation(2, True), 1, 3)
            losses.append(engine.totals)
            found.setdefault("gradient of the first step", from_device(ops, engine.gradient))
    found["losses"] = np.stack(losses)
    order = np.stack([np.arange(11)] * 2)  # 4, 4 and 3 images: the second one is captured, in the second round all are
    logits = [from_device(ops, engine.evaluate(data, order)) for _ in range(2)]
    found["evaluation"] = np.stack(logits)
    names = ("parameters", "first", "second", "average")
    found |= {name: from_device(ops, getattr(engine.optimizer, name)) for name in names}
    engine.close()
    return found


def reference() -> Ops:
    """Return float64 `Ops` on NumPy, without the CPU kernels that encodings use if the library is NumPy itself."""
    library = ModuleType("numpy")
    library.__dict__.update(np.__dict__)
    return Ops(library, "float64")


CHECKS: dict[str, Callable[[CudaOps], Iterator[Check]]] = {
    "operations": operations,
    "draws": draws,
    "gradients": gradients,
    "stacks": stacks,
    "training": training,
    "captured": captured,
}


def distance(actual: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference relative to the largest expected magnitude, or to 1 if all expected are zero."""
    return float(np.abs(actual - expected).max() / (np.abs(expected).max() or 1.0))


def without_key_bias(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Remove the key bias. Its gradient is zero except for rounding errors, because the softmax is invariant to it."""
    parts = {name: np.split(value, 3) for name, value in state.items() if name.endswith("qkv.bias")}
    return state | {name: np.concatenate([query, value]) for name, (query, _, value) in parts.items()}


def _scrambled(state: dict[str, np.ndarray], run: int) -> dict[str, np.ndarray]:
    """Return perturbed weights, so that no bias is zero, no norm weight is one, and scores are not negligible."""
    rng = np.random.default_rng((17, run))
    return {name: state[name] + 0.25 * rng.normal(size=state[name].shape) for name in sorted(state)}
