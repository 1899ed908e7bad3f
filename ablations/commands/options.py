"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

Runs = Annotated[Path, typer.Option("--runs", metavar="DIR", help="Folder of the runs.")]
DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        metavar="PATH",
        help="Folder or file of the dataset. Default: the user's cache; your own data have no default.",
    ),
]
Columns = Annotated[
    str | None,
    typer.Option(
        metavar="file=NAME,...",
        help="For csv and parquet: columns of file (or image), label, split and group. Default: the usual names.",
    ),
]
GroupPattern = Annotated[
    str | None,
    typer.Option(
        "--group-pattern",
        metavar="REGEX",
        help="For your own pictures: regular expression that finds the patient, scene or series in the name of a "
        "picture (its first group, or all of it). Pictures with the same match are kept in the same split.",
    ),
]
SkipUnreadable = Annotated[
    bool, typer.Option("--skip-unreadable", help="Leave out pictures that cannot be read, and count them.")
]
Study = Annotated[str | None, typer.Argument(help="Name of the study. Default: all studies.")]
Run = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="Key of a finished run or its first characters, or an arm of a study, such as "
        "rope,depth=4,patch=4,seed=0. Without a seed, the smallest finished one.",
    ),
]
ArmStudy = Annotated[
    str | None, typer.Option("--study", metavar="NAME", help="Study of the arm. Default: the last one planned.")
]
FigureFile = Annotated[Path, typer.Option(metavar="FILE", help="File to write: .png, .pdf or .svg.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print plain lines instead of a live table.")]
Precision = Annotated[
    str | None,
    typer.Option(
        metavar="float32|tf32|bf16",
        help="Precision of matrix products. Default: bf16 on GPUs that support it, else float32.",
    ),
]
Backend = Annotated[
    str, typer.Option(metavar="auto|numpy|cupy", help="Array library. auto: cupy if there is a usable GPU, else numpy.")
]
Workers = Annotated[
    str,
    typer.Option(
        metavar="N|auto",
        help="Number of worker processes. Does not affect the results. auto: one per core, or one per GPU.",
    ),
]
Stack = Annotated[
    str,
    typer.Option(
        metavar="N|auto",
        help="Maximum number of runs with the same model shape to train as one model. auto: 1 on a CPU, as many as "
        "fit on a GPU.",
    ),
]
Dask = Annotated[
    str | None, typer.Option("--dask", metavar="ADDRESS", help="Work on the Dask cluster with this scheduler.")
]
Insecure = Annotated[
    bool, typer.Option("--insecure", help="With --dask: allow unencrypted connections to other machines.")
]
Track = Annotated[
    str | None,
    typer.Option(
        "--track",
        metavar="tensorboard|mlflow|wandb|trackio",
        help="Copy the runs to an experiment tracker while they are trained; later: vitab track.",
    ),
]
ProtocolList = Annotated[
    str | None,
    typer.Option(
        "--protocol",
        metavar="a,b",
        help="Evaluation protocols, comma-separated (see `vitab protocols`), such as "
        "resolution,shift(fill=zero),mine.py:Mine. Default: those of the grid.",
    ),
]
Mixed = Annotated[
    bool,
    typer.Option("--mixed", help="Include runs that were trained with different code or data; the output states this."),
]
