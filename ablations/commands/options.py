"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

Runs = Annotated[Path, typer.Option("--runs", metavar="DIR", help="Folder of finished runs.")]
DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", metavar="DIR", help="Where the data set's files are; default: the user's cache."),
]
Study = Annotated[str | None, typer.Argument(help="Name of the study; default: all.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Plain lines instead of the live table.")]
Precision = Annotated[
    str | None,
    typer.Option(metavar="float32|tf32|bf16", help="Of matrix products; default: bf16 on GPUs that have it."),
]
Backend = Annotated[str, typer.Option(metavar="auto|numpy|cupy", help="auto: cupy where there is a GPU for it.")]
Workers = Annotated[str, typer.Option(metavar="N|auto", help="Runs side by side; the results do not depend on it.")]
Stack = Annotated[
    str,
    typer.Option(
        metavar="N|auto", help="Runs of one shape trained as one model; auto: 1 on a CPU, by memory on a GPU."
    ),
]
Mixed = Annotated[bool, typer.Option("--mixed", help="Take runs of different code or data together, and say so.")]
