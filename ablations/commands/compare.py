"""`vitab compare`: two arms of a study, or two studies."""

from pathlib import Path
from typing import Annotated

import typer

from ablations.commands.base import runs_option
from ablations.commands.options import Mixed, Runs
from ablations.commands.report import Metric, last_study


def compare(
    first: Annotated[str, typer.Argument(metavar="A", help="An arm, such as rope or depth=4, or a study.")],
    second: Annotated[str, typer.Argument(metavar="B", help="The arm or study to compare it with.")],
    study: Annotated[
        str | None, typer.Option(metavar="NAME", help="Study of the arms. Default: the last one planned.")
    ] = None,
    runs: Runs = Path("runs"),
    metric: Metric = "accuracy",
    mixed: Mixed = False,
) -> None:
    """Compare two arms of a study, or two studies.

    Methods are compared by paired runs, and the trained models by their predictions. With --metric, the runs are
    compared by what an evaluation protocol measured.
    """
    from ablations.reporting.compare import compare as compared
    from ablations.storage import Store

    store = Store(runs)
    text = compared(
        store,
        first,
        second,
        study=study,
        last=lambda: last_study(store),
        mixed=mixed,
        metric=metric,
        options=runs_option(runs),
    )
    typer.echo(text, nl=False)
