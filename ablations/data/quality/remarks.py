"""What to know of a dataset before training with it, in lines."""

from collections.abc import Iterator

from ablations.config import count
from ablations.data.dataset import Dataset
from ablations.data.quality.alike import Alike, alike_of
from ablations.data.quality.class_sizes import class_counts, is_imbalanced
from ablations.data.sources.skipped import skipped_text


def remarks(dataset: Dataset) -> Iterator[str]:
    """Yield what groups there are, what was skipped, which images are alike, and whether the classes differ in size."""
    alike, parts = alike_of(dataset), list(dataset.parts)
    yield from filter(None, [dataset.grouping, skipped_line(dataset)])
    for at, later in enumerate(parts):
        yield from filter(None, (alike_line(dataset, alike, earlier, later) for earlier in parts[:at]))
    yield from filter(None, (repeats_line(dataset, alike, part) for part in parts))
    if alike.relabelled:
        is_are = "image is like" if alike.relabelled == 1 else "images are like"
        yield f"{alike.relabelled:,} {is_are} one with another label"
    yield from filter(None, [sizes_line(dataset)])


def skipped_line(dataset: Dataset) -> str:
    """Return what was passed over in reading, such as `skipped 3 files: 2 .txt, 1 .heic`; nothing if nothing was."""
    skipped = skipped_text(dataset.name, dataset.skipped)
    return f"skipped {skipped}" if skipped else ""


def alike_line(dataset: Dataset, alike: Alike, earlier: str, later: str) -> str:
    """Return how many images of a part are duplicates of images of another part, with one of them."""
    total, same = alike.between(earlier, later)
    if not total:
        return ""
    part = dataset.parts[later]
    text = f"{count(total, noun(total, same))} of {earlier} images among {part.stop - part.start:,} {later} images"
    return f"{text} ({same:,} with the same pixels){_example(dataset, alike, earlier, later)}"


def repeats_line(dataset: Dataset, alike: Alike, name: str) -> str:
    """Return how many images of a part are duplicates of others in it."""
    total, same = alike.between(name, name)
    part = dataset.parts[name]
    text = f"{count(total, noun(total, same))} among {part.stop - part.start:,} {name} images"
    return f"{text} ({same:,} with the same pixels)" if total else ""


def noun(total: int, same: int) -> str:
    """Return what images are called of which some have the same pixels as another, and the others are like it."""
    return "duplicate" if total == same else "possible duplicate"


def _example(dataset: Dataset, alike: Alike, earlier: str, later: str) -> str:
    first, second = dataset.parts[earlier], dataset.parts[later]
    for image, twin in alike.examples:
        if first.start <= twin < first.stop and second.start <= image < second.stop:
            return f", such as {dataset.name_of(image)} and {dataset.name_of(twin)}"
    return ""


def sizes_line(dataset: Dataset) -> str:
    """Return a line if some class of the training images is much larger than another, else nothing."""
    counts = class_counts(dataset)
    training, names = counts["training"], dataset.class_names
    if not is_imbalanced(training):
        return ""
    least, most = int(training.argmin()), int(training.argmax())
    reported = "; the report has balanced accuracy and macro F1, too" if is_imbalanced(counts["test"]) else ""
    return (
        f"the classes differ in size, from {training[least]:,} training images of {names[least]} to {training[most]:,} "
        f"of {names[most]}{reported}"
    )
