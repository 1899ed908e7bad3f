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
        smallest, largest = f"{names[least]}: {counts[least]:,}", f"{names[most]}: {counts[most]:,}"
        add_row(rows, part, f"{counts.sum():,}", smallest, f"{np.median(counts):,.0f}", largest)
    console.print(rows)
    if found.sizes is not None and len(found.sizes):
        console.print()
        kinds = ", ".join(f"{mode} {number:,}" for mode, number in sorted(found.modes.items(), key=lambda m: -m[1]))
        say(console, f"pixels  {kinds}")
        low, middle, high = (
            "{:,.0f} x {:,.0f}".format(*found.sizes[np.argsort(found.sizes.prod(axis=1), kind="stable")[at]])
            for at in (0, len(found.sizes) // 2, -1)
        )
        say(console, f"sizes   {low} to {high}, median {middle}" if low != high else f"sizes   all {low}")
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
