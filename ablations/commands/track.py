"""`vitab track`, and `vitab run --track`: runs in an experiment tracker."""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ablations.commands.base import console as make_console
from ablations.commands.base import echo, runs_option
from ablations.commands.options import Runs

if TYPE_CHECKING:
    from rich.console import Console

    from ablations.storage import Store
    from ablations.tracking.live import LiveTracking


def track(
    to: Annotated[
        str,
        typer.Option(metavar="TRACKER", help="The tracker: tensorboard, mlflow, wandb (Weights & Biases), trackio."),
    ],
    study: Annotated[str | None, typer.Argument(help="Name of the study. Default: the last one planned.")] = None,
    runs: Runs = Path("runs"),
) -> None:
    """Copy the finished runs of a study to an experiment tracker.

    Copied are the configuration, the metrics of every epoch, the results, and the report of the study. Runs that the
    tracker has are skipped, so the command can be repeated. Runs are written to runs/tracking/TRACKER, or where the
    tracker's own environment variables say, such as MLFLOW_TRACKING_URI or WANDB_MODE. To copy runs while they are
    trained: vitab run --track TRACKER.
    """
    from rich.text import Text

    from ablations.commands import display
    from ablations.commands.report import last_study
    from ablations.config import count
    from ablations.storage import Store
    from ablations.tracking.registry import find_tracker
    from ablations.tracking.study import track_study

    tracker, store, console = find_tracker("--to", to), Store(runs), make_console()
    plan = store.read_study(last_study(store) if study is None else study)
    with console.status(f"copying to {tracker}") as status:
        found = track_study(tracker, store, plan, lambda step: status.update(Text(f"copying to {tracker}: {step}")))
    if found.report:
        echo(f"note: {tracker} gets no report: {found.report}", err=True)
    if found.unfinished:
        echo(f"note: {found.unfinished} of {count(len(plan.keys), 'run')} are not finished", err=True)
    were = "was" if found.present == 1 else "were"
    present = f", {found.present} {were} there" if found.present else ""
    display.say(
        console, f"copied {count(found.copied, 'run')} of study {plan.study} to {tracker}{present}: {found.where}"
    )
    if found.next_step:
        display.say(console, found.next_step)


@contextmanager
def live_tracking(name: str | None, store: "Store", study: str, console: "Console") -> "Iterator[LiveTracking | None]":
    """Return a context in which runs of a study are copied to a tracker while they are trained; None without a name.

    Raises UsageError if there is no such tracker.
    """
    if name is None:
        yield None
        return
    from ablations.commands import display
    from ablations.tracking.live import LiveTracking
    from ablations.tracking.registry import find_tracker

    tracking = LiveTracking(
        find_tracker("--track", name),
        store,
        later=f"vitab track {shlex.quote(study)} --to {name}{runs_option(store.root)}",
        warn=lambda line: echo(f"warning: {line}", err=True),
        say=lambda line: display.say(console, line),
    )
    try:
        yield tracking
    finally:
        tracking.close()
