"""Tables and lines that commands print."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from ablations.config import Grid, count, level_text, name_level, position_label, run_label
from ablations.config.run_config import OWN_DATA
from ablations.config.safe_text import one_line, visible
from ablations.errors import UsageError
from ablations.execution.lease import HEARTBEAT_INTERVAL, LEASE_TIMEOUT, active_lease
from ablations.execution.plan import Arm, shown_axes, trial_label
from ablations.execution.resources import ResourcePlan
from ablations.machine import format_bytes
from ablations.storage import (
    EvaluationStore,
    Store,
    StudyPlan,
    TrialStore,
    evaluations_of,
    problems,
    read_json,
    stale_runs,
    stale_runs_warning,
)
from ablations.training.memory import MemoryEstimate

if TYPE_CHECKING:
    from ablations.config.position_facts import PositionFacts
    from ablations.data.catalog import DatasetLocation
    from vit.position_checks import CheckResult


def table(*columns: str, right: Iterable[str] = ()) -> Table:
    """Return an empty table without borders; the columns in `right` are right-aligned."""
    empty = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        empty.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return empty


def add_row(rows: Table, *cells: str) -> None:
    """Add a row of plain text to a table."""
    rows.add_row(*(Text(one_line(cell)) for cell in cells))


def show_plan(
    console: Console, plan: StudyPlan, arms: Sequence[Arm], needs: Sequence[MemoryEstimate], resources: ResourcePlan
) -> None:
    """Print the arms of a plan, their cost and memory, and the estimated time.

    The arms of a study that matches compute have their epochs, and their share of the compute of the baseline arm.
    """
    match = plan.match
    cost = ("epochs", "share") if match else ("FLOPs/run",)
    numbers = ("runs", "done", "parameters", *cost, "memory", "time/run")
    axes = shown_axes(plan)
    rows = table(*(axis.replace("_", " ") for axis in axes), *numbers, right=numbers)
    for arm, need in zip(arms, needs, strict=True):
        add_row(
            rows,
            *(level_text(getattr(arm.config, axis)) for axis in axes),
            str(len(arm.keys)),
            str(arm.done),
            f"{arm.parameters:,}",
            *(
                (str(arm.config.epochs), f"{100 * match.share_of(match.levels(arm.config)):.0f} %")
                if match
                else (magnitude(arm.flops),)
            ),
            format_bytes(need.device or need.process),
            "" if arm.seconds is None else duration(arm.seconds),
        )
    console.print(rows)
    to_do = sum(arm.to_do for arm in arms)
    flops = sum(arm.to_do * arm.flops for arm in arms)
    console.print()
    say(console, f"{len(plan.keys)} runs, {to_do} to do: {magnitude(flops)} training FLOPs")
    if to_do:
        seconds = sum(arm.to_do * (arm.seconds or 0.0) for arm in arms)
        workers = count(resources.workers, "worker")
        say(
            console,
            f"about {duration(seconds / resources.workers)} with {workers}, {machine_hours(seconds, resources)}, "
            "estimated from a few steps timed on this machine",
        )


def describe_match(plan: StudyPlan) -> list[str]:
    """Return lines with the epochs of the arms of a study that matches compute; none of another study."""
    match = plan.match
    if match is None:
        return []
    what = {"flops": "training FLOPs", "seconds": "training time"}[match.measure]
    return [
        f"epochs for equal {what}: {match.describe_epochs()}; rounding gives {match.describe_shares()} of the "
        f"{'FLOPs' if match.measure == 'flops' else 'time'} of {name_level(match.compared, match.baseline)}"
    ]


def machine_hours(seconds: float, resources: ResourcePlan) -> str:
    """Return the cost of runs that take this time of one worker: core-hours, or GPU-hours on GPUs."""
    devices, workers = len(resources.devices), resources.workers
    taken = min(workers, devices) / workers if devices else resources.threads
    hours = seconds * taken / 3600
    number = "under 0.01" if hours < 0.01 else f"{hours:,.2f}" if hours < 10 else f"{hours:,.0f}"
    return f"{number} {'GPU' if devices else 'core'}-hours"


def show_grids(console: Console, grids: Mapping[str, Grid]) -> None:
    """Print the grids."""
    rows = table("grid", "runs", "question", "axes", right=("runs",))
    for grid in grids.values():
        axes = "; ".join(f"{axis} {', '.join(map(str, levels))}" for axis, levels in grid.axes.items())
        tuned = f"; tuned: {', '.join(grid.tuning.space)}" if grid.tuning else ""
        add_row(rows, grid.name, str(len(grid.expand())), grid.question, f"{axes}; {len(grid.seeds)} seeds{tuned}")
    console.print(rows)


def show_positions(console: Console, listed: "Iterable[PositionFacts | str]") -> None:
    """Print the encodings with their options; a line instead of one that cannot be loaded."""
    from ablations.config.position_facts import OTHER_GRIDS, STATED

    rows, problems = table("encoding", "what it does"), []
    for facts in listed:
        if isinstance(facts, str):
            problems.append(facts)
            continue
        number = "-" if facts.count is None else f"{facts.count:,}"
        lines = [facts.description, f"acts on {facts.acts_on}; parameters: {number}; other grids: {facts.other_grids}"]
        lines += [f"{o.name}={o.default} ({o.valid}): {o.meaning}".removesuffix(": ") for o in facts.options]
        lines += [facts.source] if facts.source else []
        rows.add_row(Text(one_line(position_label(facts.name)), "bold"), Text("\n".join(map(one_line, lines))))
        rows.add_row("", "")
    console.print(rows)
    say(console, f"Parameters are those of a model of {STATED}.")
    say(console, "Other grids, what a trained model does there:")
    meanings = table("", "")
    meanings.show_header = False
    for name, meaning in OTHER_GRIDS.items():
        add_row(meanings, f"  {name}", meaning)
    console.print(meanings)
    for line in problems:
        say(console, line)


def show_position(console: Console, facts: "PositionFacts") -> None:
    """Print all that is known of an encoding."""
    from ablations.config.position_facts import OTHER_GRIDS, STATED

    say(console, facts.name, style="bold")
    say(console, facts.description)
    show_paragraphs(console, facts.formula)
    if facts.options:
        console.print()
        options = table("option", "default", "valid", "meaning")
        for option in facts.options:
            add_row(options, option.name, option.default, option.valid, option.meaning)
        console.print(options)
    console.print()
    rows = table("", "")
    rows.show_header = False
    add_row(rows, "acts on", facts.acts_on)
    if facts.count is None:
        add_row(rows, "parameters", f"not for a model of {STATED}")
    else:
        add_row(rows, "parameters", f"{facts.count:,} in a model of {STATED}")
        for name, shape in facts.parameters or ():
            add_row(rows, "", f"{name} ({', '.join(map(str, shape))})")
    for i, way in enumerate(facts.other_grids.split(", ")):
        add_row(rows, "" if i else "other grids", f"{way}: {OTHER_GRIDS[way]}" if way in OTHER_GRIDS else way)
    if facts.source:
        add_row(rows, "source", facts.source)
    console.print(rows)


def show_paragraphs(console: Console, text: str) -> None:
    """Print the paragraphs of a docstring: formulas and lists as they are, others wrapped."""
    for paragraph in filter(None, text.split("\n\n")):
        console.print()
        lines = paragraph.splitlines()
        if any(line.startswith(" ") for line in lines):
            for line in lines:
                say(console, line)
        else:
            console.print(Text(one_line(paragraph)))


class CheckTable:
    """Results of checks of an encoding, printed as they come."""

    def __init__(self, console: Console) -> None:
        self.console, self.failed = console, 0

    def add(self, result: "CheckResult") -> None:
        """Print one result."""
        self.failed += result.status == "fail"
        rows = table("", "", "")
        rows.show_header = False
        rows.columns[0].width, rows.columns[1].width = 4, 22
        style = {"fail": "bold red", "pass": "green"}.get(result.status, "")
        mark = Text("FAIL" if result.status == "fail" else result.status, style)
        rows.add_row(mark, Text(one_line(result.name)), Text(one_line(result.text)))
        self.console.print(rows)

    def end(self, encoding: str) -> None:
        """Print the outcome."""
        outcome = f"{count(self.failed, 'check')} failed" if self.failed else "all checks passed"
        say(self.console, f"{encoding}: {outcome}", style="bold")


def show_datasets(console: Console, listed: Sequence["DatasetLocation"]) -> None:
    """Print the datasets, and which are on this machine."""
    rows = table("data", "classes", "images", "here", "what", right=("classes",))
    for found in listed:
        info = found.info
        size = "" if info.image_size is None else f"{info.image_size}x{info.image_size}x{info.channels or '?'}"
        add_row(
            rows,
            info.name,
            "any" if info.classes is None else str(info.classes),
            size,
            "yes" if found.where else "no",
            info.description,
        )
    console.print(rows)
    console.print()
    say(console, "sources")
    for found in listed:
        say(console, f"{found.info.name:<14} {found.info.source}")


def view_studies(store: Store, study: str | None = None) -> tuple[RenderableType, int, int]:
    """Return the state of one study or all, and the numbers of remaining and running runs."""
    plans, lines = read_studies(store, study)
    stale = {plan.study: stale_runs(store, plan) for plan in plans}
    diverged = {plan.study: store.diverged(plan.keys) for plan in plans}
    some = [name for name, found in (("stale", stale), ("diverged", diverged)) if any(found.values())]
    numbers = ("runs", "done", *some, "failed", "to do", "running")
    data = [_data_of(store, plan) for plan in plans]
    names = ("study", "data") if len({*data}) > 1 else ("study",)
    rows = table(*names, *numbers, "question", right=numbers)
    to_do = active = 0
    question = ""
    for plan, images in zip(plans, data, strict=True):
        axes = shown_axes(plan)
        tuning, trials_to_do, trials_active = describe_trials(store, plan)
        lines += tuning
        counts = dict.fromkeys(numbers, 0) | {"runs": plan.all_runs, "to do": plan.all_runs - len(plan.keys)}
        for key, config in plan.runs.items():
            name = f"{plan.study}: {run_label(config, axes)}"
            if key in stale[plan.study]:
                counts["stale"] += 1
            if key in diverged[plan.study]:
                counts["diverged"] += 1
            finished = store.done(key)
            owner = active_lease(store.folder(key)) if not finished or key in stale[plan.study] else None
            alive = owner is not None and owner["silent"] < LEASE_TIMEOUT
            if owner is not None and (alive or not finished):
                counts["running" if alive else "to do"] += 1
                lines.append(f"{name} {running(owner)}")
            elif finished:
                counts["done"] += 1
            elif (reason := store.failure(key)) is not None:
                counts["failed"] += 1
                lines.append(f"{name} failed: {reason} ({store.folder(key) / 'failure.json'})")
            else:
                counts["to do"] += 1
        lines += [f"{plan.study}: {line}" for line in describe_match(plan)]
        if warning := stale_runs_warning(plan, stale[plan.study]):
            lines.append(warning)
        asked = "as above" if plan.question and plan.question == question else plan.question
        question = plan.question
        add_row(rows, *(plan.study, images)[: len(names)], *map(str, counts.values()), asked)
        to_do, active = to_do + counts["to do"] + trials_to_do, active + counts["running"] + trials_active
    described, evaluating = describe_evaluations(store, plans)
    lines, active = lines + described, active + evaluating
    return Group(rows, *(Text(visible(line)) for line in lines)), to_do, active


def _data_of(store: Store, plan: StudyPlan) -> str:
    """Return the datasets of a study; one's own data with the name that a finished run has recorded."""
    names = list(dict.fromkeys(config.data for config in plan.all_configs))
    for place, name in enumerate(names):
        mine = (key for key, config in plan.runs.items() if config.data == name and store.done(key))
        if name in OWN_DATA and (key := next(mine, None)) is not None:
            recorded: Any = read_json(store.folder(key) / "environment.json") or {}
            names[place] = f"{name} {recorded.get('dataset', {}).get('name', '')}".rstrip()
    return ", ".join(names)


def describe_trials(store: Store, plan: StudyPlan) -> tuple[list[str], int, int]:
    """Return lines about the trials of a tuned study, and the numbers of remaining and running runs of them."""
    if plan.tuning is None:
        return [], 0, 0
    trials, axes = TrialStore.beside(store), shown_axes(plan)
    details: list[str] = []
    counts = dict.fromkeys(("finished", "pruned", "diverged", "failed", "running"), 0)
    for run in {run.key: run for run in plan.trials}.values():
        name = f"{plan.study}: {trial_label(run, plan.tuning, axes)}"
        if trials.done(run.key):
            result: Any = read_json(trials.folder(run.key) / "result.json") or {}
            counts["finished"] += 1
            counts["pruned"] += "pruned" in result
            counts["diverged"] += "diverged" in result
        elif (owner := active_lease(trials.folder(run.key))) is not None and owner["silent"] < LEASE_TIMEOUT:
            counts["running"] += 1
            details.append(f"{name} {running(owner)}")
        elif (reason := trials.failure(run.key)) is not None:
            counts["failed"] += 1
            details.append(f"{name} failed: {reason} ({trials.folder(run.key) / 'failure.json'})")
    total = plan.all_trial_runs if plan.searching else counts["finished"]
    shown = f"tuned by {count(total, 'trial run')}"
    if plan.searching:
        rounds = len(plan.tuning.rounds)
        place = f", round {plan.trials[-1].round + 1} of {rounds}" if rounds > 1 else ""
        shown = f"tuning{place}: {counts['finished']} of {count(total, 'trial run')} finished"
    shown += "".join(f", {counts[name]} {name}" for name in ("pruned", "diverged", "failed", "running") if counts[name])
    to_do = total - counts["finished"] - counts["failed"] - counts["running"]
    return [f"{plan.study}: {shown}", *details], to_do, counts["running"]


def describe_evaluations(store: Store, plans: Sequence[StudyPlan]) -> tuple[list[str], int]:
    """Return lines about the evaluations of studies that have any, and the number of those that are running."""
    if not EvaluationStore.beside(store).root.is_dir():
        return [], 0
    from ablations.evaluation import protocol_label
    from ablations.execution.evaluation import evaluation_states

    states = evaluation_states(store, {key: config.position for plan in plans for key, config in plan.runs.items()})
    lines, active = [], set()
    for plan in plans:
        axes, details = shown_axes(plan), []
        numbers = {"finished": 0, "outdated": 0, "failed": 0, "running": 0}
        for run in plan.keys:
            numbers["finished"] += states.finished[run]
            numbers["outdated"] += states.outdated[run]
        for one in states.unfinished:
            if one.run in plan.runs:
                numbers["failed" if one.owner is None else "running"] += 1
                how = f"failed: {one.failure}" if one.owner is None else running(one.owner)
                details.append(
                    f"{plan.study}: {protocol_label(one.protocol)}: {run_label(plan.runs[one.run], axes)} {how}"
                )
                active |= {(one.run, one.protocol)} if one.owner is not None else set()
        if any(numbers.values()):
            shown = (f"{number} {what}" for what, number in numbers.items() if number or what == "finished")
            lines += [f"{plan.study}: evaluations: {', '.join(shown)}", *details]
    return lines, len(active)


def read_studies(store: Store, study: str | None = None) -> tuple[list[StudyPlan], list[str]]:
    """Return the plan of one study or of all, and a line about each that cannot be read."""
    plans, lines = [], []
    for name in store.studies() if study is None else [study]:
        try:
            plans.append(store.read_study(name))
        except UsageError as error:
            lines.append(str(error))
    return plans, lines


def running(owner: Mapping[str, Any]) -> str:
    """Return where a run is trained and its progress, from its lease."""
    place = owner.get("where") or f"{owner.get('host')} (process {owner.get('pid')}, since {owner.get('begun')})"
    where = f"is running on {place}"
    if owner["silent"] > 4 * HEARTBEAT_INTERVAL:
        where += f", last heartbeat {duration(owner['silent'])} ago"
    number = owner.get("attempt")
    again = f", attempt {number}" if number != 1 else ""
    if "epoch" not in owner:
        return where + again
    left = duration(float(owner["seconds_left"]))
    return f"{where}{again}: epoch {owner['epoch']}/{owner['epochs']}, {left} left"


def show_studies(console: Console, store: Store, study: str | None = None, *, verify: bool = False) -> bool:
    """Print the state of the studies; return whether the files of finished runs are intact (checked if `verify`)."""
    console.print(view_studies(store, study)[0], soft_wrap=True)
    sound = True
    for plan in read_studies(store, study)[0] if verify else ():
        for key, config in plan.runs.items():
            if store.done(key) and (found := problems(store, key)):
                sound = False
                say(console, f"{plan.study}: {run_label(config, shown_axes(plan))} is damaged: {'; '.join(found)}")
                say(console, f"  delete {store.folder(key)} and run the study again")
        evaluations = EvaluationStore.beside(store)
        trials = TrialStore.beside(store)
        for run in plan.trials:
            if trials.done(run.key) and (found := problems(trials, run.key)):
                sound = False
                say(console, f"{plan.study}: {trials.folder(run.key)} is damaged: {'; '.join(found)}")
                say(console, f"  delete {trials.folder(run.key)} and run the study again")
        for key in evaluations_of(evaluations, plan.keys)[0]:
            if found := problems(evaluations, key):
                sound = False
                say(console, f"{plan.study}: {evaluations.folder(key)} is damaged: {'; '.join(found)}")
                say(console, f"  delete {evaluations.folder(key)} and evaluate the study again")
    if verify and sound:
        say(console, "all files of all finished runs are intact")
    return sound


def say(console: Console, text: str, *, style: str = "") -> None:
    """Print a line of plain text, however wide the terminal is."""
    console.print(Text(visible(text), style), soft_wrap=True)


def magnitude(value: float) -> str:
    """Return a number with three digits and an SI prefix: 12.3 G, 4.56 T."""
    units: Any = ("", "k", "M", "G", "T", "P", "E")
    scale = 0
    while value >= 999.5 and scale < len(units) - 1:
        value, scale = value / 1000, scale + 1
    return f"{value:.3g} {units[scale]}".strip()


def duration(seconds: float) -> str:
    """Return a duration as text: 4.2 s, 38 s, 3 min 05 s, 2 h 07 min."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"
