"""Tables that commands print."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from ablations.config import Grid
from ablations.progress import duration
from ablations.store import Store, StudyPlan
from ablations.study import Arm, label, shown_axes

if TYPE_CHECKING:
    from ablations.data.commands import Listed


def table(*columns: str, right: Iterable[str] = ()) -> Table:
    """An empty table without lines; the columns in `right` are numbers."""
    empty = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        empty.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return empty


def show_plan(console: Console, plan: StudyPlan, arms: Sequence[Arm], *, workers: int) -> None:
    """What `vitab run --dry-run` says: each arm, the totals and the time."""
    numbers = ("runs", "done", "parameters", "FLOPs/run", "time/run")
    axes = shown_axes(plan)
    rows = table(*(axis.replace("_", " ") for axis in axes), *numbers, right=numbers)
    for arm in arms:
        rows.add_row(
            *(str(getattr(arm.config, axis)) for axis in axes),
            str(len(arm.keys)),
            str(arm.done),
            f"{arm.parameters:,}",
            magnitude(arm.flops),
            "" if arm.seconds is None else duration(arm.seconds),
        )
    console.print(rows)
    to_do = sum(arm.to_do for arm in arms)
    flops = sum(arm.to_do * arm.flops for arm in arms)
    say(console, f"\n{len(plan.keys)} runs, {to_do} to do: {magnitude(flops)} training FLOPs")
    if to_do:
        seconds = sum(arm.to_do * (arm.seconds or 0.0) for arm in arms) / workers
        say(
            console,
            f"about {duration(seconds)} with {workers} worker{'s' * (workers > 1)}, from a few steps timed here",
        )


def show_grids(console: Console, grids: Mapping[str, Grid]) -> None:
    """What `vitab grids` says."""
    rows = table("grid", "runs", "question", "axes", right=("runs",))
    for grid in grids.values():
        axes = "; ".join(f"{axis} {', '.join(map(str, levels))}" for axis, levels in grid.axes.items())
        rows.add_row(grid.name, str(len(grid.expand())), grid.question, f"{axes}; {len(grid.seeds)} seeds")
    console.print(rows)


def show_datasets(console: Console, listed: Sequence["Listed"]) -> None:
    """What `vitab data` says."""
    rows = table("data", "classes", "images", "here", "what", right=("classes",))
    for found in listed:
        info = found.info
        size = "" if info.image_size is None else f"{info.image_size}x{info.image_size}x{info.channels or '?'}"
        rows.add_row(
            info.name,
            "any" if info.classes is None else str(info.classes),
            size,
            "yes" if found.where else "no",
            info.description,
        )
    console.print(rows)
    say(console, "\nfrom")
    for found in listed:
        say(console, f"{found.info.name:<14} {found.info.source}")


def show_studies(console: Console, store: Store, plans: Sequence[StudyPlan], *, verify: bool = False) -> bool:
    """What `vitab status` says; whether all finished runs are sound, which it only looks at to `verify`."""
    rows = table("study", "runs", "done", "failed", "to do", "question", right=("runs", "done", "failed", "to do"))
    lines = []
    sound = True
    for plan in plans:
        done = [key for key in plan.keys if store.done(key)]
        failed = {key: reason for key in plan.keys if (reason := store.failure(key)) is not None}
        counts = (len(plan.keys), len(done), len(failed), len(plan.keys) - len(done) - len(failed))
        rows.add_row(plan.study, *map(str, counts), plan.question)
        axes = shown_axes(plan)
        for key, reason in failed.items():
            lines.append(f"{plan.study}: {label(plan.runs[key], axes)} failed: {reason} ({store.folder(key)})")
        for key in done if verify else ():
            if damaged := store.verify(key):
                sound = False
                lines.append(f"{plan.study}: {label(plan.runs[key], axes)} is damaged: {', '.join(damaged)}")
                lines.append(f"  delete {store.folder(key)} and run the study again")
    console.print(rows)
    for line in lines:
        say(console, line)
    if verify and sound:
        say(console, "all files of all finished runs are as they were written")
    return sound


def say(console: Console, text: str) -> None:
    """A line of plain text, however wide the terminal is."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def magnitude(value: float) -> str:
    """12.3 G, 4.56 T: three digits and a unit of thousands."""
    units: Any = ("", "k", "M", "G", "T", "P", "E")
    scale = 0
    while value >= 999.5 and scale < len(units) - 1:
        value, scale = value / 1000, scale + 1
    return f"{value:.3g} {units[scale]}".strip()
