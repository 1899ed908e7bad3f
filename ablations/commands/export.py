"""`vitab export`: a trained model for timm, or as an ONNX file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from ablations.commands.base import echo
from ablations.commands.options import ArmStudy, DataDir, Run, Runs
from ablations.errors import UsageError

FORMATS = ("timm", "onnx")


def export(
    run: Run,
    target: Annotated[str, typer.Option("--format", metavar="timm|onnx", help="Format of the export.")],
    out: Annotated[
        Path, typer.Option(metavar="DIR|FILE", help="timm: a new or empty folder. onnx: the file to write.")
    ],
    study: ArmStudy = None,
    data_dir: DataDir = None,
    runs: Runs = Path("runs"),
) -> None:
    """Export the model of a finished run to timm or ONNX.

    timm: DIR gets config.json and model.safetensors, from which timm.create_model("local-dir:DIR", pretrained=True)
    makes the same model, with its preprocessing. Not for encodings that timm does not have.

    onnx: FILE has the input image, uint8 (N, channels, height, width) with pixels from 0 to 255, and the outputs logits
    and probabilities. The normalisation is inside. For all built-in encodings.
    """
    from ablations.models import TrainedModel, find_run
    from ablations.models.export import onnx_model, timm_files
    from ablations.storage import Store

    if target not in FORMATS:
        raise UsageError(f"--format must be {' or '.join(FORMATS)}, got {target!r}")
    check = check_new_folder if target == "timm" else check_file
    check(out)
    store = Store(runs)
    model = TrainedModel.load(store, find_run(store, run, study), data_dir)
    if model.note:
        echo(f"note: {model.note}", err=True)
    if target == "timm":
        write_folder(out, timm_files(model))
        how = f"timm.create_model({f'local-dir:{out}'!r}, pretrained=True).eval()"
    else:
        write(out, onnx_model(model))
        c = model.vit_config
        how = (
            f"image, uint8 (N, {c.channels}, {c.image_size}, {c.image_size}) -> logits, probabilities (N, {c.classes})"
        )
    echo(model.label)
    echo(f"wrote {out}: {how}")


def check_new_folder(path: Path) -> None:
    """Raise UsageError if there is something else than an empty folder."""
    try:
        taken = any(path.iterdir()) if path.is_dir() else path.exists()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error
    if taken:
        raise UsageError(f"--out must be a new or empty folder with --format timm, got {path}")


def check_file(path: Path) -> None:
    """Raise UsageError if a file cannot be there."""
    if path.is_dir():
        raise UsageError(f"--out must be a file with --format onnx, got the folder {path}")
    if not path.parent.is_dir():
        raise UsageError(f"--out must be in a folder that exists, got {path}")


def write_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """Write a folder with these files, or nothing. Raises UsageError if it cannot be made."""
    from ablations.reporting.publish import published

    with published(path, tuple(files)) as new:
        for name, content in files.items():
            write(new / name, content)


def write(path: Path, content: bytes) -> None:
    """Write a file, or nothing. Raises StorageError."""
    from ablations.storage import storage_errors, write_file

    with storage_errors(f"cannot write {path}"):
        write_file(path, content)
