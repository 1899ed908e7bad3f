"""What is wrong with a dataset, and what to do about it."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ablations.data.dataset import UNREADABLE, Dataset
from ablations.data.pictures import CROP
from ablations.data.quality.alike import Alike, summary, twins_of
from ablations.data.quality.class_sizes import class_counts, is_imbalanced
from ablations.data.quality.duplicates import Twins
from ablations.data.quality.remarks import alike_line, repeats_line, skipped_line
from ablations.data.reading import Reading, pictures_of, unreadable_text
from ablations.data.registry import DATASETS, check_data_dir, load
from ablations.data.sources import KINDS, find_source, open_source
from ablations.errors import UsageError

CUT_AWAY = 0.2
"""Mean share of a picture that a crop cuts away from which another way to make it square is suggested."""


@dataclass(frozen=True)
class Finding:
    """Something about a dataset that deserves attention."""

    text: str
    advice: str
    fault: bool = True
    """Whether results would be wrong or images are lost; else it is something to know."""


@dataclass(frozen=True, eq=False)
class DataCheck:
    """A dataset with all that its check found."""

    dataset: Dataset
    name: str
    """That of the dataset, or of the folder or file of one's own pictures."""
    reading: Reading
    twins: Twins
    alike: Alike
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    """Names and reasons."""
    modes: Mapping[str, int] = field(default_factory=dict)
    """Numbers of pictures by the kind of their pixels, of one's own pictures."""
    sizes: NDArray[np.int64] | None = None
    """Width and height (k, 2) of one's own pictures in their files."""

    @property
    def is_own(self) -> bool:
        """Whether these are one's own pictures."""
        return self.dataset.name in KINDS

    def findings(self) -> Iterator[Finding]:
        """Yield what deserves attention, faults first."""
        if self.unreadable:
            total = len(self.dataset.labels) + len(self.unreadable)
            text, _, advice = unreadable_text(self.unreadable, total).partition("; fix")
            yield Finding(text, f"fix{advice}")
        yield from self._duplicates()
        others = {reason: number for reason, number in self.dataset.skipped.items() if reason != UNREADABLE}
        if line := skipped_line(replace(self.dataset, skipped=others)):
            yield Finding(line, "check that no pictures are among them", fault=False)
        yield from self._balance()
        yield from self._shapes()

    def rows(self) -> Iterator[tuple[str, str, str, str]]:
        """Yield every picture that was found: what, its name, the name of the other picture, and a reason."""
        for name, reason in self.unreadable:
            yield "unreadable", name, "", reason
        labels, names = self.dataset.labels, self.dataset.class_names
        for image, twin, exact in zip(self.twins.image, self.twins.twin, self.twins.exact, strict=True):
            classes = f"{names[labels[image]]}, {names[labels[twin]]}" if labels[image] != labels[twin] else ""
            what = "same pixels" if exact else "near-duplicate"
            yield what, self.dataset.name_of(int(image)), self.dataset.name_of(int(twin)), classes

    def _duplicates(self) -> Iterator[Finding]:
        parts = list(self.dataset.parts)
        for at, later in enumerate(parts):
            for earlier in parts[:at]:
                if line := alike_line(self.dataset, self.alike, earlier, later):
                    advice = f"the {later} accuracy is higher than on new images, which the report says"
                    if self.is_own:
                        advice = (
                            "remove them from one of the two parts, or keep pictures of one subject together with "
                            f"--group-pattern; until then the {later} accuracy is too high"
                        )
                    yield Finding(line, advice)
        if self.alike.relabelled:
            verb = "is" if self.alike.relabelled == 1 else "are"
            text = f"{self.alike.relabelled:,} of the images {verb} like an image of another class"
            yield Finding(text, "correct the labels: no model can be right about both")
        for part in parts:
            if line := repeats_line(self.dataset, self.alike, part):
                advice = "remove them if there are many"
                if part == "training" and not self.dataset.validation_images:
                    advice += "; copies can get into the validation share"
                yield Finding(line, advice, fault=False)

    def _balance(self) -> Iterator[Finding]:
        counts = class_counts(self.dataset)
        if is_imbalanced(counts["training"]):
            least, most = counts["training"].min(), counts["training"].max()
            text = f"the largest class has {most / max(least, 1):.1f} times the training images of the smallest"
            yield Finding(text, "read balanced accuracy and macro F1 in the report, not accuracy alone", fault=False)
        test = counts["test"]
        if test.min() < 10:
            name = self.dataset.class_names[int(test.argmin())]
            text = f"class {name} has only {test.min()} test images"
            yield Finding(text, "its accuracy is uncertain; add images", fault=False)

    def _shapes(self) -> Iterator[Finding]:
        if self.sizes is None or not len(self.sizes):
            return
        side = self.dataset.image_size
        small = int((self.sizes.max(axis=1) < side).sum())
        if small:
            text = f"{small:,} pictures are smaller than {side} x {side} pixels"
            yield Finding(text, "they are enlarged; a smaller --set image_size avoids that", fault=False)
        lost = float((1 - self.sizes.min(axis=1) / self.sizes.max(axis=1)).mean())
        if self.reading.resize == CROP and lost > CUT_AWAY:
            text = f"cutting out the largest square removes {100 * lost:.0f} % of a picture on average"
            yield Finding(text, "--set resize=pad or stretch keeps all of it", fault=False)
        grey = sum(number for mode, number in self.modes.items() if is_grey(mode))
        if 0 < grey < sum(self.modes.values()):
            text = f"{grey:,} of {sum(self.modes.values()):,} pictures {'is' if grey == 1 else 'are'} grey"
            yield Finding(text, "if that differs between classes, a model can tell them by it", fault=False)


def check_data(name: str, data_dir: Path | None, reading: Reading, labels: str = "fine") -> DataCheck:
    """Read a dataset and return what there is to know of it before a training. Raises UsageError as `load`.

    Pictures that cannot be read are left out and listed.
    """
    if name not in KINDS:
        dataset = load(name, data_dir=data_dir, labels=labels, reading=reading)
        twins = twins_of(dataset)
        return DataCheck(dataset, dataset.name, reading, twins, summary(dataset, twins))
    pictures = pictures_of(name, data_dir, reading)
    dataset = pictures.dataset()
    twins = twins_of(dataset)
    facts = [record for record in pictures.decoded.records if not isinstance(record, str)]
    return DataCheck(
        dataset,
        pictures.source.path.resolve().name,
        reading,
        twins,
        summary(dataset, twins),
        pictures.unreadable,
        Counter(mode for _, _, mode in facts),
        np.array([(width, height) for width, height, _ in facts], dtype=np.int64).reshape(-1, 2),
    )


def named(target: str, data_dir: Path | None) -> tuple[str, Path | None]:
    """Return the name and place of a dataset that is given by its name, or as a folder or file of one's own pictures.

    Raises UsageError if there is no such dataset.
    """
    if target in DATASETS:
        check_data_dir([target], data_dir, "leave it out, or name what the path holds instead of the dataset")
        return target, data_dir
    path = Path(target)
    if data_dir is not None:
        raise UsageError(f"the data must be given once, got {target!r} and --data-dir {data_dir}")
    for kind in KINDS:
        if find_source(kind, path) is not None:
            return kind, path
    if path.exists():
        open_source("folder" if path.is_dir() else "csv", path)  # which says what it misses
    known = ", ".join(DATASETS)
    raise UsageError(f"data must be a dataset ({known}) or a folder or file of pictures, got {target!r}")


def is_grey(mode: str) -> bool:
    """Return whether pixels of this kind have no colour."""
    return mode in ("1", "L", "LA", "La", "F") or mode.startswith("I") or mode.endswith(" x 1")
