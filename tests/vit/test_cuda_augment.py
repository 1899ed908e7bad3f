"""The recipe "strong" as CUDA kernels, on the CPU by the shim, against ablations/augmentation.py by the same draws."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from scipy.stats import kstest

from tests.support.cuda_cases import Devices, assert_close, in_type
from tests.support.cuda_shim import compiler, device
from tests.support.draws import Mixing, augmented
from tests.support.philox import AUGMENT, MIX, philox
from vit.backend import Ops
from vit.backend.cuda.kernels import CudaKernels

pytestmark = pytest.mark.skipif(compiler() is None, reason="g++ is not installed: CUDA kernels cannot run on the CPU")


@dataclass
class Strong:
    """Arguments of `load_batch` for two runs of B images of a size; image i has label i."""

    batch: int = 40
    size: int = 12
    channels: int = 3
    kind: str = "float32"
    other: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.size)
        shape = (self.batch, self.size, self.size, self.channels)
        self.images = rng.integers(0, 256, size=shape).astype(np.uint8)
        self.images[::3] = 90 + self.images[::3] // 4  # levels that do not span all
        self.order = np.stack([rng.permutation(self.batch) for _ in range(2)]).astype(np.int32)
        self.mean = rng.uniform(0.3, 0.6, size=(2, self.channels)).astype(np.float32)
        self.std = rng.uniform(0.1, 0.3, size=(2, self.channels)).astype(np.float32)
        self.seeds = np.array([5, 2**35 + 1], dtype=np.int64)

    def run(self, kernels: CudaKernels, step: int = 3) -> tuple[np.ndarray, np.ndarray]:
        """Patches and targets, by a patch of half the image."""
        patch = self.size // 2
        patches = device(in_type(np.full((2, self.batch, 4, self.channels * patch**2), np.nan), self.kind))
        targets = device(np.full((2, self.batch, self.batch), np.nan, dtype=np.float32))
        labels, counter = np.arange(self.batch, dtype=np.int32), np.array([step], np.int32)
        kernels.load_batch(
            *(device(a) for a in (self.images, labels, self.order, counter)),
            steps_per_epoch=1,
            patch=patch,
            patches=patches,
            targets=targets,
            **{name: device(getattr(self, name)) for name in ("mean", "std", "seeds")},
            smoothing=device(np.zeros(2, dtype=np.float32)),
            **{"crop_padding": 2, "flip": True, **self.other},
        )
        return patches, targets

    def unmixed(self, step: int = 3) -> np.ndarray:
        """Images (2, B, h, w, c) after TrivialAugment and erasing, where those are on, from the kernels' draws."""
        changes = {name: value for name, value in self.other.items() if name not in ("mixup", "cutmix")}
        changes = {"crop_padding": 2, "flip": True, **changes}
        runs = zip(self.order, self.seeds, self.mean, self.std, strict=True)
        return np.stack([augmented(self.images[o], int(s), step, mean, std, **changes) for o, s, mean, std in runs])


def cut(images: np.ndarray) -> np.ndarray:
    """Images (R, B, h, w, c) as `load_batch` has them."""
    runs, batch, size, _, channels = images.shape
    shape = (runs, batch, 4, channels * (size // 2) ** 2)
    return Ops(np, "float64").patchify(images.astype(float), size // 2, np.empty(shape))


@pytest.fixture(scope="module")
def devices(pytestconfig: pytest.Config) -> Devices:
    kinds = [Strong(kind=kind, other={"erase": erase}).run for kind in ("float32", "bf16") for erase in (0.0, 0.2)]
    return Devices.of(pytestconfig, [*kinds, Strong(size=6, other={"mixup": 1.0}).run])


class TestOneImage:
    @pytest.mark.parametrize("channels", [1, 3])
    def test_trivial_augment(self, devices: Devices, channels: int) -> None:
        strong = Strong(size=24, channels=channels, other={"trivial_augment": True})
        for step in (3, 4):
            expected = cut(strong.unmixed(step))
            for kernels in devices:
                patches, targets = strong.run(kernels, step)
                # a level is 1 / 255 / std; float32 may round a level's half the other way
                off = np.abs(patches - expected) * strong.std.min() * 255
                assert off.max() < 1.5 * strong.std.max() / strong.std.min()
                assert (off > 0.5 * strong.std.min()).mean() < 1e-3
                assert np.array_equal(targets.argmax(axis=-1), strong.order)

    def test_all_changes_were_drawn(self) -> None:
        words = philox(5, np.arange(40), 3, 0, AUGMENT)[:, 3].astype(np.uint64)
        words = np.append(words, philox(5, np.arange(40), 4, 0, AUGMENT)[:, 3])
        assert set(words.astype(np.uint64) * 14 >> 32) == set(range(14))

    def test_erase(self, devices: Devices) -> None:
        strong = Strong(other={"erase": 0.5})
        expected = strong.unmixed()
        erased = (expected == 0).all(axis=-1).mean(axis=(2, 3))
        assert 0.3 < (erased > 0).mean() < 0.7
        for kernels in devices:
            assert_close(strong.run(kernels)[0], cut(expected), "patches")

    def test_everything_at_once_in_bf16(self, devices: Devices) -> None:
        wide, bf16 = (
            Strong(kind=kind, other={"trivial_augment": True, "erase": 0.3, "mixup": 0.8, "cutmix": 1.0})
            for kind in ("float32", "bf16")
        )
        expected = wide.run(devices.forwards)
        got, again = bf16.run(devices.forwards), bf16.run(devices.backwards)
        assert_close(got[0], expected[0].astype(float), "patches")
        assert np.array_equal(got[1], expected[1])
        assert np.array_equal(got[0], again[0])

    def test_large_images_are_refused(self, devices: Devices) -> None:
        with pytest.raises(ValueError, match=r"at most 4 channels and 94208 bytes, got 256 x 256 x 3"):
            Strong(batch=1, size=256, other={"erase": 0.5}).run(devices.forwards)


def partners(targets: np.ndarray, order: np.ndarray) -> tuple[float, int]:
    """Share and shift of one run's mixed targets (B, B) with label i for image i."""
    batch = len(targets)
    share = float(targets[np.arange(batch), order].min())
    shifts = [s for s in range(batch) if np.allclose(targets, _mixed(np.eye(batch)[order], share, s), atol=1e-6)]
    assert len(shifts) >= 1
    return share, shifts[0]


def _mixed(x: np.ndarray, share: float, shift: int) -> np.ndarray:
    return share * x + (1 - share) * np.roll(x, -shift, axis=0)


class TestMixing:
    def test_mixup_blends_images_as_it_blends_targets(self, devices: Devices) -> None:
        strong = Strong(batch=7, size=6, other={"mixup": 0.8})
        plain = cut(strong.unmixed())
        for kernels in devices:
            patches, targets = strong.run(kernels)
            for run in range(2):
                share, shift = partners(targets[run], strong.order[run])
                assert 0 < share < 1
                assert_close(patches[run], _mixed(plain[run], share, shift), "patches")
            assert targets[0].max() != targets[1].max()

    def test_cutmix_pastes_a_rectangle_of_the_size_that_targets_have(self, devices: Devices) -> None:
        strong = Strong(batch=7, size=8, other={"cutmix": 1.0, "crop_padding": 0})  # no gaps, which are alike
        pasted = 0
        for step in range(8):
            whole = strong.unmixed(step)
            patches, targets = strong.run(devices.forwards, step)
            places = np.indices((8, 8))
            for run in range(2):
                share, shift = partners(targets[run], strong.order[run])
                grid = np.broadcast_to(places[0][None, :, :, None] * 8 + places[1][None, :, :, None], (1, 8, 8, 3))
                place = cut(grid[None])[0, 0]
                partner = np.roll(cut(whole)[run], -shift, axis=0)
                own = np.isclose(patches[run], cut(whole)[run], atol=1e-5).all(axis=0)
                assert np.isclose(patches[run][:, ~own], partner[:, ~own], atol=1e-5).all()
                taken = np.zeros(64, dtype=bool)
                taken[place[~own].astype(int)] = True
                if shift and taken.any():
                    square = taken.reshape(8, 8)
                    rows, columns = square.any(axis=1).sum(), square.any(axis=0).sum()
                    assert square.sum() == rows * columns == round((1 - share) * 64)
                    pasted += 1
        assert pasted > 8

    @pytest.mark.parametrize("alpha", [0.3, 1.0, 3.0])
    def test_shares_are_beta_distributed_and_shifts_uniform(self, devices: Devices, alpha: float) -> None:
        strong = Strong(batch=5, size=2, channels=1, other={"mixup": alpha})
        drawn = [
            partners(targets, order)
            for step in range(150)
            for targets, order in zip(strong.run(devices.forwards, step)[1], strong.order, strict=True)
        ]
        shares, shifts = (np.array(column) for column in zip(*drawn, strict=True))
        moved = np.where(shifts > 0, shares, np.nan)
        moved = moved[~np.isnan(moved)]
        assert kstest(moved, "beta", args=(alpha, alpha)).pvalue > 0.01
        assert np.abs(np.bincount(shifts, minlength=5) - 60).max() < 5 * np.sqrt(300 * 0.2 * 0.8)

    def test_shares_and_rectangles_are_those_of_the_paper_by_the_same_draws(self, devices: Devices) -> None:
        for other in ({"mixup": 0.8}, {"mixup": 3.0}, {"cutmix": 1.0}, {"mixup": 0.8, "cutmix": 1.0}):
            strong = Strong(batch=7, size=6, other=other)
            rates = {"mixup": 0.0, "cutmix": 0.0, **other}
            for step in range(5):
                patches, targets = strong.run(devices.forwards, step)
                images = strong.unmixed(step)
                for run, seed in enumerate(strong.seeds):
                    mixing = Mixing.drawn(int(seed), step, **rates, batch=7, size=6)
                    assert_close(patches[run], cut(mixing.images(images[run])[None])[0], "patches", 1e-5)
                    assert_close(targets[run], mixing.targets(np.eye(7)[strong.order[run]]), "targets", 1e-5)

    def test_with_both_each_batch_has_one_of_them(self) -> None:
        words = philox(5, 0, np.arange(1000), 0, MIX)[:, 0]
        assert abs((words >> 31).mean() - 0.5) < 5 * np.sqrt(0.25 / 1000)
