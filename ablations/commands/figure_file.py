"""Files of figures that commands write."""

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ablations.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METADATA: dict[str, dict[str, Any]] = {
    ".png": {"Software": None},
    ".pdf": {"Creator": None, "Producer": None, "CreationDate": None},
    ".svg": {"Creator": None, "Date": None},
}
"""By suffix, the metadata that are left out, so that the same figure gives the same bytes."""


def check_figure_file(path: Path) -> None:
    """Raise UsageError if a figure cannot be written there, before it is drawn."""
    if path.suffix.lower() not in METADATA:
        raise UsageError(f"--out must end in {', '.join(METADATA)}, got {path}")
    if path.is_dir():
        raise UsageError(f"--out must be a file, got the folder {path}")
    if not path.parent.is_dir():
        raise UsageError(f"--out must be in a folder that exists, got {path}")


def write_figure(figure: "Figure", path: Path) -> None:
    """Write a figure as PNG, PDF or SVG, whole or not at all. Raises StorageError."""
    from ablations.reporting.figures.palette import style
    from ablations.storage import storage_errors, write_file

    suffix, content = path.suffix.lower(), io.BytesIO()
    with style():
        figure.savefig(content, format=suffix[1:], dpi=200, metadata=METADATA[suffix])
    with storage_errors(f"cannot write {path}"):
        write_file(path, content.getvalue())
