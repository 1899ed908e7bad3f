"""`vitab reproduce`: train a finished run or trial again, or repeat an evaluation, and compare."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ablations.commands.base import FAILED, echo, stop
from ablations.commands.options import Backend, DataDir, Runs


def reproduce(
    key: Annotated[
        str,
        typer.Argument(
            metavar="KEY",
            help="Key of a finished run, trial or evaluation, or its first characters (the name of its folder).",
        ),
    ],
    data_dir: DataDir = None,
    backend: Backend = "auto",
    runs: Runs = Path("runs"),
) -> None:
    """Train a finished run, or one of a trial, again, or repeat an evaluation, and compare the results.

    With the same code, packages and processor, the results must be bitwise identical. Otherwise the accuracies of a run
    must agree within two standard errors, and the metrics of an evaluation within 0.01, or 1 % if they are above 1.
    """
    from ablations.evaluation import protocol_label
    from ablations.execution.reproduction import reproduce, reproduce_evaluation, reproduce_trial
    from ablations.execution.resources import resolve_backend
    from ablations.machine import available_cores
    from ablations.storage import EvaluationStore, Store, TrialStore, find_key

    store, found = find_key(Store(runs), key)
    how: Any = {"data_dir": data_dir, "backend": resolve_backend(backend), "threads": available_cores()}
    if isinstance(store, EvaluationStore):
        repeated = reproduce_evaluation(store, found, **how)
        name, largest = max(repeated.differences.items(), key=lambda item: item[1], default=("", 0.0))
        changed = "" if largest == 0 else f"; largest difference {largest:.3g} times the tolerance ({name})"
        what = f"evaluation {found[:16]} of run {repeated.run[:16]} by {protocol_label(repeated.protocol)}"
        echo(f"{what}, {_described(repeated.same_place, repeated.same_bits)}{changed}")
        if not repeated.good:
            stop("the evaluation was not reproduced", FAILED)
        return
    trial = isinstance(store, TrialStore)
    again = reproduce_trial(store, found, **how) if isinstance(store, TrialStore) else reproduce(store, found, **how)
    what, split = ("trial run", "validation") if trial else ("run", "test")
    echo(
        f"{what} {found[:16]}, {_described(again.same_place, again.same_bits)}; {split} accuracy {again.accuracy:.2%}, "
        f"originally {again.accuracy_before:.2%} (two standard errors: {again.tolerance:.2%})"
    )
    if not again.good:
        stop(f"the {what} was not reproduced", FAILED)


def _described(same_place: bool, same_bits: bool) -> str:
    where = "with the same code, packages and processor" if same_place else "in another environment"
    return f"{where}: {'bitwise identical' if same_bits else 'not bitwise identical'}"
