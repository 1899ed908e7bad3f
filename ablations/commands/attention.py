"""`vitab attention`: draw where a trained model looks in a picture."""

from pathlib import Path
from typing import Annotated

import typer

from ablations.commands.base import echo
from ablations.commands.options import ArmStudy, DataDir, FigureFile, Run, Runs


def attention(
    run: Run,
    picture: Annotated[
        str,
        typer.Argument(
            metavar="PICTURE", help="A picture file (PNG, JPEG, WebP, BMP, TIFF, GIF), or - for standard input."
        ),
    ],
    out: FigureFile = Path("attention.png"),
    study: ArmStudy = None,
    data_dir: DataDir = None,
    runs: Runs = Path("runs"),
) -> None:
    """Draw where the model of a finished run looks in a picture.

    The figure shows the picture as the model gets it, a map of the attention of each head in each block (mean over the
    query patches, or of the class token if the model classifies by it), and the attention rollout over all blocks.
    """
    from ablations.commands.figure_file import check_figure_file, write_figure
    from ablations.commands.pictures import read
    from ablations.config.safe_text import shortened
    from ablations.models import TrainedModel, find_run
    from ablations.models.attention import attention as attention_in
    from ablations.models.predict import predict
    from ablations.storage import Store

    check_figure_file(out)
    store = Store(runs)
    model = TrainedModel.load(store, find_run(store, run, study), data_dir)
    if model.note:
        echo(f"note: {model.note}", err=True)
    image = read(model.preprocessing, picture)
    (best,) = predict(model, [(picture, image)], 1)
    from ablations.reporting.figures.attention_maps import attention_figure

    figure = attention_figure(
        image,
        attention_in(model, image),
        model.vit_config,
        run=model.label,
        prediction=f"predicted class\n{shortened(best.classes[0], 16)}\n{100 * best.probabilities[0]:.1f} %",
    )
    write_figure(figure, out)
    echo(f"wrote {out}")
