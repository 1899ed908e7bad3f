"""Every protocol against a computation of its own, on small models."""

import io
import math
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from ablations.config import vit_config
from ablations.errors import UsageError, VitabError
from ablations.evaluation import PROTOCOLS, protocol
from ablations.evaluation.finished_run import FinishedRun
from ablations.evaluation.patches import from_patches, to_patches
from ablations.evaluation.protocols import corruption
from ablations.evaluation.protocols.attention import patch_distances
from ablations.evaluation.protocols.calibration import bins_of, debiased_error
from ablations.evaluation.protocols.occlusion import blanked_patches
from ablations.evaluation.protocols.position_probe import probe, tokens_by_block
from ablations.evaluation.protocols.resolution import named_default, other_ways, resize
from ablations.evaluation.protocols.shift import shift
from ablations.evaluation.protocols.shuffle import derangement, permutations, windows
from vit import ViT, get_ops

Make = Callable[..., FinishedRun]


def oracle(run: FinishedRun, images: np.ndarray, **changes: object) -> np.ndarray:
    """Predicted classes, by the reference operations in float64."""
    dataset = run.dataset
    config = vit_config(run.config, image_size=images.shape[1], channels=1, classes=dataset.classes)
    config = type(config)(**{name: getattr(config, name) for name in config.__dataclass_fields__} | changes)
    model = ViT(config, get_ops("numpy", dtype="float64"), seeds=[0])
    model.load_state_dict(run.store.checkpoint(run.key))
    normalised = (images / 255 - run.loader.mean) / run.loader.std
    return model.forward(normalised[None])[0].argmax(axis=-1)


def accuracy(run: FinishedRun, images: np.ndarray, **changes: object) -> float:
    return float(np.mean(oracle(run, images, **changes) == run.labels))


ALL = ("none", "learned", "rope+learned")


class TestFinishedRun:
    @pytest.mark.parametrize("position", ALL)
    @pytest.mark.parametrize("pool", ["mean", "cls"])
    def test_images_in_place_give_the_stored_bits(self, finished: Make, position: str, pool: str) -> None:
        run = finished(position=position, pool=pool)
        assert np.array_equal(run.probabilities(run.images), run.stored_probabilities)
        run.close()

    def test_other_images_are_refused(self, finished: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        run = finished(position="none")
        monkeypatch.setattr(run.store, "environment", lambda key: {"data_sha256": "0" * 64})
        with pytest.raises(VitabError, match=r"the data of run .* \(digits\) have changed since"):
            _ = run.dataset

    def test_runs_of_a_seed_share_their_random_numbers(self, finished: Make) -> None:
        first, second = finished(position="none"), finished(position="learned")
        other = finished(position="none", seed=1)
        draws = [run.generator("noise").random(3) for run in (first, second, other)]
        assert np.array_equal(draws[0], draws[1])
        assert not np.array_equal(draws[0], draws[2])
        assert not np.array_equal(first.generator("other").random(3), draws[0])

    def test_predictions_of_another_backend_are_made_again(
        self, finished: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Predictions before and after a change of the images must have the same rounding."""
        run = finished(position="none")
        assert run.probabilities_in_place is run.stored_probabilities
        assert run.accuracy_in_place == np.mean(run.stored_probabilities.argmax(axis=1) == run.labels)
        other = finished(position="none")
        environment = other.store.environment(other.key)
        monkeypatch.setattr(other.store, "environment", lambda key: environment | {"backend": "cupy"})
        other.stored_probabilities = np.empty(0)
        assert np.array_equal(other.probabilities_in_place, other.probabilities(other.images))

    def test_a_sample_is_drawn_from_all_images(self, finished: Make) -> None:
        run = finished(position="none")
        sample = run.sample(50)
        places = [int(np.flatnonzero((run.images == image).all(axis=(1, 2, 3)))[0]) for image in sample]
        assert len(set(places)) == 50
        assert max(places) > 200
        assert np.array_equal(sample, finished(position="learned").sample(50))


class TestResolution:
    def test_factor_one_is_the_stored_accuracy(self, finished: Make) -> None:
        run = finished(position="learned")
        measured = protocol("resolution(factors=1)").measure(run)
        stored = float(np.mean(run.stored_probabilities.argmax(axis=1) == run.labels))
        assert measured.metrics == {"accuracy-1x": stored, "accuracy-1x-resize": stored}

    @pytest.mark.parametrize(
        ("position", "ways"), [("rope", ("extend", "interpolate")), ("learned", ("resize",)), ("none", ())]
    )
    def test_against_the_reference(self, finished: Make, position: str, ways: tuple[str, ...]) -> None:
        run = finished(position=position)
        measured = protocol("resolution(factors=0.5/1.5)").measure(run)
        expected = {}
        for factor, size in ((0.5, 4), (1.5, 12)):
            large = np.stack(
                [
                    np.asarray(Image.fromarray(image[:, :, 0]).resize((size, size), Image.Resampling.BICUBIC))
                    for image in run.images
                ]
            )[..., None]
            for way in ways:
                expected[f"accuracy-{factor:g}x-{way}"] = accuracy(run, large, trained_grid=4, other_grid=way)
            expected[f"accuracy-{factor:g}x"] = accuracy(run, large, trained_grid=4)
        assert measured.metrics == pytest.approx(expected, abs=1.5 / len(run.labels))
        assert {metric.name for metric in protocol("resolution(factors=0.5/1.5)").metrics()} >= measured.metrics.keys()

    def test_a_size_that_the_patch_does_not_divide_is_left_out_with_a_reason(self, finished: Make) -> None:
        measured = protocol("resolution(factors=1.25/1.5)").measure(finished(position="none", patch=4))
        assert measured.metrics.keys() == {"accuracy-1.5x"}
        assert measured.reasons == ("a side of 10 pixels is not a multiple of the patch, 4",)

    def test_a_side_that_is_not_a_whole_number_is_left_out_with_a_reason(self, finished: Make) -> None:
        measured = protocol("resolution(factors=1.05)").measure(finished(position="none"))
        assert measured.metrics == {}
        assert measured.reasons == ("1.05 times 8 pixels is not a whole number of pixels",)

    def test_a_sum_is_measured_by_the_default_way_of_each_part(self, finished: Make) -> None:
        """The default of rope is to extend and that of learned to resize; only `interpolate` changes a part."""
        run = finished(position="rope+learned")
        measured = protocol("resolution(factors=1.5)").measure(run).metrics
        large = resize(run.images, 12)
        close = pytest.approx
        assert measured.keys() == {"accuracy-1.5x", "accuracy-1.5x-interpolate"}
        expected = accuracy(run, large, trained_grid=4)
        assert measured["accuracy-1.5x"] == close(expected, abs=1.5 / len(run.labels))
        expected = accuracy(run, large, trained_grid=4, other_grid="interpolate")
        assert measured["accuracy-1.5x-interpolate"] == close(expected, abs=1.5 / len(run.labels))

    @pytest.mark.parametrize(
        ("position", "others", "default"),
        [
            ("none", [], None),
            ("learned", [], "resize"),
            ("sinusoidal", ["interpolate", "resize"], "extend"),
            ("rope-dinov3+sinusoidal", ["extend", "interpolate", "resize"], None),
            ("rope+cpe", ["interpolate"], "extend"),
        ],
    )
    def test_ways(self, position: str, others: list[str], default: str | None) -> None:
        assert other_ways(position) == others
        assert named_default(position) == default

    def test_a_checkpoint_that_cannot_be_read_is_an_error(
        self, finished: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It must not become a finished evaluation that says why nothing is measured."""
        run = finished(position="learned")

        def cannot_read(key: str) -> None:
            raise VitabError("cannot read checkpoint.safetensors")

        monkeypatch.setattr(run.store, "checkpoint", cannot_read)
        with pytest.raises(VitabError, match="cannot read"):
            protocol("resolution").measure(run)

    def test_resizing_keeps_a_constant_and_the_type(self) -> None:
        for channels in (1, 3):
            images = np.full((2, 8, 8, channels), 77, np.uint8)
            assert np.array_equal(resize(images, 12), np.full((2, 12, 12, channels), 77, np.uint8))


class TestShift:
    @pytest.mark.parametrize("fill", ["edge", "zero"])
    @pytest.mark.parametrize(("rows", "columns"), [(2, 0), (-1, 0), (0, 3), (0, -8), (2, -1)])
    def test_pixel_by_pixel(self, rows: int, columns: int, fill: str) -> None:
        images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3)).astype(np.uint8)
        moved = shift(images, rows, columns, fill)
        for y in range(8):
            for x in range(8):
                source_y, source_x = y - rows, x - columns
                inside = 0 <= source_y < 8 and 0 <= source_x < 8
                clipped = images[:, min(max(source_y, 0), 7), min(max(source_x, 0), 7)]
                expected = clipped if inside or fill == "edge" else np.zeros_like(clipped)
                assert np.array_equal(moved[:, y, x], expected), (y, x)

    def test_against_the_reference(self, finished: Make) -> None:
        run = finished(position="learned")
        measured = protocol("shift").measure(run)
        moved = [
            oracle(run, shift(run.images, 2 * dy, 2 * dx, "edge")) for dy, dx in ((0, 1), (0, -1), (1, 0), (-1, 0))
        ]
        before = run.stored_probabilities.argmax(axis=1)
        assert measured.metrics["accuracy-patch"] == pytest.approx(
            np.mean([m == run.labels for m in moved]), abs=1 / len(before)
        )
        assert measured.metrics["changed-patch"] == pytest.approx(
            np.mean([m != before for m in moved]), abs=1 / len(before)
        )

    def test_half_a_patch_of_one_pixel_is_left_out(self, finished: Make) -> None:
        measured = protocol("shift").measure(finished(position="none", patch=1))
        assert measured.metrics.keys() == {"accuracy-patch", "changed-patch"}
        assert measured.reasons == ("patches of one pixel cannot be shifted by half a patch",)


class TestShuffle:
    def test_patches_come_back(self) -> None:
        images = np.random.default_rng(0).normal(size=(3, 6, 6, 2))
        patches = to_patches(images, 2)
        assert np.array_equal(patches[1, 4], images[1, 2:4, 2:4])
        assert np.array_equal(from_patches(patches), images)

    @pytest.mark.parametrize("pool", ["mean", "cls"])
    def test_none_loses_nothing(self, finished: Make, pool: str) -> None:
        measured = protocol("shuffle").measure(finished(position="none", pool=pool))
        assert measured.metrics == {"lost-fixed": 0.0, "lost-each": 0.0, "lost-window": 0.0}

    def test_against_the_reference(self, finished: Make) -> None:
        run = finished(position="learned")
        measured = protocol("shuffle").measure(run)
        order = derangement(run.generator("shuffle fixed"), 16)
        shuffled = from_patches(to_patches(run.images, 2)[:, order])
        in_place = float(np.mean(run.stored_probabilities.argmax(axis=1) == run.labels))
        assert measured.metrics["lost-fixed"] == pytest.approx(
            in_place - accuracy(run, shuffled), abs=1 / len(run.labels)
        )
        assert not np.allclose(run.probabilities(shuffled), run.stored_probabilities, atol=1e-4)

    def test_permutations_stay_within_windows(self) -> None:
        """Of a 5 x 5 grid in windows of 2: each patch moves within its window, and every order is possible."""
        group = windows(5, 2)
        assert group.reshape(5, 5)[4, 4] == 8
        assert (group.reshape(5, 5)[:2, :2] == 0).all()
        order = permutations(np.random.default_rng(0), 2000, group)
        assert np.array_equal(np.sort(order, axis=1), np.tile(np.arange(25), (2000, 1)))
        assert np.array_equal(group[order], np.tile(group, (2000, 1)))
        first = np.bincount(order[:, 0], minlength=25)
        assert (first[[0, 1, 5, 6]] > 400).all()
        assert first.sum() == first[[0, 1, 5, 6]].sum()

    def test_a_derangement_moves_every_patch(self) -> None:
        for seed in range(20):
            order = derangement(np.random.default_rng(seed), 4)
            assert sorted(order) == [0, 1, 2, 3]
            assert (order != np.arange(4)).all()

    def test_a_window_of_the_whole_image_is_left_out(self, finished: Make) -> None:
        measured = protocol("shuffle").measure(finished(position="learned", patch=4))
        assert measured.metrics.keys() == {"lost-fixed", "lost-each"}
        assert measured.reasons == ("a window of 2 x 2 patches contains all 2 x 2 of an image",)


class TestOcclusion:
    def test_against_the_reference(self, finished: Make) -> None:
        run = finished(position="learned")
        measured = protocol("occlusion(shares=0.3/1)").measure(run)
        draws = run.generator("occlusion").random((len(run.images), 16))
        patches = to_patches(run.images, 2).astype(float)
        for i, draw in enumerate(draws):
            patches[i, np.argsort(draw)[:5]] = 255 * run.loader.mean  # 30 % of 16 patches, rounded
        expected = accuracy(run, from_patches(patches))
        assert measured.metrics["accuracy-0.3"] == pytest.approx(expected, abs=1 / len(run.labels))
        blank = np.broadcast_to(255 * run.loader.mean, run.images.shape)
        assert measured.metrics["accuracy-1"] == pytest.approx(accuracy(run, blank))
        assert measured.metrics["accuracy"] == pytest.approx(
            (measured.metrics["accuracy-0.3"] + measured.metrics["accuracy-1"]) / 2
        )

    @pytest.mark.parametrize(
        ("total", "counts", "left_out"),
        [
            (16, {0.1: 2, 0.3: 5, 0.5: 8, 0.7: 11, 0.9: 14}, 0),
            (4, {0.3: 1, 0.5: 2, 0.7: 3}, 2),
            (2, {0.3: 1}, 4),
            (1, {}, 5),
        ],
    )
    def test_shares_of_few_patches(self, total: int, counts: dict[float, int], left_out: int) -> None:
        """Only shares of which some patches are blanked and some are not, each number of patches once."""
        shares, reasons = blanked_patches([0.1, 0.3, 0.5, 0.7, 0.9], total)
        assert (shares, len(reasons)) == (counts, left_out)

    def test_a_share_that_is_left_out_has_a_reason(self, finished: Make) -> None:
        measured = protocol("occlusion(shares=0.1/0.5/0.6/0.9/1)").measure(finished(position="none", patch=4))
        assert measured.metrics.keys() == {"accuracy", "accuracy-0.5", "accuracy-1"}
        assert measured.reasons == (
            "10 % of 4 patches is rounded to no patch",
            "60 % of 4 patches is rounded to the number of another share",
            "90 % of 4 patches is rounded to all patches",
        )


class TestCorruption:
    images = np.random.default_rng(3).integers(0, 256, (40, 8, 8, 3)).astype(np.uint8)

    def apply(self, name: str, severity: int, seed: int = 0) -> np.ndarray:
        corrupt, parameters = corruption.CORRUPTIONS[name]
        made = corrupt(self.images, parameters[severity], np.random.default_rng(seed))
        assert made.dtype == np.uint8
        assert made.shape == self.images.shape
        return made

    def test_noise_has_the_deviation(self) -> None:
        grey = np.full((400, 8, 8, 1), 128, np.uint8)
        corrupt, parameters = corruption.CORRUPTIONS["gaussian-noise"]
        made = corrupt(grey, parameters[2], np.random.default_rng(0)) / 255
        assert made.std() == pytest.approx(0.08, rel=0.02)
        assert made.mean() == pytest.approx(128 / 255 - 0.5 / 255, abs=0.002)  # rounded down

    def test_shot_noise_has_the_variance_of_photons(self) -> None:
        grey = np.full((400, 8, 8, 1), 128, np.uint8)
        corrupt, parameters = corruption.CORRUPTIONS["shot-noise"]
        made = corrupt(grey, parameters[3], np.random.default_rng(0)) / 255
        assert made.var() == pytest.approx(128 / 255 / 75, rel=0.05)

    def test_impulses_are_black_or_white(self) -> None:
        made = self.apply("impulse-noise", 4)
        changed = made != self.images
        assert 0.05 < changed.mean() < 0.09
        assert set(np.unique(made[changed])) == {0, 255}

    def test_contrast_and_brightness(self) -> None:
        x = self.images / 255
        mean = x.mean(axis=(1, 2), keepdims=True)
        expected = (np.clip(0.4 * (x - mean) + mean, 0, 1) * 255).astype(np.uint8)
        assert np.array_equal(self.apply("contrast", 2), expected)
        made, peak = self.apply("brightness", 1).astype(int), self.images.max(axis=3)
        assert np.abs(made.max(axis=3) - np.minimum(peak + 25.5, 255)).max() <= 1
        ratio = made[0, 0, 0] / made[0, 0, 0].max()
        np.testing.assert_allclose(ratio, self.images[0, 0, 0] / self.images[0, 0, 0].max(), atol=0.02)
        black = np.zeros((1, 2, 2, 3), np.uint8)
        assert (corruption.brightness(black, 0.2, np.random.default_rng(0)) == 51).all()

    def test_blur_keeps_the_mean_and_lowers_the_deviation(self) -> None:
        made = self.apply("gaussian-blur", 4)
        assert made.mean() == pytest.approx(self.images.mean(), abs=3)
        assert made.std() < 0.5 * self.images.std()
        one = np.zeros((1, 9, 9, 1), np.uint8)
        one[0, 4, 4] = 255
        spread = corruption.gaussian_blur(one, 1.0, np.random.default_rng(0))[0, :, :, 0]
        assert spread[4, 5] / spread[4, 4] == pytest.approx(math.exp(-0.5), rel=0.06)

    def test_jpeg_is_that_of_pillow(self) -> None:
        content = io.BytesIO()
        Image.fromarray(self.images[5]).save(content, "JPEG", quality=58)
        assert np.array_equal(self.apply("jpeg", 2)[5], np.asarray(Image.open(content)))

    def test_against_the_reference(self, finished: Make) -> None:
        run = finished(position="learned")
        measured = protocol("corruption").measure(run)
        table = measured.arrays["accuracy"]
        row, severity = [*corruption.CORRUPTIONS].index("gaussian-noise"), 4
        noisy = corruption.gaussian_noise(run.images, 0.10, run.generator("corruption gaussian-noise 4"))
        assert table[row, severity] == pytest.approx(accuracy(run, noisy), abs=1 / len(run.labels))
        assert measured.metrics["accuracy"] == pytest.approx(table.mean())
        assert measured.metrics["accuracy-jpeg"] == pytest.approx(table[-1].mean())


class TestCalibration:
    def test_against_sums_over_images(self, finished: Make) -> None:
        run = finished(position="learned")
        metrics = protocol("calibration").measure(run).metrics
        nll, brier = 0.0, 0.0
        for p, label in zip(run.stored_probabilities.astype(float), run.labels, strict=True):
            nll -= math.log(p[label]) / len(run.labels)
            brier += sum((q - (i == label)) ** 2 for i, q in enumerate(p)) / len(run.labels)
        assert metrics["nll"] == pytest.approx(nll, rel=1e-10)
        assert metrics["brier"] == pytest.approx(brier, rel=1e-10)

    def test_bins_have_equal_numbers_of_images(self) -> None:
        rng = np.random.default_rng(0)
        confidence, right = rng.random(103), rng.integers(0, 2, 103).astype(float)
        count, mean_confidence, accuracy_of_bin = bins_of(confidence, right, 10)
        assert sorted(count) == [10] * 7 + [11] * 3
        assert (np.diff(mean_confidence) > 0).all()
        assert np.sum(count * accuracy_of_bin) == pytest.approx(right.sum())

    def test_the_error_of_calibrated_predictions_is_not_biased(self) -> None:
        """With 15 bins of 20 images the plain error would be about 0.1; the debiased square is 0 on average."""
        rng = np.random.default_rng(1)
        squares = []
        for _ in range(400):
            confidence = rng.uniform(0.5, 1, 300)
            count, mean, right = bins_of(confidence, (rng.random(300) < confidence).astype(float), 15)
            variance = right * (1 - right) / (count - 1)
            squares.append(np.sum(count / 300 * ((mean - right) ** 2 - variance)))
        assert abs(np.mean(squares)) < 3 * np.std(squares) / 20
        assert np.std(squares) > 0

    def test_a_known_error(self) -> None:
        """All certain, half of them right: the gap of each bin is 1/2."""
        count, mean, right = np.array([1000]), np.array([1.0]), np.array([0.5])
        assert debiased_error(count, mean, right) == pytest.approx(math.sqrt(0.25 - 0.25 / 999))

    def test_few_images_have_fewer_bins_or_no_error(self, finished: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        for images, bins in ((59, 5), (20, 2), (19, 0)):
            run = finished(position="learned")
            probabilities, labels = run.stored_probabilities[:images], run.labels[:images]
            run.stored_probabilities = probabilities
            monkeypatch.setattr(type(run), "labels", labels)
            measured = protocol("calibration").measure(run)
            assert len(measured.arrays.get("count", ())) == bins
            assert ("calibration-error" in measured.metrics) == (bins > 0) == (not measured.reasons)
            assert "nll" in measured.metrics
            monkeypatch.undo()


class TestPerClass:
    def test_by_hand(self, finished: Make) -> None:
        run = finished(position="learned")
        measured = protocol("per-class").measure(run)
        predicted, labels = run.stored_probabilities.argmax(axis=1), run.labels
        matrix = np.zeros((10, 10), dtype=int)
        for label, guess in zip(labels, predicted, strict=True):
            matrix[label, guess] += 1
        assert np.array_equal(measured.arrays["confusion"], matrix)
        assert list(measured.arrays["classes"]) == [*"0123456789"]
        of_class = [matrix[c, c] / matrix[c].sum() for c in range(10)]
        f1 = [2 * matrix[c, c] / max(matrix[c].sum() + matrix[:, c].sum(), 1) for c in range(10)]
        top = [label in np.argsort(-p)[:5] for p, label in zip(run.stored_probabilities, labels, strict=True)]
        assert measured.metrics == pytest.approx(
            {
                "balanced-accuracy": np.mean(of_class),
                "macro-f1": np.mean(f1),
                "worst-class": min(of_class),
                "top-5": np.mean(top),
            }
        )


class TestAttention:
    def test_uniform_attention(self, finished: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        """Queries of zero attend to everything alike: the distance is that of two random patches, the entropy log T."""
        run = finished(position="none", pool="cls")
        state = {
            name: np.zeros_like(value) if "attn.qkv" in name else value
            for name, value in run.store.checkpoint(run.key).items()
        }
        monkeypatch.setattr(run.store, "checkpoint", lambda key: state)
        measured = protocol("attention(images=70)").measure(run)
        distances = patch_distances(4, 2)
        assert measured.metrics["distance"] == pytest.approx(distances.mean(), rel=1e-6)
        assert measured.metrics["entropy"] == pytest.approx(math.log(17), rel=1e-6)
        assert measured.metrics["to-class-token"] == pytest.approx(1 / 17, rel=1e-6)
        np.testing.assert_allclose(measured.arrays["attention"], 1 / 17, rtol=1e-5)
        assert measured.arrays["attention"].shape == (2, 2, 17, 17)

    def test_distances_in_pixels(self) -> None:
        distances = patch_distances(3, 5)
        assert distances[0, 8] == pytest.approx(5 * math.hypot(2, 2))
        assert distances[1, 3] == pytest.approx(5 * math.hypot(1, 1))

    def test_against_the_scores_of_the_first_block(self, finished: Make) -> None:
        run = finished(position="learned")
        measured = protocol("attention(images=3)").measure(run)
        state = {name: value.astype(float) for name, value in run.store.checkpoint(run.key).items()}
        images = (run.sample(3) / 255 - run.loader.mean) / run.loader.std
        flat = to_patches(images, 2).transpose(0, 1, 4, 2, 3).reshape(3, 16, 4)
        weight = state["patch_embed.proj.weight"].reshape(16, 4)
        x = flat @ weight.T + state["patch_embed.proj.bias"] + state["pos_embed"][0]
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        x = x * state["blocks.0.norm1.weight"] + state["blocks.0.norm1.bias"]
        qkv = (x @ state["blocks.0.attn.qkv.weight"].T + state["blocks.0.attn.qkv.bias"]).reshape(3, 16, 3, 2, 8)
        scores = np.einsum("bqhk,bphk->bhqp", qkv[:, :, 0], qkv[:, :, 1]) / math.sqrt(8)
        p = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
        np.testing.assert_allclose(measured.arrays["attention"][0], p.mean(axis=0), atol=2e-6)
        expected = (p * patch_distances(4, 2)).sum(-1).mean(axis=(0, 2))
        np.testing.assert_allclose(measured.arrays["distance"][0], expected, rtol=1e-5)


class TestPositionProbe:
    def test_a_token_that_holds_its_position_is_read(self) -> None:
        rng = np.random.default_rng(0)
        y, x = np.divmod(np.arange(9), 3)
        place = np.tile(np.stack([x, y], axis=1), (40, 1, 1))
        mixing, noise = rng.normal(size=(2, 12)), rng.normal(size=(40, 9, 12))
        exact, hidden = place @ mixing + 0.01 * noise, noise
        assert probe(exact[:20], place[:20], exact[20:], place[20:]) > 0.999
        assert -0.3 < probe(hidden[:20], place[:20], hidden[20:], place[20:]) < 0.1

    def test_learned_positions_are_in_the_tokens_and_none_are_not(self, finished: Make) -> None:
        learned, none = (
            protocol("position-probe(images=80)").measure(finished(position=p)) for p in ("learned", "none")
        )
        assert learned.arrays["r2"].shape == (3,)
        assert learned.metrics["r2-first"] > none.metrics["r2-first"] + 0.2
        assert learned.metrics["r2"] == learned.arrays["r2"][-1]
        assert learned.metrics["r2-best"] == learned.arrays["r2"][1:].max() < learned.metrics["r2-first"]

    def test_tokens_before_the_first_block(self, finished: Make) -> None:
        run = finished(position="learned")
        state = run.store.checkpoint(run.key)
        images = (run.images[:2] / 255 - run.loader.mean) / run.loader.std
        flat = to_patches(images, 2).transpose(0, 1, 4, 2, 3).reshape(2, 16, 4)
        expected = flat @ state["patch_embed.proj.weight"].reshape(16, 4).T + state["patch_embed.proj.bias"]
        np.testing.assert_allclose(tokens_by_block(run, run.images[:2])[0], expected + state["pos_embed"], atol=1e-5)

    def test_one_patch_has_no_position(self, finished: Make) -> None:
        measured = protocol("position-probe").measure(finished(position="none", patch=8))
        assert measured.metrics == {}
        assert measured.reasons == ("a single patch has no position to read",)


@pytest.mark.parametrize("name", PROTOCOLS)
class TestEach:
    def test_measures_what_it_declares(self, finished: Make, name: str) -> None:
        run = finished(position="rope", pool="cls")
        asked = protocol(name)
        measured = asked.measure(run)
        declared = [metric.name for metric in asked.metrics()]
        assert len(set(declared)) == len(declared)
        assert declared[0] in measured.metrics or name == "resolution"
        assert {*measured.metrics} <= {*declared}
        assert all(math.isfinite(value) for value in measured.metrics.values())
        assert asked.passes(run.config) >= 0
        assert 10 < len(asked.description) < 90

    def test_measures_the_same_again(self, finished: Make, name: str) -> None:
        first, second = (protocol(name).measure(finished(position="rope", pool="cls")) for _ in range(2))
        assert first.metrics == second.metrics
        assert all(np.array_equal(first.arrays[array], second.arrays[array]) for array in first.arrays)


class TestSpelling:
    def test_standard_form(self) -> None:
        assert str(protocol("resolution(factors=2/1.5/1.25/0.75/0.5)")) == "resolution"
        assert str(protocol(" resolution( factors=2 ) ")) == "resolution(factors=2)"

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("resolutions", "unknown protocol 'resolutions' .did you mean 'resolution'"),
            ("resolution(factor=2)", "options of protocol resolution must be one of factors, got 'factor'"),
            (
                "resolution(factors=big)",
                "factors of protocol resolution must be different numbers above 0 and at most 8, separated",
            ),
            ("resolution(factors=2/2)", "must be different numbers above 0"),
            (
                "occlusion(shares=0.5/1.5)",
                "shares of protocol occlusion must be different numbers above 0 and at most",
            ),
            ("calibration(bins=1)", "bins of protocol calibration must be an integer of at least 2, got '1'"),
            ("shift(fill=grey)", "fill of protocol shift must be edge or zero, got 'grey'"),
            ("shuffle(", "protocol must be NAME or NAME.OPTION=VALUE"),
        ],
    )
    def test_a_wrong_one_is_one_line(self, text: str, message: str) -> None:
        with pytest.raises(UsageError, match=message) as caught:
            protocol(text)
        assert "\n" not in str(caught.value)
