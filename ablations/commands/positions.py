"""`vitab positions`: list, show and check positional encodings."""

from typing import Annotated, Any

import typer

from ablations.commands.base import FAILED, Commands
from ablations.commands.base import console as make_console

Encoding = Annotated[
    str,
    typer.Argument(
        metavar="ENCODING", help="Name with options, such as `rope(base=10)`, or FILE.py:CLASS, or a sum with `+`."
    ),
]


class PositionCommands(Commands):
    """The commands of `vitab positions`; any other word is the name of an encoding to show."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            args = ["show", *args]
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        from ablations.commands.completion import positions

        commands = super().shell_complete(ctx, "")
        item = type(commands[0])  # of click, or of typer's copy of it
        found = [*(command.value for command in commands), *positions()]
        return [item(name) for name in found if name.startswith(incomplete)]


positions_app = typer.Typer(
    cls=PositionCommands,
    rich_markup_mode=None,
    subcommand_metavar="[ENCODING | COMMAND]",
    help="List positional encodings, show one in full, or check one of your own.",
    epilog="\b\nExamples:\n  vitab positions rope\n  vitab positions check mine.py:Mine",
)


@positions_app.callback(invoke_without_command=True)
def list_positions(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        from ablations.commands.display import show_positions
        from ablations.config.position_facts import all_facts

        show_positions(make_console(), all_facts())


@positions_app.command("show")
def show(encoding: Encoding) -> None:
    """Show one encoding in full; `vitab positions ENCODING` does the same."""
    from ablations.commands.display import show_position
    from ablations.config.position_facts import position_facts

    show_position(make_console(), position_facts(encoding))


@positions_app.command("check", epilog="\b\nExample:\n  vitab positions check 'mine.py:Mine(start=2)'")
def check(encoding: Encoding) -> None:
    """Check an encoding of your own, as the built-in ones are tested.

    Gradients against float64 differences, runs trained together against runs trained alone, numbers of threads,
    captured programs, the reference operations, and another grid of patches. Exit code 1 if a check fails.
    """
    from ablations.commands.display import CheckTable
    from ablations.config import standard_position
    from ablations.errors import UsageError
    from vit import ConfigError
    from vit.position_checks import check_position

    spelled = standard_position(encoding)
    shown = CheckTable(make_console())
    try:
        for result in check_position(spelled):
            shown.add(result)
    except ConfigError as error:
        raise UsageError(str(error)) from error
    shown.end(encoding)
    if shown.failed:
        raise typer.Exit(FAILED)
