"""The CUDA kernels of batches, dropout, loss and optimiser, run on the CPU by the shim."""

from typing import Any

import numpy as np
import pytest

from tests.support.cuda_cases import EPSILON, Devices, assert_close, in_type, narrow, widen
from tests.support.cuda_shim import compiler, device
from tests.support.draws import dropped, loaded
from tests.support.philox import AUGMENT, philox
from vit.backend import Ops
from vit.backend.cuda.kernels import CudaKernels
from vit.optim import AdamWConfig

pytestmark = pytest.mark.skipif(compiler() is None, reason="g++ is not installed: CUDA kernels cannot run on the CPU")
RNG = np.random.default_rng(11)
both_kinds = pytest.mark.parametrize("kind", ["float32", "bf16"])


@pytest.fixture(scope="module")
def devices(pytestconfig: pytest.Config) -> Devices:
    def everything(kernels: CudaKernels) -> None:
        for kind in ("float32", "bf16"):
            for patch, classes in ((2, 5), (3, 7)):
                Batch(kind, patch, classes).run(kernels)
            for width in (48, 33):
                with_dropout(kernels, kind, width, 0.3, 0.2)
        for logits, dlogits in (("float32", "float32"), ("float32", "bf16"), ("bf16", "bf16")):
            Loss(7, logits, dlogits).run(kernels)
        Optimiser().run(kernels)
        kernels.gradient_norm(np.zeros((1, 64), np.float32), np.zeros(1, np.float32))

    return Devices.of(pytestconfig, [everything])


def test_philox_has_its_authors_numbers() -> None:
    """Known answers of Random123 1.14."""
    ones = 0xFFFFFFFF
    for key, counter, words in [
        (0, (0, 0, 0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        (ones << 32 | ones, (ones,) * 4, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            0x299F31D0A4093822,
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ]:
        assert " ".join(f"{word:08x}" for word in philox(key, *counter)) == words


class Batch:
    """Arguments of `load_batch` for R = 3 runs, the first and last of one seed and one order, B = 5 images."""

    def __init__(self, kind: str, patch: int, classes: int, **other: Any) -> None:
        self.kind, self.patch, self.classes = kind, patch, classes
        self.images = RNG.integers(0, 256, size=(20, 6, 6, 3)).astype(np.uint8)
        self.labels = RNG.integers(0, classes, size=20).astype(np.int32)
        orders = [RNG.permutation(20) for _ in range(2)]
        self.order = np.stack([orders[0], orders[1], orders[0]]).astype(np.int32)
        self.mean = RNG.uniform(0.3, 0.6, size=(3, 3)).astype(np.float32)
        self.std = RNG.uniform(0.1, 0.3, size=(3, 3)).astype(np.float32)
        self.mean[2], self.std[2] = self.mean[0], self.std[0]
        self.seeds = np.array([7, 2**40 + 3, 7], dtype=np.int64)
        self.smoothing = np.array([0.1, 0.0, 0.1], dtype=np.float32)
        self.other = {"crop_padding": 2, "flip": True, "steps_per_epoch": 4, **other}

    def run(self, kernels: CudaKernels, step: int = 6) -> tuple[np.ndarray, np.ndarray]:
        patches = device(in_type(np.full((3, 5, (6 // self.patch) ** 2, 3 * self.patch**2), np.nan), self.kind))
        targets = device(np.full((3, 5, self.classes), np.nan, dtype=np.float32))
        arrays = [device(a) for a in (self.images, self.labels, self.order, np.array([step], np.int32))]
        named = {name: device(getattr(self, name)) for name in ("mean", "std", "seeds", "smoothing")}
        kernels.load_batch(*arrays, patch=self.patch, patches=patches, targets=targets, **named, **self.other)
        return patches, targets

    def expected(self, step: int = 6) -> tuple[np.ndarray, np.ndarray]:
        named = {name: getattr(self, name) for name in ("mean", "std", "seeds", "smoothing")}
        arrays = (self.images, self.labels, self.order, np.array([step]))
        return loaded(*arrays, 5, self.classes, patch=self.patch, **named, **self.other)


class TestBatches:
    @both_kinds
    @pytest.mark.parametrize(("patch", "classes"), [(2, 5), (3, 7)])
    @pytest.mark.parametrize("other", [{}, {"crop_padding": 0}, {"flip": False}])
    def test_crops_flips_normalises_and_cuts(
        self, devices: Devices, kind: str, patch: int, classes: int, other: dict[str, Any]
    ) -> None:
        batch = Batch(kind, patch, classes, **other)
        for kernels in devices:
            for step in (0, 6, 99):
                patches, targets = batch.run(kernels, step)
                expected = batch.expected(step)
                assert_close(patches, expected[0], "patches")
                assert_close(targets, expected[1], "targets")

    def test_runs_of_one_seed_see_the_same_and_others_do_not(self, devices: Devices) -> None:
        batch = Batch("float32", 2, 5)
        batch.order[1], batch.mean[1], batch.std[1] = batch.order[0], batch.mean[0], batch.std[0]
        patches, targets = batch.run(devices.forwards)
        assert np.array_equal(patches[0], patches[2])
        assert np.array_equal(targets[0], targets[2])
        assert not np.array_equal(patches[0], patches[1])

    def test_moves_and_mirrors_are_uniform(self) -> None:
        """Over 90,000 draws, each of 9 places and 2 directions is within 5 deviations of its share."""
        words = philox(5, np.arange(300), np.arange(300)[:, None], 0, AUGMENT).reshape(-1, 4).astype(np.uint64)
        for counts, share in [
            (np.bincount((words[:, 0] * 9 >> 32).astype(int), minlength=9), 1 / 9),
            (np.bincount((words[:, 1] * 9 >> 32).astype(int), minlength=9), 1 / 9),
            (np.bincount((words[:, 2] >> 31).astype(int), minlength=2), 1 / 2),
        ]:
            assert np.abs(counts - len(words) * share).max() < 5 * np.sqrt(len(words) * share * (1 - share))


def with_dropout(
    kernels: CudaKernels, kind: str, width: int, rate: float, path_rate: float, bias: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """What dropout makes, and what it should make, of (2, 3, 5, width) at step 4, site 9."""
    rng = np.random.default_rng(width)
    x = widen(in_type(rng.normal(size=(2, 3, 5, width)), kind))
    added = rng.normal(size=(2, width)).astype(np.float32) if bias else None
    rates = {"rate": rate, "path_rate": path_rate, "site": 9}
    state = {"seeds": np.array([3, 2**33 + 1], dtype=np.int64), "step": np.array([4], dtype=np.int32)}
    out = device(in_type(np.full(x.shape, np.nan), kind))
    held = {name: device(value) for name, value in state.items()}
    kernels.dropout(device(in_type(x, kind)), None if added is None else device(added), **rates, **held, out=out)
    return out, dropped(x, added, **rates, **state)


class TestDropout:
    @both_kinds
    @pytest.mark.parametrize("width", [48, 33])
    @pytest.mark.parametrize(("rate", "path_rate"), [(0.3, 0.0), (0.0, 0.4), (0.3, 0.4)])
    @pytest.mark.parametrize("bias", [True, False])
    def test_drops_what_philox_says(
        self, devices: Devices, kind: str, width: int, rate: float, path_rate: float, bias: bool
    ) -> None:
        for kernels in devices:
            out, expected = with_dropout(kernels, kind, width, rate, path_rate, bias)
            assert_close(out, expected, "out")
            assert (widen(out) == 0).any()


class Loss:
    """Logits and soft targets (3, 11, classes); the last image of run 1 has logits that would overflow."""

    def __init__(self, classes: int, logits: str, dlogits: str) -> None:
        self.dlogits = dlogits
        x = widen(in_type(3 * RNG.normal(size=(3, 11, classes)), logits))
        x[1, -1] = widen(in_type(1000 * x[1, -1], logits))
        self.logits, self.kind = x, logits
        weights = np.exp(RNG.normal(size=x.shape))
        self.targets = (weights / weights.sum(axis=-1, keepdims=True)).astype(np.float32)
        self.logits[0, :3], self.targets[0, :3] = 0.5, 1 / classes  # the first of equals is the largest
        self.logits[0, 1, -1] = 1.0

    def run(self, kernels: CudaKernels) -> dict[str, np.ndarray]:
        losses = device(np.full((3, 11), np.nan, dtype=np.float32))
        dlogits = device(in_type(np.full(self.logits.shape, np.nan), self.dlogits))
        totals = device(np.array([[1, 2], [3, 4], [5, 6]], dtype=np.float32))
        arguments = (device(in_type(self.logits, self.kind)), device(self.targets), 0.25)
        kernels.cross_entropy(*arguments, losses=losses, dlogits=dlogits, totals=totals)
        return {"losses": losses, "dlogits": dlogits, "totals": totals}


class TestLoss:
    @pytest.mark.parametrize("kinds", [("float32", "float32"), ("float32", "bf16"), ("bf16", "bf16")])
    @pytest.mark.parametrize("classes", [2, 7, 100])
    def test_equals_the_reference(self, devices: Devices, kinds: tuple[str, str], classes: int) -> None:
        loss = Loss(classes, *kinds)
        losses, dlogits = np.empty((3, 11)), np.empty(loss.logits.shape)
        targets = loss.targets.astype(float)
        Ops(np, "float64").cross_entropy(loss.logits, targets, 0.25, losses=losses, dlogits=dlogits)
        hits = (loss.logits.argmax(axis=-1) == targets.argmax(axis=-1)).sum(axis=1)
        totals = np.stack([losses.sum(axis=1), hits], axis=-1) + np.array([[1, 2], [3, 4], [5, 6]])
        for kernels in devices:
            got = loss.run(kernels)
            assert_close(got["losses"], losses, "losses")
            assert_close(got["dlogits"], dlogits, "dlogits", 1e-6)
            assert_close(got["totals"], totals, "totals")


class Optimiser:
    """Three runs of P = 320 parameters, of which 192 decay, through steps of random gradients."""

    def __init__(self, clip_norm: float | None = 1.0, steps: int = 3) -> None:
        rng = np.random.default_rng(2)
        self.clip_norm = clip_norm
        self.start = rng.normal(size=(3, 320)).astype(np.float32)
        self.gradients = rng.normal(size=(steps, 3, 320)).astype(np.float32) * np.array([[1], [0.01], [1]], np.float32)
        self.rates = np.tile(np.array([[1e-3, 2e-3], [0.1, 0.05], [1e-2, 0]], np.float32), (1, 1))
        self.decay = np.array([0.05, 0.1, 0.0], np.float32)
        self.training = AdamWConfig()

    def run(self, kernels: CudaKernels) -> dict[str, np.ndarray]:
        step = device(np.zeros(1, dtype=np.int32))
        weights, average = device(self.start), device(self.start)
        moments = [device(np.zeros_like(self.start)) for _ in range(2)]
        copy = device(np.full(self.start.shape, 0xFFFF, dtype=np.uint16))
        for gradient in self.gradients:
            kernels.adamw(
                weights,
                device(gradient),
                *moments,
                rate=device(self.rates),
                decay=device(self.decay),
                decayed=192,
                step=step,
                clip_norm=self.clip_norm,
                betas=self.training.betas,
                epsilon=self.training.eps,
                copy=copy,
                average=average,
                average_decay=0.999,
            )
        return {"weights": weights, "first": moments[0], "second": moments[1], "average": average} | {
            "copy": copy,
            "step": step,
        }

    def expected(self) -> dict[str, np.ndarray]:
        ops = Ops(np, "float64")
        weights, average = self.start.astype(float), self.start.astype(float)
        first, second = np.zeros_like(weights), np.zeros_like(weights)
        for t, gradient in enumerate(self.gradients.astype(float), start=1):
            norm = np.sqrt(ops.sum_of_squares(gradient))
            scale = np.ones(3) if self.clip_norm is None else np.minimum(1, self.clip_norm / (norm + 1e-6))
            for part, decay in ((slice(192), self.decay.astype(float)), (slice(192, None), np.zeros(3))):
                ops.adamw(
                    *(x[:, part] for x in (weights, gradient, first, second)),
                    gradient_scale=scale,
                    rate=self.rates[:, (t - 1) % 2].astype(float),
                    decay=decay,
                    betas=self.training.betas,
                    epsilon=self.training.eps,
                    step=t,
                )
            kept = min(0.999, (1 + t) / (10 + t))
            average = kept * average + (1 - kept) * weights
        return {"weights": weights, "first": first, "second": second, "average": average}


class TestOptimiser:
    @pytest.mark.parametrize("clip_norm", [1.0, None])
    @pytest.mark.parametrize("steps", [1, 40])
    def test_equals_the_reference(self, devices: Devices, clip_norm: float | None, steps: int) -> None:
        optimiser = Optimiser(clip_norm, steps)
        expected = optimiser.expected()
        for kernels in devices:
            got = optimiser.run(kernels)
            for name, value in expected.items():
                assert_close(got[name], value, name, steps * 4 * EPSILON["float32"])
            assert np.array_equal(got["copy"], narrow(got["weights"]))
            assert got["step"] == steps

    def test_norms(self, devices: Devices) -> None:
        gradient = np.random.default_rng(0).normal(size=(3, 64 * 1000)).astype(np.float32)
        out = device(np.empty(3, dtype=np.float32))
        devices.forwards.gradient_norm(device(gradient), out)
        assert np.allclose(out, np.linalg.norm(gradient.astype(float), axis=1), rtol=2 * EPSILON["float32"])

    def test_what_it_cannot_do_is_refused(self, devices: Devices) -> None:
        optimiser = Optimiser()
        optimiser.start = optimiser.start[:, :318]
        optimiser.gradients = optimiser.gradients[:, :, :318]
        with pytest.raises(ValueError, match="rows of a multiple of 64 elements"):
            optimiser.run(devices.forwards)
