"""What a run is fed: its training and validation images, and an epoch of batches, made ahead of the steps."""

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from ablations.config import RunConfig
from ablations.data import Dataset, split, subsample
from ablations.data.augmentation import augment, normalise
from ablations.data.normalisation import histogram, mean_and_std
from ablations.errors import UsageError
from vit import one_hot
from vit.random import stream

Batch = tuple[np.ndarray, np.ndarray]
"""Images (B, h, w, c) float32, normalised, and soft targets (B, C) float32."""


def parts_of(config: RunConfig, images: int, validation: int = 0) -> tuple[int, int]:
    """Return the numbers of training and validation images of a run; with groups they are near to these.

    Args:
        images: In the training part, without `validation`.
        validation: In the validation part that the data came with; 0 where a share of the training part is held out.
    """
    held = 0 if validation else round(config.validation * images)
    return max(1, round(config.data_fraction * (images - held))), held or validation


def steps_of(config: RunConfig, images: int, validation: int = 0) -> tuple[int, int]:
    """Return steps per epoch and images per step of a run, as `parts_of`."""
    used, _ = parts_of(config, images, validation)
    batch = min(config.batch_size, used)
    return used // batch, batch


def check_validation(config: RunConfig, dataset: Dataset) -> None:
    """Raise UsageError if a run sets the share of validation images where the data came with a validation part."""
    if dataset.validation_images and config.validation != RunConfig.validation:
        raise UsageError(
            f"validation cannot be set for this {dataset.name} data, which has its own validation part of "
            f"{dataset.validation_images:,} images; got {config.validation:g}"
        )


def is_augmented(config: RunConfig) -> bool:
    """Return whether the recipe changes images or targets at random."""
    c = config
    return bool(c.crop_padding or c.flip or c.trivial_augment or c.erase or c.mixup or c.cutmix)


@dataclass(frozen=True)
class DataLoader:
    """Batches of the training part of a run, as indices into a dataset that all its loaders share.

    A batch depends only on the seed, the epoch and its position in the epoch: arms of one seed see the same images in
    the same order with the same augmentation.
    """

    config: RunConfig
    dataset: Dataset
    train: np.ndarray
    """Indices (n,) of the images that the run trains on, among the training images of the dataset."""
    validation: np.ndarray
    """Indices (m,) of the validation images, among the training images of the dataset."""
    mean: np.ndarray
    """Mean of each channel (c,) over the images that the run trains on, in units of 0..1."""
    std: np.ndarray
    """Standard deviation of each channel (c,) over the same images."""

    @classmethod
    def of(cls, config: RunConfig, dataset: Dataset) -> "DataLoader":
        """Return the loader of a run.

        Raises UsageError if no image would be held out for validation, or the data came with a validation part and the
        run sets a share.
        """
        check_validation(config, dataset)
        if dataset.validation_images:
            train, validation = np.split(np.arange(len(dataset.train_labels)), [dataset.train_part])
        else:
            train, validation = split(dataset.train_labels, config.validation, config.seed, dataset.train_groups)
        if not len(validation):
            raise UsageError(
                f"validation must hold out at least one of {len(dataset.train_labels)} training images and leave one "
                f"of each class, got {config.validation:g}"
            )
        if config.data_fraction < 1:
            train = train[subsample(dataset.train_labels[train], config.data_fraction, config.seed)]
        return cls(config, dataset, train, validation, *mean_and_std(_histogram(dataset, train)))

    @property
    def validation_labels(self) -> np.ndarray:
        """Labels of the validation images, (m,)."""
        return self.dataset.train_labels[self.validation]

    @property
    def batch_size(self) -> int:
        return min(self.config.batch_size, len(self.train))

    @property
    def steps(self) -> int:
        """Steps in an epoch. The images of an incomplete last batch wait for another epoch's order."""
        return len(self.train) // self.batch_size

    def normalise(self, images: np.ndarray) -> np.ndarray:
        """Return uint8 images (n, h, w, c) as float32, standardised by the training images."""
        return np.asarray(normalise(images, self.mean, self.std))

    def epoch(self, epoch: int, first: int = 0) -> Generator[Batch, None, None]:
        """Yield the batches of an epoch (from 1), starting at step `first`.

        Augmented batches are made while the step before them runs; others are made quickly.
        """
        order = self.order(epoch)
        steps = range(first, self.steps)
        if not is_augmented(self.config):
            yield from (self._plain(order, step) for step in steps)
        elif steps:
            with ThreadPoolExecutor(1) as ahead:
                coming = ahead.submit(self._augmented, order, epoch, first)
                for step in steps[1:]:
                    batch = coming.result()
                    coming = ahead.submit(self._augmented, order, epoch, step)
                    yield batch
                yield coming.result()

    def order(self, epoch: int) -> np.ndarray:
        """Return the order of an epoch (from 1): a permutation of the positions in `train`, (n,)."""
        return stream(self.config.seed, "order", epoch).permutation(len(self.train))

    def _targets(self, indices: np.ndarray) -> np.ndarray:
        labels = self.dataset.train_labels[indices]
        return one_hot(labels, self.dataset.classes, self.config.label_smoothing).astype(np.float32)

    def _chosen(self, order: np.ndarray, step: int) -> np.ndarray:
        return self.train[order[step * self.batch_size : (step + 1) * self.batch_size]]

    def _plain(self, order: np.ndarray, step: int) -> Batch:
        indices = self._chosen(order, step)
        return self.normalise(self.dataset.train_images[indices]), self._targets(indices)

    def _augmented(self, order: np.ndarray, epoch: int, step: int) -> Batch:
        indices = self._chosen(order, step)
        generator = stream(self.config.seed, "augmentation", epoch, step)
        images, targets = self.dataset.train_images[indices], self._targets(indices)
        return augment(images, targets, self.config, generator, self.mean, self.std)


def _histogram(dataset: Dataset, train: np.ndarray) -> np.ndarray:
    """Return the histogram of the images with these indices, from that of all training images if they are many."""
    number = len(dataset.train_labels)
    if len(train) < number / 2:
        return histogram(dataset.train_images, train)
    others = np.setdiff1d(np.arange(number), train)
    return dataset.train_histogram - histogram(dataset.train_images, others)
