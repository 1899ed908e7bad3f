"""`vitab compare`: two arms of a study, or two studies."""

from pathlib import Path
from typing import Annotated

import typer

from ablations.commands.options import Mixed, Runs
from ablations.commands.report import last_study


def compare(
    first: Annotated[str, typer.Argument(metavar="A", help="An arm, such as rope or depth=4, or a study.")],
    second: Annotated[str, typer.Argument(metavar="B", help="The arm or study to compare it with.")],
    study: Annotated[
        str | None, typer.Option(metavar="NAME", help="Study of the arms. Default: the last one planned.")
    ] = None,
    runs: Runs = Path("runs"),
    mixed: Mixed = False,
) -> None:
    """Compare two arms of a study, or two studies.

    Methods are compared by paired runs, and the trained models by their predictions.
    """
    from ablations.reporting.compare import compare as compared
    from ablations.storage import Store

    store = Store(runs)
    typer.echo(compared(store, first, second, study=study, last=lambda: last_study(store), mixed=mixed), nl=False)
