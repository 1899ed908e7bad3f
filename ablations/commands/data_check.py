"""What `vitab data check` prints and writes."""

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ablations.commands.display import add_row, say, table
from ablations.config import count
from ablations.data.quality.check import DataCheck
from ablations.data.quality.class_sizes import class_counts
from ablations.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console


def show(console: "Console", found: DataCheck) -> int:
    """Print a check, and return the number of faults."""
    dataset = found.dataset
    square = f", {found.reading.resize}" if found.is_own else ""
    shape = f"{dataset.image_size} x {dataset.image_size} x {dataset.channels}{square}"
    say(console, f"{found.name}: {count(len(dataset.labels), 'image')} in {dataset.classes} classes ({shape})")
    say(console, f"fingerprint {dataset.fingerprint[:16]}")
    console.print()
    rows = table("part", "images", "smallest class", "median", "largest class", right=("images", "median"))
    for part, counts in class_counts(dataset).items():
        least, most = int(counts.argmin()), int(counts.argmax())
        names = dataset.class_names
        if least == most or counts[least] == counts[most]:
            add_row(rows, part, f"{counts.sum():,}", f"all classes have {counts[least]:,}", "", "")
            continue
        smallest, largest = f"{names[least]}: {counts[least]:,}", f"{names[most]}: {counts[most]:,}"
        add_row(rows, part, f"{counts.sum():,}", smallest, f"{np.median(counts):,.0f}", largest)
    console.print(rows)
    if found.sizes is not None and len(found.sizes):
        console.print()
        kinds = sorted(found.modes.items(), key=lambda item: -len(item[1]))
        texts = [f"{len(names):,} {mode_text(mode)}" for mode, names in kinds]
        texts[1:] = [f"{text}, such as {names[0]}" for text, (_, names) in zip(texts[1:], kinds[1:], strict=True)]
        say(console, f"pixels  {'; '.join(texts)}")
        low, middle, high = (
            "{:,.0f} x {:,.0f}".format(*found.sizes[np.argsort(found.sizes.prod(axis=1), kind="stable")[at]])
            for at in (0, len(found.sizes) // 2, -1)
        )
        sizes = f"smallest {low}, median {middle}, largest {high} pixels" if low != high else f"all {low} pixels"
        say(console, f"sizes   {sizes} (width x height)")
    if dataset.grouping:
        say(console, f"groups  {dataset.grouping}")
    findings = list(found.findings())
    for title, chosen in (("Faults", True), ("To know", False)):
        if some := [finding for finding in findings if finding.fault is chosen]:
            console.print()
            say(console, title, style="bold")
            for finding in some:
                say(console, f"- {finding.text}")
                say(console, f"  {finding.advice}")
    if not findings:
        console.print()
        say(console, "nothing found that deserves attention")
    return sum(finding.fault for finding in findings)


MODES = {
    "1": "black and white",
    "L": "grey",
    "LA": "grey with transparency",
    "I": "grey of 32 bits",
    "F": "grey in floating point",
    "P": "palette",
    "RGB": "colour",
    "RGBA": "colour with transparency",
    "CMYK": "CMYK",
    "YCbCr": "colour (YCbCr)",
}
"""Pillow's kinds of pixels in words."""


def mode_text(mode: str) -> str:
    """Return a kind of pixels in words: of files by `MODES`, of arrays their type and channels."""
    if mode.startswith("I;16"):
        return "16-bit grey"
    return MODES.get(mode, f"arrays of {mode}" if " x " in mode else mode)


def write_rows(found: DataCheck, path: Path) -> Path:
    """Write every picture that was found to a CSV file."""
    from ablations.storage.files import write_file

    if path.suffix.lower() != ".csv":
        raise UsageError(f"--out must end in .csv, got {path}")
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("finding", "image", "other", "note"))
    writer.writerows(found.rows())
    try:
        write_file(path, text.getvalue().encode(errors="surrogateescape"))
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from error
    return path
