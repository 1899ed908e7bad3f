"""`vitab gallery`: draw the test images that a run is most confidently wrong about."""

from pathlib import Path
from typing import Annotated

import typer

from ablations.commands.base import echo
from ablations.commands.options import ArmStudy, DataDir, FigureFile, Run, Runs
from ablations.errors import UsageError

MOST = 500
"""Images in a gallery: a page of more is too high for viewers."""


def gallery(
    run: Run,
    out: FigureFile = Path("gallery.png"),
    count: Annotated[int, typer.Option(metavar="N", help="Largest number of images.")] = 24,
    study: ArmStudy = None,
    data_dir: DataDir = None,
    runs: Runs = Path("runs"),
) -> None:
    """Draw the test images that a finished run is most confidently wrong about.

    Each image has its predicted and its true class with their probabilities, in decreasing order of the probability of
    the predicted class. The predictions are those that were stored after the training.
    """
    from ablations.commands.figure_file import check_figure_file, write_figure
    from ablations.data.registry import check_data_dir
    from ablations.models import find_run, label_of
    from ablations.models.gallery import mistakes
    from ablations.models.trained import check_usable
    from ablations.models.training_data import data_name, dataset_of
    from ablations.storage import Store, config_of

    if not 1 <= count <= MOST:
        raise UsageError(f"--count must be an integer from 1 to {MOST}, got {count}")
    check_figure_file(out)
    store = Store(runs)
    key = find_run(store, run, study)
    check_usable(store, key)
    check_data_dir([config_of(store, key).data], data_dir)
    predictions = store.predictions(key)
    found, tested = mistakes(predictions), len(predictions["labels"])
    if not found:
        echo(f"run {key[:16]} is right about all {tested} test images; no gallery is written")
        return
    dataset = dataset_of(store, key, data_dir)
    from ablations.reporting.figures.mistakes import mistakes_figure

    wrong = f"wrong about {len(found):,} of {tested:,} test images, the most confident mistakes first"
    config = config_of(store, key)
    title = label_of(key, config, data_name(store, key, config)), wrong
    write_figure(mistakes_figure(found[:count], dataset, title=title), out)
    echo(f"wrote {out}: {min(count, len(found)):,} of {len(found):,} mistakes")
