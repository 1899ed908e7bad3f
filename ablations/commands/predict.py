"""`vitab predict`: classify pictures with a trained model."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ablations.commands.base import FAILED, echo
from ablations.commands.base import console as make_console
from ablations.commands.options import ArmStudy, DataDir, Run, Runs
from ablations.errors import UsageError

if TYPE_CHECKING:
    from ablations.models import TrainedModel
    from ablations.models.predict import Prediction


def predict(
    run: Run,
    pictures: Annotated[
        list[str],
        typer.Argument(
            metavar="PICTURE",
            help="Picture files (PNG, JPEG, WebP, BMP, TIFF, GIF), folders of them, or - for standard input.",
        ),
    ],
    top: Annotated[int, typer.Option(metavar="N", help="Number of classes, the most probable first.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV instead of a table.")] = False,
    study: ArmStudy = None,
    data_dir: DataDir = None,
    runs: Runs = Path("runs"),
) -> None:
    """Classify pictures with the model of a finished run.

    A picture is turned upright, made square, resized and normalised as the pictures of the training were; unless the
    run set resize, the largest centred square is cut out. Pictures that cannot be read are named and left out. Exit
    codes: 0 success, 1 a picture could not be read, 2 bad input.
    """
    from ablations.commands import pictures as given
    from ablations.models import TrainedModel, find_run
    from ablations.models.predict import find_pictures
    from ablations.models.predict import predict as classify
    from ablations.storage import Store

    if top < 1:
        raise UsageError(f"--top must be an integer of at least 1, got {top}")
    if pictures.count(given.STANDARD_INPUT) > 1:
        raise UsageError("- must be given once, because there is one picture on standard input")
    if as_json and as_csv:
        raise UsageError("--json and --csv cannot be combined")
    names, store = find_pictures(pictures), Store(runs)
    model = TrainedModel.load(store, find_run(store, run, study), data_dir)
    if model.note:
        echo(f"note: {model.note}", err=True)
    readable = []
    for name in names:
        try:
            readable.append((name, given.read(model.preprocessing, name)))
        except UsageError as error:
            echo(f"error: {error}", err=True)
    predictions = classify(model, readable, top)
    if as_json:
        typer.echo(_json(model, predictions), nl=False)
    elif as_csv:
        typer.echo(_csv(predictions), nl=False)
    elif predictions:
        _print_table(model, predictions)
    if len(readable) < len(names):
        raise typer.Exit(FAILED)


def _print_table(model: "TrainedModel", predictions: "Sequence[Prediction]") -> None:
    from ablations.commands.display import add_row, say, table

    console = make_console()
    say(console, model.label)
    rows = table("picture", "class", "probability", right=("probability",))
    for prediction in predictions:
        name = prediction.picture
        for class_name, probability in zip(prediction.classes, prediction.probabilities, strict=True):
            add_row(rows, name, class_name, f"{probability:.1%}")
            name = ""
    console.print(rows)


def _json(model: "TrainedModel", predictions: "Sequence[Prediction]") -> bytes:
    """Return predictions as JSON; the probabilities have the digits that give the same float32 again."""
    listed = [
        {
            "picture": one.picture,
            "classes": [
                {"class": name, "probability": float(str(probability))}
                for name, probability in zip(one.classes, one.probabilities, strict=True)
            ],
        }
        for one in predictions
    ]
    text = json.dumps({"run": model.key, "predictions": listed}, indent=2, ensure_ascii=False)
    return (text + "\n").encode(errors="backslashreplace")  # bytes of a name that are not text


def _csv(predictions: "Sequence[Prediction]") -> bytes:
    """Return predictions as CSV, a row for each class; names of files keep their bytes."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["picture", "rank", "class", "probability"])
    for one in predictions:
        for rank, (name, probability) in enumerate(zip(one.classes, one.probabilities, strict=True), 1):
            rows.writerow([one.picture, rank, name, str(probability)])
    return text.getvalue().encode(errors="surrogateescape")
