"""`vitab status`: the state of every run of a study."""

import contextlib
import time
from pathlib import Path
from typing import Annotated

import typer

from ablations.commands.base import FAILED, echo
from ablations.commands.base import console as make_console
from ablations.commands.options import Runs, Study

WATCH_EVERY = 2.0
"""Seconds between two updates of `vitab status --watch`."""
WATCH_NOBODY = 30.0
"""Seconds without an active run after which `vitab status --watch` ends."""


def status(
    study: Study = None,
    runs: Runs = Path("runs"),
    verify: Annotated[
        bool, typer.Option("--verify", help="Also check the files of finished runs, as `vitab verify` does.")
    ] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Update every two seconds until no run is active.")] = False,
) -> None:
    """Show finished, running, failed and remaining runs, and the evaluations of studies that have any."""
    from ablations.commands import display
    from ablations.storage import Store

    store = Store(runs)
    if study is not None:
        store.read_study(study)
    elif not store.studies():
        echo(store.describe_studies())
        return
    if watch:
        from rich.live import Live

        worked = time.monotonic()
        with contextlib.suppress(KeyboardInterrupt), Live(console=make_console(), auto_refresh=False) as live:
            while True:
                view, to_do, running = display.view_studies(store, study)
                live.update(view, refresh=True)
                worked = time.monotonic() if running else worked
                if not (to_do or running) or time.monotonic() - worked >= WATCH_NOBODY:
                    break
                time.sleep(WATCH_EVERY)
        return
    if not display.show_studies(make_console(), store, study, verify=verify):
        raise typer.Exit(FAILED)
