"""The command line: thin commands over plain functions; exceptions become one line and an exit code."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ablations.cli_base import FAILED, Backend, Commands, DataDir, Quiet, Runs, Stack, Workers, stop
from ablations.cli_base import console as make_console
from ablations.cli_runs import reproduce, retry, status, train, train_on_cluster, verify
from ablations.errors import UsageError

if TYPE_CHECKING:
    from ablations.config import Grid

app = typer.Typer(
    cls=Commands,
    help="Which part of a small Vision Transformer earns its keep? Train a grid of them, and read the report.",
    epilog="Start with:  vitab run --grid rope  and then  vitab report",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(
    cls=Commands, rich_markup_mode=None, help="List the data sets, or fetch one:  vitab data fetch cifar100"
)
app.add_typer(data_app, name="data")


@app.callback(invoke_without_command=True)
def main(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        from ablations.environment import versions

        typer.echo(f"vitab {versions(('vitab',)).get('vitab', '(not installed)')}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command(epilog="Example:  vitab run --grid rope --position none,rope --depth 2 --seeds 5 --set width=96")
def run(
    grid: Annotated[
        str, typer.Option(metavar="NAME|FILE.toml", help="A grid of `vitab grids`, or a TOML file of your own.")
    ],
    data: Annotated[str | None, typer.Option(metavar="NAME", help="A data set of `vitab data`.")] = None,
    data_dir: DataDir = None,
    labels: Annotated[str | None, typer.Option(metavar="fine|coarse", help="cifar100: 100 or 20 classes.")] = None,
    classes: Annotated[
        str | None, typer.Option(metavar="N|a,b", help="Only the first N classes, or the classes named.")
    ] = None,
    per_class: Annotated[
        str | None, typer.Option(metavar="N", help="Only so many training images of each class.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(metavar="light|strong", help="Training fields for photographs, as a bundle.")
    ] = None,
    position: Annotated[
        str | None, typer.Option(metavar="a,b", help="Positional encodings instead of the grid's.")
    ] = None,
    depth: Annotated[str | None, typer.Option(metavar="2,4", help="Depths instead of the grid's.")] = None,
    patch: Annotated[
        str | None, typer.Option(metavar="2,4", help="Patch sizes in pixels instead of the grid's.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(metavar="N", help="Run the seeds 0 to N - 1. More seeds, more certain answers.")
    ] = None,
    epochs: Annotated[
        str | None, typer.Option(metavar="N", help="Passes over the training images; few shorten the warm-up.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Any other field of a run; may be repeated."),
    ] = None,
    backend: Backend = "auto",
    workers: Workers = "auto",
    stack: Stack = "auto",
    dask: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Train on the Dask cluster with this scheduler.")
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="With --dask: do without encryption on the way to another machine.")
    ] = False,
    checkpoint: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.0, help="Between two checkpoints of a run: what a kill can cost.")
    ] = 60.0,
    runs: Runs = Path("runs"),
    study: Annotated[str | None, typer.Option(metavar="NAME", help="Name of the study; default: the grid's.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would run and how long it takes; write nothing.")
    ] = False,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="A small version of the grid, to try it: one seed, two epochs.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Train the runs of a grid that are not finished yet.

    Finished runs are kept and never trained again. After an interruption or a failure, the same command goes on
    with what is left. Exit code: 0 all is well, 1 some runs failed, 2 bad input, 130 interrupted.
    """
    from ablations import grids, recipes

    fields = {"data": data, "labels": labels, "classes": classes, "per_class": per_class, "epochs": epochs}
    axes = {"position": position, "depth": depth, "patch": patch}
    chosen = grids.find(grid)
    given = grids.parse_settings(fields, settings or [])
    bundle = recipes.find(recipe) if recipe is not None else {}
    chosen = grids.override(chosen, settings=bundle)
    chosen = grids.shrink(chosen) if smoke else chosen
    chosen = grids.override(chosen, axes=grids.parse_axes(axes), settings=given, seeds=seeds)
    name = grids.check_name("--study", study) if study is not None else chosen.name
    if dask is not None and (workers, stack) != ("auto", "auto"):
        raise UsageError("--workers and --stack are for this machine; with --dask there are as many as the cluster has")
    place = None if dask is None or dry_run else (dask, insecure)
    _carry_out(chosen, name, data_dir, backend, workers, stack, runs, checkpoint, place, dry_run=dry_run, quiet=quiet)


def _carry_out(
    grid: "Grid",
    name: str,
    data_dir: Path | None,
    backend: str,
    workers: str,
    stack: str,
    runs: Path,
    checkpoint: float,
    place: tuple[str, bool] | None,
    *,
    dry_run: bool,
    quiet: bool,
) -> None:
    from ablations import crew, display, study
    from ablations.hardware import unused_gpu
    from ablations.store import Store
    from ablations.workers import Setting

    console, store = make_console(), Store(runs)
    asked, backend = backend, study.resolve_backend(backend, here=place is None)
    study.resolve_workers(workers, runs=1, backend=backend)
    crew.parse_stack(stack)
    plan = study.make_plan(grid, study=name, data_dir=data_dir, command=rerun_command(sys.argv[1:]))
    if warning := study.power_warning(grid):
        typer.echo(f"warning: {warning}", err=True)
    if asked != backend == "numpy" and (line := unused_gpu()):
        typer.echo(f"note: {line}", err=True)
    arms = study.survey(plan, store, data_dir=data_dir)
    tasks = study.tasks_of(plan, arms, store)
    if tasks and place is not None:
        setting = Setting(runs, data_dir, backend, snapshot_every=checkpoint)
        train_on_cluster(console, store, plan, tasks, setting=setting, address=place[0], insecure=place[1], quiet=quiet)
        return
    sharing = crew.resolve(tasks, workers=workers, stack=stack, backend=backend, data_dir=data_dir)
    tasks = sharing.tasks
    setting = Setting(runs, data_dir, backend, sharing.threads, snapshot_every=checkpoint, devices=sharing.devices)
    for line in sharing.lines:
        display.say(console, line)
    if tasks and backend == "numpy":
        from ablations.compilation import compile_kernels

        compile_kernels(lambda: display.say(console, "compiling the CPU kernels, once on this machine"))
    if dry_run:
        from ablations.foresight import foresight
        from ablations.stacks import shape
        from ablations.trainer import calibrate

        stacks = {shape(task.config): task.stack for task in tasks}
        with console.status("timing a few steps of each arm"):
            arms = study.survey(
                plan,
                store,
                data_dir=data_dir,
                measure=lambda config, dataset: calibrate(
                    config, dataset, backend=backend, threads=setting.threads, stack=stacks[shape(config)]
                ),
            )
        needs = [crew.need_of(arm.config, data_dir, runs=1, workers=sharing.workers, backend=backend) for arm in arms]
        display.show_plan(console, plan, arms, needs, workers=sharing.workers)
        if len(grid.levels) > 1:
            display.say(console, f"smallest two-sided p it can give, after Holm: {study.least_p(grid):.2g}")
            for line in foresight(grid):
                display.say(console, line)
        return

    train(console, store, plan, tasks, setting=setting, crew=sharing.workers, quiet=quiet)


@app.command()
def report(
    study: Annotated[str | None, typer.Argument(help="Name of the study; default: the last one run.")] = None,
    runs: Runs = Path("runs"),
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of reports.")] = Path("reports"),
    format: Annotated[
        str, typer.Option(metavar="markdown|html", help="html: also report.html, one file with everything inside.")
    ] = "markdown",
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; say what in the report no longer follows from the runs.")
    ] = False,
) -> None:
    """Write a study's report: DIR/<study>/README.md with figures/ and tables/ (CSV, LaTeX).

    With --check the exit code is 1 when the report there is not the one that follows from the runs, with a line for
    every difference.
    """
    from ablations.store import Store, load_results

    store = Store(runs)
    name = _last_study(store) if study is None else study
    results = load_results(store, name)
    if check:
        from ablations.report_check import differences

        found = differences(results, out)
        for line in found:
            typer.echo(line)
        if found:
            stop(f"{out / name} does not follow from {runs}; vitab report {name} writes it anew", FAILED)
        typer.echo(f"{out / name} follows from its {len(results.runs)} runs")
        return
    from ablations.report import FORMATS, write_report

    if format not in FORMATS:
        raise UsageError(f"--format must be {' or '.join(FORMATS)}, got {format!r}")
    written = write_report(results, out, format)
    if results.missing:
        typer.echo(f"note: {len(results.missing)} of {len(results.plan.keys)} runs are not finished", err=True)
    typer.echo(
        f"wrote {written / ('report.html' if format == 'html' else 'README.md') if written.is_dir() else written}"
    )


@app.command(
    epilog="Examples:  vitab compare rope learned    vitab compare depth=4 depth=2    vitab compare short long"
)
def compare(
    first: Annotated[str, typer.Argument(metavar="A", help="An arm (rope, depth=4) or a study.")],
    second: Annotated[str, typer.Argument(metavar="B", help="What to compare it with.")],
    study: Annotated[str | None, typer.Option(metavar="NAME", help="Study of the arms; default: the last.")] = None,
    runs: Runs = Path("runs"),
) -> None:
    """Compare two arms of a study, or two studies, over pairs of runs and model by model."""
    from ablations.compare import compare as compared
    from ablations.store import Store

    store = Store(runs)
    typer.echo(compared(store, first, second, study=study, last=lambda: _last_study(store)), nl=False)


for command in (status, retry, verify, reproduce):
    app.command()(command)


@app.command("grids")
def list_grids() -> None:
    """List the built-in grids, each with the question it answers."""
    from ablations.display import show_grids
    from ablations.grids import GRIDS

    show_grids(make_console(), GRIDS)


@data_app.callback(invoke_without_command=True)
def list_data(context: typer.Context, data_dir: DataDir = None) -> None:
    if context.invoked_subcommand is None:
        from ablations.data.commands import list_datasets
        from ablations.display import show_datasets

        show_datasets(make_console(), list_datasets(data_dir))


@data_app.command("fetch")
def fetch_data(name: Annotated[str, typer.Argument(help="A data set of `vitab data`.")]) -> None:
    """Download a data set into the user's cache and check it; an interrupted download goes on where it stopped."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    from ablations.data.commands import fetch_dataset, remotes_of

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
        typer.echo(path)


@data_app.command("verify")
def verify_data(
    name: Annotated[str, typer.Argument(help="A data set of `vitab data`.")], data_dir: DataDir = None
) -> None:
    """Read a data set in full, with every check, and say what was found."""
    from ablations.data.commands import verify_dataset

    found = verify_dataset(name, data_dir)
    typer.echo(
        f"{found.name} in {found.where} is good: {found.train_images:,} + {found.test_images:,} images of "
        f"{found.image_size} x {found.image_size} x {found.channels} in {found.classes} classes, "
        f"fingerprint {found.fingerprint[:16]}"
    )


@data_app.command("sheet")
def draw_sheet(
    name: Annotated[str, typer.Argument(help="A data set of `vitab data`.")],
    out: Annotated[Path, typer.Option(metavar="FILE.png", help="Where to write the picture.")],
    data_dir: DataDir = None,
    labels: Annotated[str, typer.Option(metavar="fine|coarse", help="cifar100: 100 or 20 classes.")] = "fine",
    classes: Annotated[
        str | None, typer.Option(metavar="N|a,b", help="Only the first N classes, or the classes named.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Which samples are drawn.", min=0)] = 0,
) -> None:
    """Write a picture of samples of every class with their labels."""
    from ablations.config import parse
    from ablations.data.commands import sheet

    chosen = None if classes is None else parse("classes", classes)
    typer.echo(f"wrote {sheet(name, out, data_dir, labels=labels, classes=chosen, seed=seed)}")


@app.command()
def bench(
    width: Annotated[int, typer.Option(help="Width of the model.")] = 64,
    depth: Annotated[int, typer.Option(help="Blocks.")] = 2,
    heads: Annotated[int, typer.Option(help="Attention heads.")] = 2,
    patch: Annotated[int, typer.Option(help="Pixels a side of a patch.")] = 4,
    image: Annotated[int, typer.Option(help="Pixels a side of an image.")] = 32,
    channels: Annotated[int, typer.Option(help="Channels of an image.")] = 3,
    batch: Annotated[int, typer.Option(help="Images a step.", min=1)] = 64,
    position: Annotated[str, typer.Option(help="Positional encoding.")] = "rope",
    backend: Annotated[str, typer.Option(metavar="auto|numpy|cupy")] = "auto",
    seconds: Annotated[float, typer.Option(help="How long to measure.", min=0.01)] = 5.0,
) -> None:
    """Measure training steps of a model of your own shape on this machine."""
    from ablations.environment import available_cores
    from ablations.study import resolve_backend
    from vit import ConfigError, ViTConfig

    try:
        model = ViTConfig(
            image_size=image,
            patch_size=patch,
            channels=channels,
            classes=10,
            width=width,
            depth=depth,
            heads=heads,
            position=position,
        )
    except ConfigError as error:
        raise UsageError(str(error)) from error
    from ablations.bench import Stepper, measure, peak_mb

    stepper = Stepper(model, batch, resolve_backend(backend), available_cores())
    stepper.step()
    peak, peer = peak_mb(), None
    if stepper.model.ops.name == "numpy":
        sys.path.append(str(Path(__file__).parents[1]))  # a clone has benchmarks/ beside this package
        try:
            from benchmarks.torch_peer import TorchStepper

            peer = TorchStepper(model, stepper.images[0], stepper.targets[0], compiled=False).step
        except ModuleNotFoundError as error:
            if error.name not in ("benchmarks", "torch"):
                raise
            missing = "PyTorch is not installed" if error.name == "torch" else "this is not a clone with benchmarks/"
            typer.echo(f"{missing}, so there is nothing to compare with", err=True)
    speed = measure(stepper, batch_size=batch, seconds=seconds, peer=peer)
    share = "" if speed.products_share is None else f", {speed.products_share:.0%} of it matrix products"
    typer.echo(
        f"vitab    {speed.milliseconds:.2f} ms/step (median of {speed.steps}){share}, "
        f"{speed.images_per_s:,.0f} images/s, {speed.gflops:.1f} GFLOP/s, {peak:,.0f} MB at the peak"
    )
    if speed.ratio is not None:
        median, low, high = speed.ratio
        typer.echo(
            f"PyTorch  {speed.peer_milliseconds:.2f} ms/step, eager; vitab takes {median:.2f} of its time "
            f"({low:.2f} to {high:.2f} in 90 % of pairs)"
        )


@app.command()
def doctor() -> None:
    """Say what vitab finds on this machine, and how to install what is missing."""
    from ablations.doctor import examine

    report = examine()
    for line in report.lines:
        typer.echo(line)
    if report.missing:
        stop(f"missing: {', '.join(report.missing)}; install with: {report.remedy}", FAILED)


LOCAL = ("--runs", "--data-dir", "--workers", "--stack", "--backend", "--dask")
"""Options that say where and how, on one machine, and change no result."""


def rerun_command(arguments: list[str]) -> str:
    """The command that anybody would type for the same study: without what concerns this machine alone."""
    kept: list[str] = []
    left = iter(arguments)
    for argument in left:
        if argument in LOCAL:
            next(left, None)
        elif argument not in ("-q", "--quiet", "--insecure") and not argument.startswith(
            tuple(f"{name}=" for name in LOCAL)
        ):
            kept.append(argument)
    return shlex.join(["vitab", *kept])


def _last_study(store: Any) -> str:
    for name in store.studies():
        if any(map(store.done, store.read_study(name).keys)):
            return str(name)
    raise UsageError(f"no study has a finished run; {store.describe_studies()}")


if __name__ == "__main__":
    app()
