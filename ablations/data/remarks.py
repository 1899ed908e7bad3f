"""What to know of a dataset before training with it, in lines."""

from collections.abc import Iterator

import numpy as np

from ablations.config import count
from ablations.data.alike import Alike, alike_of
from ablations.data.dataset import Dataset
from ablations.data.sources.skipped import skipped_text

IMBALANCE = 1.5
"""How much larger the largest class is than the smallest when accuracy alone is no fair summary."""


def remarks(dataset: Dataset) -> Iterator[str]:
    """Yield what was skipped, which images are alike, and whether the classes differ in size."""
    if skipped := skipped_text(dataset.name, dataset.skipped):
        yield f"skipped {skipped}"
    yield from alike_lines(dataset, alike_of(dataset))
    if line := sizes_line(dataset):
        yield line


def alike_lines(dataset: Dataset, alike: Alike) -> Iterator[str]:
    """Yield a line for each two parts that share images, for images that a part repeats, and for their labels."""
    parts = {name: part.stop - part.start for name, part in dataset.parts.items()}
    names = list(parts)
    for at, later in enumerate(names):
        for earlier in names[:at]:
            total, same = alike.between(earlier, later)
            if total:
                text = f"{count(total, 'duplicate')} of {earlier} images among {parts[later]:,} {later} images"
                yield f"{text} ({same:,} with the same pixels)" + _example(dataset, alike, earlier, later)
    for name in names:
        total, same = alike.between(name, name)
        if total:
            yield f"{count(total, 'duplicate')} among {parts[name]:,} {name} images ({same:,} with the same pixels)"
    if alike.relabelled:
        is_are = "image is a duplicate" if alike.relabelled == 1 else "images are duplicates"
        yield f"{alike.relabelled:,} {is_are} of one with another label"


def _example(dataset: Dataset, alike: Alike, earlier: str, later: str) -> str:
    first, second = dataset.parts[earlier], dataset.parts[later]
    for image, twin in alike.examples:
        if first.start <= twin < first.stop and second.start <= image < second.stop:
            return f", such as {dataset.name_of(image)} and {dataset.name_of(twin)}"
    return ""


def sizes_line(dataset: Dataset) -> str:
    """Return a line if some class of the training images is much larger than another, else nothing."""
    counts = np.bincount(dataset.train_labels, minlength=dataset.classes)
    if not is_imbalanced(counts):
        return ""
    least, most = int(counts.argmin()), int(counts.argmax())
    return (
        f"the classes differ in size, from {counts[least]:,} training images of {dataset.class_names[least]} to "
        f"{counts[most]:,} of {dataset.class_names[most]}; the report has balanced accuracy and macro F1, too"
    )


def is_imbalanced(counts: np.ndarray) -> bool:
    """Return whether numbers of images by class differ by more than `IMBALANCE`."""
    return bool(counts.max() > IMBALANCE * counts.min())
