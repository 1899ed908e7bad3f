"""Pictures that commands are given: files, or one picture on standard input."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    import numpy as np

    from ablations.data.preprocessing import Preprocessing

STANDARD_INPUT = "-"


def read(preprocessing: "Preprocessing", picture: str) -> "np.ndarray":
    """Return a picture as `Preprocessing.read` does; `-` is the one on standard input."""
    if picture == STANDARD_INPUT:
        content = io.BytesIO(typer.get_binary_stream("stdin").read())
        return preprocessing.read(content, name="standard input")
    return preprocessing.read(Path(picture))
