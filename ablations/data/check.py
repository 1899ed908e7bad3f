"""What is wrong with a dataset, and what to do about it."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ablations.config import RunConfig
from ablations.config.run_config import OWN_DATA
from ablations.data.alike import Alike, summary, twins_of
from ablations.data.dataset import UNREADABLE, Dataset
from ablations.data.description import class_counts
from ablations.data.duplicates import Twins
from ablations.data.pictures import CROP
from ablations.data.reading import Reading, pictures_of, unreadable_text
from ablations.data.registry import DATASETS, load_for, lookup
from ablations.data.remarks import alike_line, is_imbalanced, repeats_line, skipped_line
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
    where: Path | None
    config: RunConfig
    twins: Twins
    alike: Alike
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    """Names and reasons."""
    modes: Mapping[str, int] = field(default_factory=dict)
    """Numbers of pictures by the kind of their pixels, of one's own pictures."""
    sizes: NDArray[np.int64] | None = None
    """Width and height (k, 2) of one's own pictures in their files."""

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
                    remedy = "remove them from one of the two parts"
                    if self.config.data in OWN_DATA:
                        remedy += ", or keep pictures of one subject together with --group-pattern"
                    yield Finding(line, f"{remedy}; until then the {later} accuracy is too high")
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
        if self.config.resize == CROP and lost > CUT_AWAY:
            text = f"cutting out the largest square removes {100 * lost:.0f} % of a picture on average"
            yield Finding(text, "--set resize=pad or stretch keeps all of it", fault=False)
        grey = sum(number for mode, number in self.modes.items() if is_grey(mode))
        if 0 < grey < sum(self.modes.values()):
            text = f"{grey:,} of {sum(self.modes.values()):,} pictures {'is' if grey == 1 else 'are'} grey"
            yield Finding(text, "if that differs between classes, a model can tell them by it", fault=False)


def check_data(target: str, data_dir: Path | None, config: RunConfig) -> DataCheck:
    """Read a dataset and return what there is to know of it before a training.

    Args:
        target: A key of `DATASETS`, or a folder or file of one's own pictures.
        config: How it is read; its `data` is replaced.

    Raises:
        UsageError: if there is no such dataset, or it cannot be read at all.
    """
    if target not in DATASETS:
        kind, data_dir = kind_of(Path(target)), Path(target)
    else:
        kind = target
    config = RunConfig.from_mapping({**config.canonical(), "data": kind})
    if kind not in KINDS:
        dataset = load_for(config, data_dir)
        twins = twins_of(dataset)
        return DataCheck(dataset, lookup(kind).find(data_dir), config, twins, summary(dataset, twins))
    pictures = pictures_of(kind, data_dir, Reading.of(config))
    dataset = pictures.dataset()
    twins = twins_of(dataset)
    facts = [record for record in pictures.decoded.records if not isinstance(record, str)]
    return DataCheck(
        dataset,
        pictures.source.path,
        config,
        twins,
        summary(dataset, twins),
        pictures.unreadable,
        Counter(mode for _, _, mode in facts),
        np.array([(width, height) for width, height, _ in facts], dtype=np.int64).reshape(-1, 2),
    )


def kind_of(path: Path) -> str:
    """Return what kind of data there is at a path. Raises UsageError if there is none."""
    for kind in KINDS:
        if find_source(kind, path) is not None:
            return kind
    if path.exists():
        open_source("folder" if path.is_dir() else "csv", path)  # which says what it misses
    raise UsageError(
        f"data must be a dataset ({', '.join(DATASETS)}) or a folder or file of pictures, got {str(path)!r}"
    )


def is_grey(mode: str) -> bool:
    """Return whether pixels of this kind have no colour."""
    return mode in ("1", "L", "LA", "La", "F") or mode.startswith("I") or mode.endswith(" x 1")
