"""`vitab data`: list, download, check and show datasets."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ablations.commands.base import FAILED, Commands, echo
from ablations.commands.base import console as make_console
from ablations.commands.data_notes import decoding_shown
from ablations.commands.options import Columns, DataDir, GroupPattern, SkipUnreadable

if TYPE_CHECKING:
    from ablations.data.reading import Reading

Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="FIELD=VALUE",
        help="How your own data are read, as in vitab run, such as image_size=48. Can be repeated.",
    ),
]

Labels = Annotated[str, typer.Option(metavar="fine|coarse", help="For cifar100: 100 fine or 20 coarse classes.")]

Source = Annotated[
    str, typer.Argument(metavar="NAME|PATH", help="Name of a dataset (see `vitab data`), or your folder or file.")
]

data_app = typer.Typer(
    cls=Commands,
    rich_markup_mode=None,
    help="List, download and check datasets.",
    epilog="\b\nExample:\n  vitab data fetch cifar100",
)


@data_app.callback(invoke_without_command=True)
def list_data(context: typer.Context, data_dir: DataDir = None) -> None:
    if context.invoked_subcommand is None:
        from ablations.commands.display import show_datasets
        from ablations.data.catalog import list_datasets

        show_datasets(make_console(), list_datasets(data_dir))


@data_app.command("fetch")
def fetch_data(name: Annotated[str, typer.Argument(help="Name of a dataset (see `vitab data`).")]) -> None:
    """Download a dataset into the user's cache and verify it. An interrupted download resumes."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    from ablations.data.catalog import fetch_dataset, remotes_of

    remotes_of(name)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=make_console(), transient=True) as bars:
        tasks: dict[str, Any] = {}

        def on_progress(file: str, so_far: int, total: int | None) -> None:
            if file not in tasks:
                tasks[file] = bars.add_task(file)
            bars.update(tasks[file], completed=so_far, total=total)

        paths = fetch_dataset(name, on_progress)
    for path in paths:
        echo(path)


@data_app.command("verify")
def verify_data(
    source: Source,
    data_dir: DataDir = None,
    columns: Columns = None,
    settings: Settings = None,
) -> None:
    """Read a whole dataset with all checks, and print what it contains."""
    from ablations.data.catalog import verify_dataset
    from ablations.data.quality.check import named

    name, place = named(source, data_dir)
    found = verify_dataset(name, place, reading=reading_of(name, columns, settings))
    parts = [found.train_images, found.validation_images, found.test_images]
    images = " + ".join(f"{number:,}" for number in parts if number)
    echo(
        f"{found.name} in {found.where} is complete: {images} images of "
        f"{found.image_size} x {found.image_size} x {found.channels} in {found.classes} classes, "
        f"fingerprint {found.fingerprint[:16]}"
    )


@data_app.command("sheet")
def draw_sheet(
    source: Source,
    out: Annotated[Path, typer.Option(metavar="FILE.png", help="Image file to write.")],
    data_dir: DataDir = None,
    columns: Columns = None,
    skip_unreadable: SkipUnreadable = False,
    settings: Settings = None,
    labels: Labels = "fine",
    classes: Annotated[
        str | None, typer.Option(metavar="N|a,b", help="Use the first N classes, or the named ones.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the random samples.", min=0)] = 0,
) -> None:
    """Write an image with labelled samples of every class."""
    from ablations.config import parse
    from ablations.data.catalog import sheet
    from ablations.data.quality.check import named

    name, place = named(source, data_dir)
    chosen = None if classes is None else parse("classes", classes)
    reading = reading_of(name, columns, settings)
    reading = replace(reading, skip_unreadable=reading.skip_unreadable or skip_unreadable)
    echo(f"wrote {sheet(name, out, place, labels=labels, classes=chosen, seed=seed, reading=reading)}")


def reading_of(
    name: str, columns: str | None, settings: list[str] | None, group_pattern: str | None = None
) -> "Reading":
    """Return how a dataset is read by the options of a command.

    Raises UsageError for a field that does not concern this, or not this dataset.
    """
    from dataclasses import fields

    from ablations.config import RunConfig
    from ablations.config.grid_overrides import parse_settings
    from ablations.data.reading import Reading
    from ablations.data.registry import lookup
    from ablations.errors import unknown_name

    lookup(name)
    chosen = parse_settings({"columns": columns, "group_pattern": group_pattern}, settings or [])
    valid = [field.name for field in fields(Reading)]
    for field in chosen:
        if field not in valid:
            raise unknown_name("field of data", field, valid)
    return Reading.of(RunConfig.from_mapping({"data": name, **chosen}))


@data_app.command("check")
def check_data(
    context: typer.Context,
    source: Source,
    data_dir: DataDir = None,
    columns: Columns = None,
    group_pattern: GroupPattern = None,
    settings: Settings = None,
    labels: Labels = "fine",
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.csv", help="CSV file that lists every picture with a finding.")
    ] = None,
) -> None:
    """Look for duplicates, leaks between the parts, unreadable files and unequal classes, and say what to do.

    Exit codes: 0 nothing wrong, 1 faults found, 2 bad input.
    """
    from ablations.commands.data_check import show, write_rows
    from ablations.data.quality.check import check_data, named

    console = make_console()
    context.with_resource(decoding_shown(console))
    name, place = named(source, data_dir)
    found = check_data(name, place, reading_of(name, columns, settings, group_pattern), labels)
    faults = show(console, found)
    if out is not None:
        echo(f"wrote {write_rows(found, out)}")
    if faults:
        raise typer.Exit(FAILED)
