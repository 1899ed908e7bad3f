"""Tables about the runs of a study: their results, cost, environments, and the runs without a result."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, is_dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from ablations.config import level_text
from ablations.reporting.tables import Table, word
from ablations.statistics import Outcomes, varying_axes
from ablations.storage import RESULT

if TYPE_CHECKING:
    from ablations.reporting.measured import Measured
    from ablations.storage import Results


def runs_frame(results: Results, about: Measured | None = None) -> pd.DataFrame:
    """Return a row for each finished run: key, axes, seed, tuned fields and results.

    The metric that a report is `about` is added.
    """
    tuned = results.plan.tuning.space if results.plan.tuning else ()
    columns = list(dict.fromkeys(["key", "position", *varying_axes(results), "seed", *tuned, *RESULT]))
    if (results.runs["diverged"] > 0).any():
        columns.append("diverged")
    frame = results.runs[[column for column in columns if column in results.runs]].reset_index(drop=True)
    frame = frame.assign(position=frame["position"].map(level_text))
    return frame if about is None else frame.assign(**{about.measure.name: frame["key"].map(about.values)})


def cost_frame(results: Results, outcomes: Outcomes) -> pd.DataFrame:
    """Return parameters, training FLOPs and seconds of one run, mean over the seeds, for each arm and setting.

    Diverged runs, which end early, count only where no other run has finished.
    """
    axes = [outcomes.axis, *outcomes.cell_axes]
    by_key = results.runs.set_index("key")
    rows = []
    for arm, level in enumerate(outcomes.arms):
        for cell, levels in enumerate(outcomes.cells):
            finished = [key for key in outcomes.keys[arm, cell] if key]
            keys = [key for key in finished if key not in outcomes.diverged] or finished
            if keys:
                means = by_key.loc[keys, ["parameters", "flops", "train_seconds"]].astype(float).mean()
                rows.append(dict(zip(axes, map(level_text, (level, *levels)), strict=True)) | means.to_dict())
    return pd.DataFrame(rows)


def cost_table(results: Results, outcomes: Outcomes) -> Table:
    frame = cost_frame(results, outcomes)
    axes = [outcomes.axis, *outcomes.cell_axes]
    return Table(
        [*map(word, axes), "parameters", "training GFLOPs", "training seconds"],
        [
            (
                *(row[axis] for axis in axes),
                f"{row['parameters']:,.0f}",
                f"{row['flops'] / 1e9:,.1f}",
                f"{row['train_seconds']:,.1f}",
            )
            for row in frame.to_dict("records")
        ],
        left=len(axes),
    )


def missing_frame(results: Results) -> pd.DataFrame:
    """Return the runs of the plan without a result, with the reason if one failed."""
    axes = list(dict.fromkeys([*varying_axes(results), "seed"]))
    reasons = {
        config: results.failed.get(key)
        for key, config in zip(results.plan.keys, results.plan.configs, strict=True)
        if key in results.failed
    }
    rows = []
    for config in results.missing:
        values = asdict(config) if is_dataclass(config) else dict(config)
        reason = reasons.get(config)
        rows.append(
            {axis: level_text(values[axis]) for axis in axes}
            | {"state": "failed" if reason else "not finished", "reason": " ".join((reason or "").split())}
        )
    return pd.DataFrame(rows, columns=[*axes, "state", "reason"])


def environments_frame(results: Results) -> pd.DataFrame:
    """Return the environments of the runs: a row for each fact and value, with the number of runs that have it."""
    facts: dict[tuple[str, str], int] = {}
    for environment in results.environments.values():
        for name, value in _flat({name: value for name, value in environment.items() if name != "encodings"}):
            facts[name, value] = facts.get((name, value), 0) + 1
    order = list(dict.fromkeys(name for name, _ in facts))
    rows = sorted(((name, value, n) for (name, value), n in facts.items()), key=lambda r: (order.index(r[0]), r[1]))
    return pd.DataFrame(rows, columns=["what", "value", "runs"])


def _flat(values: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for name, value in values.items():
        label = f"{prefix}{name}"
        if isinstance(value, dict):
            yield from _flat(value, f"{label} ")
        elif isinstance(value, list | tuple):
            if value:
                yield label, ", ".join(map(str, value))
        elif value is not None:
            yield label, str(value)
