"""What is wrong with a dataset, and what to do about it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ablations.config import count
from ablations.data.dataset import UNREADABLE, Dataset
from ablations.data.pictures import CROP
from ablations.data.quality.alike import Alike, summary, twins_of
from ablations.data.quality.class_sizes import class_counts, is_imbalanced
from ablations.data.quality.duplicates import Twins
from ablations.data.quality.remarks import repeats_line, skipped_line
from ablations.data.reading import Reading, pictures_of, unreadable_text
from ablations.data.registry import DATASETS, check_data_dir, load
from ablations.data.sources import KINDS, find_source, open_source
from ablations.data.sources.skipped import NOUNS
from ablations.errors import UsageError

LISTED = "--out FILE.csv lists them"
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
    modes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Names of one's own pictures by the kind of their pixels."""
    sizes: NDArray[np.int64] | None = None
    """Width and height (k, 2) of one's own pictures in their files."""
    own_parts: bool = True
    """Whether the parts came with the data."""

    @property
    def is_own(self) -> bool:
        """Whether these are one's own pictures."""
        return self.dataset.name in KINDS

    def findings(self) -> Iterator[Finding]:
        """Yield what deserves attention, faults first."""
        if self.unreadable:
            yield self._unreadable()
        yield from self._duplicates()
        others = {reason: number for reason, number in self.dataset.skipped.items() if reason != UNREADABLE}
        if line := skipped_line(replace(self.dataset, skipped=others)):
            what = NOUNS.get(self.dataset.name, "file")
            none = {"row": "none of these rows should count", "array": "no images or labels are among these arrays"}
            yield Finding(line, f"check that {none.get(what, 'no pictures are among them')}", fault=False)
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

    def _unreadable(self) -> Finding:
        text = unreadable_text(self.unreadable, len(self.dataset.labels) + len(self.unreadable))
        reasons, fix, _ = text.partition("; fix")
        if not fix:  # values of arrays
            reasons, _, remedy = text.rpartition(": ")
            return Finding(reasons, remedy)
        them = "it" if len(self.unreadable) == 1 else "them"
        remedy = f"fix {them} or {self._remove(len(self.unreadable))}, or leave {them} out with --skip-unreadable"
        return Finding(reasons, f"{remedy}, as vitab run and vitab data sheet can")

    def _duplicates(self) -> Iterator[Finding]:
        parts = list(self.dataset.parts)
        for at, later in enumerate(parts):
            for earlier in parts[:at]:
                yield from self._leaks(earlier, later)
        yield from self._wrong_labels()
        for part in parts:
            if line := repeats_line(self.dataset, self.alike, part):
                advice = f"{self._remove(2)} if there are many" if self.is_own else "copies count more than once"
                if part == "training" and not self.dataset.validation_images:
                    advice += "; copies can get into the validation share"
                yield Finding(line, advice, fault=False)

    def _leaks(self, earlier: str, later: str) -> Iterator[Finding]:
        """Yield images of a part that have the same pixels as one of an earlier part, then those that are like one."""
        at = list(self.dataset.parts)
        twins = self.twins.between(at.index(earlier), at.index(later))
        if number := int(twins.exact.sum()):
            verb = "image has" if number == 1 else "images have"
            text = f"{number:,} {later} {verb} the same pixels as {earlier} images{self._pair(twins, twins.exact)}"
            advice = f"the {later} accuracy is higher than on new images, which the report says"
            if self.is_own:
                advice = f"{self._remove(number)} in one of the two parts; until then the {later} accuracy is too high"
            yield Finding(text, advice + self._group_advice())
        if number := int((~twins.exact).sum()):
            verb = "image looks" if number == 1 else "images look"
            text = f"{number:,} {later} {verb} like {earlier} images{self._pair(twins, ~twins.exact)}"
            yield Finding(text, f"look at them: {LISTED}; some may be copies with small changes", fault=False)

    def _wrong_labels(self) -> Iterator[Finding]:
        """Yield images that are like one of another class: a fault if they have the same pixels."""
        labels = self.dataset.labels
        other = labels[self.twins.image] != labels[self.twins.twin]
        for chosen, verbs, fault in (
            (other & self.twins.exact, ("has the same pixels as", "have the same pixels as"), True),
            (other & ~self.twins.exact, ("looks like", "look like"), False),
        ):
            if number := len(np.unique(self.twins.image[chosen])):
                text = f"{count(number, 'image')} {verbs[number > 1]} an image of another class"
                advice = "correct the labels: no model can be right about both" if fault else "look at the labels"
                yield Finding(f"{text}{self._pair(self.twins, chosen)}", f"{advice}; {LISTED}", fault)

    def _pair(self, twins: Twins, chosen: NDArray[np.bool_]) -> str:
        """Return the first of some pairs, with their classes if these differ."""
        image, twin = int(twins.image[chosen][0]), int(twins.twin[chosen][0])
        names = [self.dataset.name_of(image), self.dataset.name_of(twin)]
        labels = self.dataset.labels[[image, twin]].tolist()
        if labels[0] != labels[1]:
            names = [f"{name} ({self.dataset.class_names[i]})" for name, i in zip(names, labels, strict=True)]
        return f", such as {names[0]} and {names[1]}"

    def _remove(self, number: int) -> str:
        """Return how pictures are removed from data of this kind."""
        it, its = ("it", "its row") if number == 1 else ("them", "their rows")
        if NOUNS.get(self.dataset.name) == "row":
            return f"remove {its}"
        return f"remove {it} from the arrays" if self.dataset.name in ("npz", "idx") else f"remove {it}"

    def _group_advice(self) -> str:
        """Return how pictures of one subject are kept together, where that is possible and is not done."""
        if self.dataset.grouping or self.own_parts or self.dataset.name not in ("folder", "csv", "parquet"):
            return ""
        also = "" if self.dataset.name == "folder" else " or a column of groups"
        return f"; --group-pattern{also} keeps pictures of one subject in one part"

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
        grey = sum(len(names) for mode, names in self.modes.items() if is_grey(mode))
        if 0 < grey < (total := sum(map(len, self.modes.values()))):
            text = f"{grey:,} of {total:,} pictures {'is' if grey == 1 else 'are'} grey"
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
    modes: dict[str, list[str]] = {}
    for at, record in zip(pictures.order.tolist(), pictures.decoded.records, strict=True):
        if not isinstance(record, str):
            modes.setdefault(record[2], []).append(pictures.source.names[at])
    return DataCheck(
        dataset,
        pictures.source.path.resolve().name,
        reading,
        twins,
        summary(dataset, twins),
        pictures.unreadable,
        modes,
        np.array([(width, height) for width, height, _ in facts], dtype=np.int64).reshape(-1, 2),
        pictures.source.own_parts,
    )


def named(target: str, data_dir: Path | None) -> tuple[str, Path | None]:
    """Return the name and place of a dataset that is given by its name, or as a folder or file of one's own pictures.

    Raises UsageError if there is no such dataset.
    """
    if target in DATASETS:
        check_data_dir([target], data_dir, "leave it out, or name what the path holds instead of the dataset")
        return target, data_dir
    path = Path(target).expanduser()
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
