"""`vitab reproduce`: train a finished run again and compare."""

from pathlib import Path
from typing import Annotated

import typer

from ablations.commands.base import FAILED, echo, stop
from ablations.commands.options import Backend, DataDir, Runs


def reproduce(
    key: Annotated[str, typer.Argument(metavar="KEY", help="A finished run: how the name of its folder begins.")],
    data_dir: DataDir = None,
    backend: Backend = "auto",
    runs: Runs = Path("runs"),
) -> None:
    """Train a finished run again and compare: bit for bit where it was trained, by its accuracy elsewhere."""
    from ablations.execution.reproduction import reproduce
    from ablations.execution.resources import resolve_backend
    from ablations.machine import available_cores
    from ablations.storage import Store, find_key

    store = Store(runs)
    found = find_key(store, key)
    chosen = resolve_backend(backend)
    again = reproduce(store, found, data_dir=data_dir, backend=chosen, threads=available_cores())
    bits = "the same bits" if again.same_bits else "other bits"
    where = "with the same code, packages and processor" if again.same_place else "in another environment"
    echo(
        f"run {found[:16]}, {where}: {bits}; test accuracy {again.accuracy:.2%}, before {again.accuracy_before:.2%} "
        f"(two standard errors: {again.tolerance:.2%})"
    )
    if not again.good:
        stop("the run was not reproduced", FAILED)
