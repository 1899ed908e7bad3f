"""The command line: the commands of `ablations.commands`, assembled."""

from typing import Annotated

import typer

from ablations.commands.attention import attention
from ablations.commands.base import Commands
from ablations.commands.bench import bench
from ablations.commands.compare import compare
from ablations.commands.completion import add_completion
from ablations.commands.data import data_app
from ablations.commands.doctor import doctor
from ablations.commands.evaluate import evaluate
from ablations.commands.export import export
from ablations.commands.gallery import gallery
from ablations.commands.grids import list_grids
from ablations.commands.positions import positions_app
from ablations.commands.predict import predict
from ablations.commands.protocols import list_protocols
from ablations.commands.report import report
from ablations.commands.reproduce import reproduce
from ablations.commands.retry import retry
from ablations.commands.run import run
from ablations.commands.status import status
from ablations.commands.track import track
from ablations.commands.verify import verify

app = typer.Typer(
    cls=Commands,
    help="Train a grid of small Vision Transformers, and report which parts of them matter.",
    epilog="\b\nStart with:\n  vitab run --grid rope && vitab report",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(data_app, name="data")
app.add_typer(positions_app, name="positions")


@app.callback(invoke_without_command=True)
def main(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        from ablations.machine import versions

        typer.echo(f"vitab {versions(('vitab',)).get('vitab', '(not installed)')}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


app.command(epilog="\b\nExample:\n  vitab run --grid rope --position none,rope --depth 2 --seeds 5 --set width=96")(run)
for command in (evaluate, report, status, retry, verify, reproduce):
    app.command()(command)
app.command(
    epilog="\b\nExamples:\n  vitab predict rope,depth=4,patch=4 photo.png\n  vitab predict 0123abcd photos --csv"
)(predict)
app.command()(attention)
app.command()(gallery)
app.command(
    epilog="\b\nExamples:\n  vitab export rope,depth=4,patch=4 --format timm --out rope-timm\n"
    "  vitab export 0123abcd --format onnx --out rope.onnx"
)(export)
app.command(
    epilog="\b\nExamples:\n  vitab compare rope learned\n  vitab compare depth=4 depth=2\n  vitab compare short long"
)(compare)
app.command(
    epilog="\b\nExample:\n  vitab track rope --to tensorboard && tensorboard --logdir runs/tracking/tensorboard"
)(track)
app.command("grids")(list_grids)
app.command("protocols")(list_protocols)
app.command()(bench)
app.command()(doctor)

for registered in (
    *app.registered_commands,
    *data_app.registered_commands,
    *positions_app.registered_commands,
    data_app.registered_callback,
):
    if registered is not None and registered.callback is not None:
        add_completion(registered.callback)

if __name__ == "__main__":
    app()
