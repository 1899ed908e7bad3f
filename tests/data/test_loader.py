"""What a run is fed: which images, in which order, changed how, with which targets."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ablations.config import RunConfig
from ablations.data import Dataset, load, split, subsample
from ablations.data.augmentation import augment
from ablations.data.loader import Batch, DataLoader, is_augmented, steps_of
from ablations.data.normalisation import statistics
from vit import one_hot
from vit.random import stream

CLASSES = 4


def make_dataset(train: int = 100, test: int = 8, side: int = 6, channels: int = 3) -> Dataset:
    """Images of which each is unlike any other; label i mod 4."""
    rng = np.random.default_rng(0)
    return Dataset(
        name="noise",
        train_images=rng.integers(1, 256, size=(train, side, side, channels)).astype(np.uint8),
        train_labels=np.arange(train) % CLASSES,
        test_images=rng.integers(1, 256, size=(test, side, side, channels)).astype(np.uint8),
        test_labels=np.arange(test) % CLASSES,
        class_names=("a", "b", "c", "d"),
    )


DATASET = make_dataset()
BASE = RunConfig(validation=0.2, batch_size=16, label_smoothing=0.0)


def loader_of(dataset: Dataset = DATASET, **changes: Any) -> DataLoader:
    return DataLoader.of(replace(BASE, **changes), dataset)


def images_of(loader: DataLoader) -> np.ndarray:
    """The images that a run trains on."""
    return loader.dataset.train_images[loader.train]


def pixels(loader: DataLoader, images: np.ndarray) -> np.ndarray:
    """Normalised images back in 0..255, to the nearest whole number."""
    return np.rint((images * loader.std + loader.mean) * 255)


def indices(images: np.ndarray, among: np.ndarray) -> list[int]:
    """Where each image stands among others."""
    place = {image.astype(np.uint8).tobytes(): i for i, image in enumerate(among)}
    return [place[image.astype(np.uint8).tobytes()] for image in images]


def same(first: Iterator[Batch], second: Iterator[Batch]) -> bool:
    pairs = zip(first, second, strict=True)
    return all(np.array_equal(a, b) for batches in pairs for a, b in zip(*batches, strict=True))


RECIPE: dict[str, Any] = {
    "crop_padding": 1,
    "flip": True,
    "erase": 0.5,
    "mixup": 0.4,
    "cutmix": 1.0,
    "trivial_augment": True,
    "label_smoothing": 0.1,
}


class TestParts:
    def test_training_and_validation_share_no_image_and_are_all(self) -> None:
        loader = loader_of()
        assert sorted([*loader.train, *loader.validation]) == list(range(100))
        assert len(loader.validation) == 20
        assert np.array_equal(loader.validation_labels, DATASET.train_labels[loader.validation])
        assert np.bincount(loader.validation_labels).tolist() == [5] * CLASSES

    @pytest.mark.parametrize("share", [0.1, 0.5])
    def test_data_fraction_is_a_share_of_the_training_part(self, share: float) -> None:
        """What it leaves out is not validated on either."""
        whole, part = loader_of(), loader_of(data_fraction=share)
        assert len(part.train) == round(80 * share)
        assert np.bincount(DATASET.train_labels[part.train]).tolist() == [round(20 * share)] * CLASSES
        assert set(part.train) <= set(whole.train)
        assert np.array_equal(part.validation, whole.validation)

    def test_the_scale_is_that_of_the_images_trained_on(self) -> None:
        dataset = make_dataset()
        dataset.train_images[::3, ..., 1] //= 4
        loader = loader_of(dataset, data_fraction=0.5)
        normalised = loader.normalise(images_of(loader))
        assert normalised.dtype == np.float32
        np.testing.assert_allclose(normalised.mean(axis=(0, 1, 2), dtype=float), 0, atol=1e-5)
        np.testing.assert_allclose(normalised.std(axis=(0, 1, 2), dtype=float), 1, atol=1e-5)
        np.testing.assert_allclose(loader.mean, images_of(loader).mean(axis=(0, 1, 2)) / 255, rtol=1e-5)
        expected = (dataset.test_images / 255 - loader.mean) / loader.std
        np.testing.assert_allclose(loader.normalise(dataset.test_images), expected, atol=1e-5)

    def test_the_seed_cuts(self) -> None:
        assert not np.array_equal(loader_of().validation, loader_of(seed=1).validation)


class TestPairs:
    """Arms of one seed see the same images in the same order with the same changes."""

    ARMS = ({"position": "none"}, {"depth": 5}, {"width": 8}, {"patch": 1}, {"learning_rate": 1.0}, {"dropout": 0.5})

    @pytest.mark.parametrize("arm", ARMS, ids=lambda arm: next(iter(arm)))
    def test_what_is_no_matter_of_data_changes_no_bit(self, arm: dict[str, Any]) -> None:
        loader, other = loader_of(**RECIPE), loader_of(**RECIPE, **arm)
        for name in ("train", "validation", "validation_labels", "mean", "std"):
            assert np.array_equal(getattr(loader, name), getattr(other, name))
        for epoch in (1, 2):
            assert same(loader.epoch(epoch), other.epoch(epoch))

    def test_an_epoch_is_the_same_in_any_order_of_use(self) -> None:
        loader = loader_of(**RECIPE)
        third = list(loader.epoch(3))
        list(loader.epoch(1))
        assert same(iter(third), loader.epoch(3))

    def test_seeds_epochs_and_batches_differ(self) -> None:
        loader, other = loader_of(**RECIPE), loader_of(**RECIPE, seed=1)
        firsts = [next(loader.epoch(1)), next(loader.epoch(2)), next(other.epoch(1)), list(loader.epoch(1))[1]]
        for i in range(4):
            for j in range(i):
                assert not np.array_equal(firsts[i][0], firsts[j][0])

    def test_each_epoch_and_batch_is_changed_anew(self) -> None:
        """The places in a batch that are mirrored, among images of which each stays what it is."""
        loader = loader_of(flip=True, batch_size=40)
        known = {image.tobytes() for image in images_of(loader)}
        batches = [images for epoch in (1, 2) for images, _ in loader.epoch(epoch)]
        mirrored = [[i.tobytes() not in known for i in pixels(loader, images).astype(np.uint8)] for images in batches]
        assert len({tuple(places) for places in mirrored}) == 4

    def test_feeding_writes_nothing(self) -> None:
        loader = loader_of(**RECIPE)
        before = DATASET.train_images.copy(), DATASET.train_labels.copy(), loader.train.copy()
        for images, targets in loader.epoch(1):
            images[...] = 0
            targets[...] = 0
        for array, kept in zip((DATASET.train_images, DATASET.train_labels, loader.train), before, strict=True):
            assert np.array_equal(array, kept)


class TestMemory:
    @pytest.mark.parametrize("seeds", [(0, 0), (0, 1)], ids=["one split", "two splits"])
    def test_loaders_of_a_dataset_share_its_images(self, seeds: tuple[int, int]) -> None:
        """Also where the seeds, and so the splits, differ: only indices are stored per loader."""
        for loader in (loader_of(seed=seed, data_fraction=0.5, **RECIPE) for seed in seeds):
            assert loader.dataset is DATASET
            arrays = [value for value in vars(loader).values() if isinstance(value, np.ndarray)]
            assert len(arrays) == 4
            assert sum(array.nbytes for array in arrays) <= 8 * len(DATASET.train_labels) + 2 * 3 * 4

    @pytest.mark.parametrize(
        "changes", [{}, RECIPE, {"data_fraction": 0.5, "seed": 3}], ids=["plain", "recipe", "part"]
    )
    def test_batches_are_those_of_a_copy_of_the_split(self, changes: dict[str, Any]) -> None:
        """Bit by bit the batches drawn from arrays that hold the training images of the split alone."""
        loader = loader_of(**changes)
        config = loader.config
        train, _ = split(DATASET.train_labels, config.validation, config.seed)
        if config.data_fraction < 1:
            train = train[subsample(DATASET.train_labels[train], config.data_fraction, config.seed)]
        images, labels = DATASET.train_images[train], DATASET.train_labels[train]
        mean, std = statistics(images)
        for epoch in (1, 2):
            order, steps = stream(config.seed, "order", epoch).permutation(len(train)), 0
            for step, batch in enumerate(loader.epoch(epoch)):
                chosen = order[step * 16 : (step + 1) * 16]
                targets = one_hot(labels[chosen], CLASSES, config.label_smoothing).astype(np.float32)
                generator = stream(config.seed, "augmentation", epoch, step)
                expected = augment(images[chosen], targets, config, generator, mean, std)
                assert all(np.array_equal(mine, own) for mine, own in zip(batch, expected, strict=True))
                steps += 1
            assert steps == loader.steps


class TestEpochs:
    @pytest.mark.parametrize(
        ("batch_size", "steps", "size"), [(16, 5, 16), (30, 2, 30), (79, 1, 79), (80, 1, 80), (500, 1, 80), (1, 80, 1)]
    )
    def test_whole_batches_only(self, batch_size: int, steps: int, size: int) -> None:
        """An incomplete last batch is left out; a batch holds at most all images."""
        loader = loader_of(batch_size=batch_size)
        assert (loader.steps, loader.batch_size) == (steps, size)
        batches = list(loader.epoch(1))
        assert [(len(images), len(targets)) for images, targets in batches] == [(size, size)] * steps
        seen = indices(pixels(loader, np.concatenate([images for images, _ in batches])), images_of(loader))
        assert len(set(seen)) == steps * size

    def test_images_left_out_come_in_other_epochs(self) -> None:
        loader = loader_of(batch_size=30)
        seen = [
            indices(pixels(loader, images), images_of(loader))
            for epoch in range(1, 7)
            for images, _ in loader.epoch(epoch)
        ]
        assert set(np.concatenate(seen)) == set(range(80))

    def test_images_come_with_their_own_labels(self) -> None:
        loader = loader_of()
        for images, targets in loader.epoch(1):
            assert images.dtype == targets.dtype == np.float32
            own = loader.dataset.train_labels[loader.train][indices(pixels(loader, images), images_of(loader))]
            assert np.array_equal(targets, np.eye(CLASSES)[own])
            np.testing.assert_allclose(images, loader.normalise(pixels(loader, images).astype(np.uint8)), atol=1e-5)

    def test_label_smoothing(self) -> None:
        for images, targets in loader_of(label_smoothing=0.2).epoch(1):
            assert len(images) == 16
            np.testing.assert_allclose(np.sort(targets, axis=1), [[0.05, 0.05, 0.05, 0.85]] * 16, rtol=1e-6)


class TestRecipe:
    """What a field of the recipe does to the images of a loader, and that it does nothing when it is off."""

    def changed(self, **changes: Any) -> tuple[DataLoader, np.ndarray, np.ndarray, np.ndarray]:
        """The loader, its images as they were, as they are fed, and their targets, in one order."""
        loader, plain = loader_of(batch_size=80, **changes), loader_of(batch_size=80)
        (before, _), (after, targets) = next(plain.epoch(1)), next(loader.epoch(1))
        return loader, pixels(plain, before), after, targets

    def test_flip(self) -> None:
        loader, before, after, _ = self.changed(flip=True)
        mirrored = [np.array_equal(b, a[:, ::-1]) for b, a in zip(before, pixels(loader, after), strict=True)]
        kept = [np.array_equal(b, a) for b, a in zip(before, pixels(loader, after), strict=True)]
        assert np.array_equal(mirrored, ~np.array(kept))
        assert 20 < sum(mirrored) < 60

    def test_crop_padding(self) -> None:
        loader, before, after, _ = self.changed(crop_padding=2)
        padded = np.pad(before, ((0, 0), (2, 2), (2, 2), (0, 0)))
        places = set()
        for image, around in zip(pixels(loader, after), padded, strict=True):
            fits = [(y, x) for y in range(5) for x in range(5) if np.array_equal(around[y : y + 6, x : x + 6], image)]
            assert len(fits) == 1
            places.update(fits)
        assert len(places) > 20

    @pytest.mark.parametrize(("probability", "least", "most"), [(0.3, 10, 40), (1.0, 80, 80)])
    def test_erase(self, probability: float, least: int, most: int) -> None:
        loader, before, after, _ = self.changed(erase=probability)
        erased = (after == 0).all(axis=-1)
        assert np.array_equal(pixels(loader, after)[~erased], before[~erased])
        assert least <= erased.any(axis=(1, 2)).sum() <= most

    def test_trivial_augment(self) -> None:
        loader, before, after, targets = self.changed(trivial_augment=True)
        plain = loader.normalise(before.astype(np.uint8))
        changed = [not np.array_equal(b, a) for b, a in zip(plain, after, strict=True)]
        assert sum(changed) > 40
        assert np.isfinite(after).all()
        assert np.array_equal(np.unique(targets), [0, 1])

    def test_mixup_blends_images_and_targets_alike(self) -> None:
        loader, before, after, targets = self.changed(mixup=1.0)
        normalised = loader.normalise(before.astype(np.uint8))
        share = next(share for share in targets.ravel() if 0 < share < 1)
        partners = 0
        for image, own in zip(after, normalised, strict=True):
            fits = [
                np.allclose(image, s * own + (1 - s) * other, atol=1e-4)
                for s in (share, 1 - share)
                for other in normalised
            ]
            partners += any(fits)
        assert partners == 80
        np.testing.assert_allclose(targets.sum(axis=1), 1, rtol=1e-6)

    def test_cutmix_blends_targets_by_area(self) -> None:
        loader, before, after, targets = self.changed(cutmix=1.0)
        kept = (pixels(loader, after) == before).all(axis=-1)
        area = 36 - int((~kept).any(axis=0).sum())
        labels = loader.dataset.train_labels[loader.train][indices(before, images_of(loader))]
        assert 0 < area < 36
        np.testing.assert_allclose(targets.sum(axis=1), 1, rtol=1e-6)
        own = targets[np.arange(80), labels]
        assert np.all(np.isclose(own, area / 36, atol=1e-6) | np.isclose(own, 1, atol=1e-6))
        assert np.isclose(own, area / 36, atol=1e-6).any()


class TestAhead:
    def test_the_next_batch_is_made_during_the_step(self, monkeypatch: pytest.MonkeyPatch) -> None:
        made, original = [threading.Event() for _ in range(5)], DataLoader._augmented

        def recorded(loader: DataLoader, order: np.ndarray, epoch: int, step: int) -> Batch:
            made[step].set()
            return original(loader, order, epoch, step)

        monkeypatch.setattr(DataLoader, "_augmented", recorded)
        batches = loader_of(flip=True).epoch(1)
        next(batches)
        assert made[1].wait(timeout=60)
        assert not made[2].is_set()
        batches.close()  # type: ignore[attr-defined]

    def test_an_epoch_left_early_leaves_no_thread(self) -> None:
        before = threading.active_count()
        for _ in range(3):
            batches = loader_of(flip=True).epoch(1)
            next(batches)
            batches.close()  # type: ignore[attr-defined]
        list(loader_of(flip=True).epoch(1))
        assert threading.active_count() == before

    def test_a_failure_reaches_whoever_asks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        original = DataLoader._augmented

        def failing(loader: DataLoader, order: np.ndarray, epoch: int, step: int) -> Batch:
            if step == 2:
                raise ArithmeticError("batch 2")
            return original(loader, order, epoch, step)

        monkeypatch.setattr(DataLoader, "_augmented", failing)
        batches = loader_of(flip=True).epoch(1)
        next(batches)
        next(batches)
        with pytest.raises(ArithmeticError, match="batch 2"):
            next(batches)


@pytest.mark.parametrize(
    "changes", [{}, {"data_fraction": 0.3}, {"batch_size": 5000}, {"validation": 0.33, "batch_size": 37}]
)
def test_steps_are_known_before_the_data_is_cut(changes: dict) -> None:
    config, dataset = RunConfig(**changes), load("digits")
    loader = DataLoader.of(config, dataset)
    assert steps_of(config, len(dataset.train_labels)) == (loader.steps, loader.batch_size)


def test_plain_batches_are_those_of_an_augmentation_that_changes_nothing() -> None:
    """A recipe without augmentation takes a shorter way to the same bits."""
    loader = loader_of(label_smoothing=0.2)
    assert not is_augmented(loader.config)
    order = np.random.default_rng(0).permutation(len(loader.train))
    for step in range(loader.steps):
        for plain, augmented in zip(loader._plain(order, step), loader._augmented(order, 1, step), strict=True):
            np.testing.assert_array_equal(plain, augmented)
