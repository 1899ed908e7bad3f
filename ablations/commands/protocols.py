"""`vitab protocols`: list the evaluation protocols."""

from dataclasses import fields

from ablations.commands import display
from ablations.commands.base import console as make_console


def list_protocols() -> None:
    """List the evaluation protocols with their metrics and options."""
    from ablations.evaluation import PROTOCOLS
    from vit.options import spell

    console, rows = make_console(), display.table("protocol", "what is measured")
    for name, kind in PROTOCOLS.items():
        made = kind()
        lines = [made.description, "metrics: " + ", ".join(metric.name for metric in made.metrics())]
        lines += [f"{o.name}={spell(o.default)} ({o.metadata['valid']}): {o.metadata['meaning']}" for o in fields(kind)]
        lines += [made.source] if made.source else []
        for i, line in enumerate(lines):
            display.add_row(rows, "" if i else name, line)
        display.add_row(rows, "", "")
    console.print(rows)
