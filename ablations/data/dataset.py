"""Dataset: arrays, class names and a fingerprint."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ablations.data.normalisation import histogram
from ablations.errors import UsageError

UNREADABLE = "unreadable"
"""Reason for which pictures are skipped that cannot be read."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images and labels in memory, validated, with a fingerprint of exactly what is used.

    Args:
        name: The registry's name, such as ``"cifar100"``.
        train_images: uint8 (n, height, width, channels), 0..255.
        train_labels: int64 (n,), indices into ``class_names``.
        test_images: uint8 (m, height, width, channels).
        test_labels: int64 (m,).
        class_names: One name a class, in label order.
        validation_images: How many of the training images, the last ones, are a validation part that the data came
            with; 0 where each run cuts one off by its seed.
        train_groups: int64 (n,), what each training image belongs to, such as a patient: images of a group are not
            divided between training and validation. None: each image is on its own.
        skipped: Numbers of what was passed over in reading, by reason.
        grouping: The groups in words, such as ``"24 groups by column patient"``.
        names: A name for each training image, then for each test image; empty: they are numbered.
        fingerprint: SHA-256 of all that decides on a run: all the above but names and words, and of what was skipped
            only what could not be read. Computed unless it is known.

    Raises:
        UsageError: if shapes, types or labels do not fit together.
    """

    name: str
    train_images: NDArray[np.uint8] = field(repr=False)
    train_labels: NDArray[np.int64] = field(repr=False)
    test_images: NDArray[np.uint8] = field(repr=False)
    test_labels: NDArray[np.int64] = field(repr=False)
    class_names: tuple[str, ...] = field(repr=False)
    validation_images: int = 0
    train_groups: NDArray[np.int64] | None = field(default=None, repr=False)
    skipped: Mapping[str, int] = field(default_factory=dict, repr=False)
    grouping: str = field(default="", repr=False)
    names: Sequence[str] = field(default=(), repr=False)
    fingerprint: str = ""

    def __post_init__(self) -> None:
        for part in ("train", "test"):
            images, labels = getattr(self, f"{part}_images"), getattr(self, f"{part}_labels")
            _check_part(f"{self.name}: {part}", images, labels, self.classes)
        train, test = self.train_images.shape[1:], self.test_images.shape[1:]
        if train != test:
            raise UsageError(f"{self.name}: training and test images must have the same shape, got {train} and {test}")
        if self.train_groups is not None and self.train_groups.shape != self.train_labels.shape:
            raise UsageError(f"{self.name}: there must be a group for each of {len(self.train_labels)} training images")
        if not 0 <= self.validation_images < len(self.train_labels):
            raise UsageError(
                f"{self.name}: validation must leave images to train on, got {self.validation_images} of "
                f"{len(self.train_labels)}"
            )
        if not self.fingerprint:
            object.__setattr__(self, "fingerprint", _fingerprint(self))

    @cached_property
    def train_histogram(self) -> NDArray[np.int64]:
        """How often each channel has each value in the training images, (c, 256)."""
        return histogram(self.train_images)

    @property
    def image_size(self) -> int:
        """Rows of an image; images are square."""
        return int(self.train_images.shape[1])

    @property
    def train_part(self) -> int:
        """Number of training images without those of a validation part that the data came with."""
        return len(self.train_labels) - self.validation_images

    @property
    def channels(self) -> int:
        """1 for grey, 3 for red, green, blue."""
        return int(self.train_images.shape[3])

    @property
    def parts(self) -> dict[str, slice]:
        """The images of each part, numbered through training and test images."""
        training, total = len(self.train_labels), len(self.train_labels) + len(self.test_labels)
        parts = {
            "training": slice(0, self.train_part),
            "validation": slice(self.train_part, training),
            "test": slice(training, total),
        }
        return {name: part for name, part in parts.items() if part.start < part.stop}

    @property
    def labels(self) -> NDArray[np.int64]:
        """Labels of the training and then of the test images."""
        return np.concatenate([self.train_labels, self.test_labels])

    def name_of(self, image: int) -> str:
        """Return the name of an image, numbered as in `parts`."""
        if self.names:
            return self.names[image]
        training = len(self.train_labels)
        return f"training image {image}" if image < training else f"test image {image - training}"

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)


def _check_part(part: str, images: NDArray[np.uint8], labels: NDArray[np.int64], classes: int) -> None:
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] != images.shape[2]:
        raise UsageError(f"{part} images must be uint8 (n, size, size, channels), got {images.dtype} {images.shape}")
    if labels.dtype != np.int64 or labels.shape != images.shape[:1]:
        raise UsageError(f"{part} labels must be int64 {images.shape[:1]}, got {labels.dtype} {labels.shape}")
    if len(labels) == 0:
        raise UsageError(f"{part} part must have at least one image, got none")
    if labels.min() < 0 or labels.max() >= classes:
        raise UsageError(f"{part} labels must be 0 to {classes - 1}, got {labels.min()} to {labels.max()}")


def _fingerprint(dataset: Dataset) -> str:
    """Return the SHA-256 of shapes, pixels, labels and class names, and of what else decides on the parts."""
    digest = hashlib.sha256()
    for array in (dataset.train_images, dataset.train_labels, dataset.test_images, dataset.test_labels):
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    digest.update("\0".join(dataset.class_names).encode())
    if dataset.validation_images:
        digest.update(f"validation {dataset.validation_images}".encode())
    if dataset.train_groups is not None:
        digest.update(b"groups" + np.ascontiguousarray(dataset.train_groups).data)
    if unreadable := dataset.skipped.get(UNREADABLE):
        digest.update(f"{UNREADABLE} {unreadable}".encode())
    return digest.hexdigest()
