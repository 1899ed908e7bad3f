"""`vitab reproduce`: train a finished run again and compare."""

from pathlib import Path
from typing import Annotated

import typer

from ablations.commands.base import FAILED, echo, stop
from ablations.commands.options import Backend, DataDir, Runs


def reproduce(
    key: Annotated[
        str,
        typer.Argument(metavar="KEY", help="Key of a finished run, or its first characters (the name of its folder)."),
    ],
    data_dir: DataDir = None,
    backend: Backend = "auto",
    runs: Runs = Path("runs"),
) -> None:
    """Train a finished run again and compare the results.

    With the same code, packages and processor, the results must be bitwise identical; otherwise the accuracies must
    agree within two standard errors.
    """
    from ablations.execution.reproduction import reproduce
    from ablations.execution.resources import resolve_backend
    from ablations.machine import available_cores
    from ablations.storage import Store, find_key

    store = Store(runs)
    found = find_key(store, key)
    chosen = resolve_backend(backend)
    again = reproduce(store, found, data_dir=data_dir, backend=chosen, threads=available_cores())
    bits = "bitwise identical" if again.same_bits else "not bitwise identical"
    where = "with the same code, packages and processor" if again.same_place else "in another environment"
    echo(
        f"run {found[:16]}, {where}: {bits}; test accuracy {again.accuracy:.2%}, "
        f"originally {again.accuracy_before:.2%} (two standard errors: {again.tolerance:.2%})"
    )
    if not again.good:
        stop("the run was not reproduced", FAILED)
