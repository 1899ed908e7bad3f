"""`vitab protocols`: list the evaluation protocols, or show one in full."""

from typing import TYPE_CHECKING, Annotated

import typer

from ablations.commands.base import console as make_console

if TYPE_CHECKING:
    from rich.console import Console

    from ablations.evaluation import Metric, Protocol


def list_protocols(
    protocol: Annotated[
        str | None,
        typer.Argument(
            metavar="[PROTOCOL]", help="Protocol to show in full: a name, such as `resolution`, or FILE.py:CLASS."
        ),
    ] = None,
) -> None:
    """List the evaluation protocols with their metrics and options, or show one in full."""
    from ablations.commands import display
    from ablations.config.option_facts import option_facts
    from ablations.errors import UsageError
    from ablations.evaluation import names, protocol_label
    from ablations.evaluation import protocol as made_protocol

    console = make_console()
    if protocol is not None:
        show_protocol(console, made_protocol(protocol))
        return
    rows, problems = display.table("protocol", "what is measured"), []
    for name in names():
        try:
            made = made_protocol(name)
        except UsageError as error:  # of an installed package
            problems.append(str(error))
            continue
        lines = [made.description, "metrics: " + ", ".join(metric.name for metric in made.metrics())]
        lines += [f"{o.name}={o.default} ({o.valid}): {o.meaning}" for o in option_facts(made)]
        lines += [made.source] if made.source else []
        for i, line in enumerate(lines):
            display.add_row(rows, "" if i else protocol_label(name), line)
        display.add_row(rows, "", "")
    console.print(rows)
    for line in problems:
        display.say(console, line)


def show_protocol(console: "Console", protocol: "Protocol") -> None:
    """Print all that is known of a protocol."""
    from rich.text import Text

    from ablations.commands import display
    from ablations.config.option_facts import docstring, option_facts
    from ablations.config.safe_text import one_line

    display.say(console, str(protocol), style="bold")
    console.print(Text(one_line(protocol.description)))
    if text := docstring(type(protocol)):
        display.show_paragraphs(console, text)
    console.print()
    rows = display.table("metric", "what it is", "unit", "better")
    for metric in protocol.metrics():
        display.add_row(rows, metric.name, metric.noun, metric.unit, _better(metric))
    console.print(rows)
    if options := option_facts(protocol):
        console.print()
        rows = display.table("option", "default", "valid", "meaning")
        for option in options:
            display.add_row(rows, option.name, option.default, option.valid, option.meaning)
        console.print(rows)
    if protocol.source:
        console.print()
        display.say(console, f"source: {protocol.source}")


def _better(metric: "Metric") -> str:
    names: dict[bool | None, str] = {True: "higher", False: "lower"}
    return names.get(metric.higher_is_better, "")
