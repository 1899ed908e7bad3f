"""Figure of accuracy against training cost: settings in order of cost, the arms of a setting side by side."""

from __future__ import annotations

from textwrap import wrap
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ablations.config import name_level
from ablations.config.safe_text import LONGEST, shortened
from ablations.reporting.figures import panels as figures
from ablations.reporting.figures.figure import WIDTH, ReportFigure, canvas
from ablations.reporting.figures.palette import arm_legend, arm_marks
from ablations.reporting.formatting import capital, in_unit, listed
from ablations.statistics import FloatArray, Outcomes

if TYPE_CHECKING:
    from ablations.storage import Results

SAME_COST = 1.05
"""Largest ratio of the costs within a setting for which its arms share a column; else every arm has its own column."""
UNITS = ((1e18, "exaFLOPs"), (1e15, "petaFLOPs"), (1e12, "teraFLOPs"), (1e9, "gigaFLOPs"), (1.0, "FLOPs"))


def cost(results: Results, outcomes: Outcomes) -> ReportFigure | None:
    """Return the figure; None if no cost is known."""
    column = "flops" if results.runs["flops"].notna().all() else "train_seconds"
    points = _points(outcomes, dict(zip(results.runs["key"], results.runs[column], strict=True)))
    if points.empty or not (points["cost"] > 0).all():
        return None
    names, noun = [outcomes.arm_name(arm) for arm in range(len(outcomes.arms))], outcomes.measure.noun
    marks = arm_marks(outcomes.axis, names)
    settings = points.groupby("setting")["cost"]
    shared = bool((settings.transform("max") < SAME_COST * settings.transform("min")).all())
    points["column"] = points["setting"] if shared else points["arm"].map(shortened) + "\n" + points["setting"]
    columns = points.groupby("column", sort=False)["cost"].mean().sort_values(kind="stable")
    places, to_scale = _places(columns.to_numpy())
    room = 0.8 * (float(np.diff(places).min()) if len(places) > 1 else 1.0)
    points["x"] = points["column"].map(dict(zip(columns.index, places, strict=True)))
    if shared:
        points["x"] += room * ((points["arm"].map(names.index) + 0.5) / len(names) - 0.5)

    scale, unit = _unit(float(columns.max())) if column == "flops" else (1.0, "seconds")
    labels = [
        [_three_digits(value / scale), *filter(None, name.split("\n"))]
        for name, value in zip(map(str, columns.index), columns, strict=True)
    ]
    upright = len(columns) > 6
    width = max(WIDTH, 0.13 * len(points) + 2)
    figure, axes = canvas(4.4 if upright else 3.2 + 0.2 * max(map(len, labels)), width=width)
    ax = axes[0, 0]
    for place in places:
        ax.axvspan(place - room / 2, place + room / 2, color="#F6F6F6", lw=0, zorder=0)
    figures.values_against_cost(ax, points, marks, outcomes.measure)
    texts = [", ".join([*rest, value]) if upright else "\n".join([value, *rest]) for value, *rest in labels]
    ax.set_xticks(places, texts, rotation=90 if upright else 0)
    ax.tick_params(axis="x", length=0)
    ax.set_xlim(places[0] - 0.7 * room, places[-1] + 0.7 * room)
    order = f", {'log scale' if to_scale else 'cheapest first'}" if len(columns) > 1 else ""
    ax.set_xlabel(f"training cost of one run ({unit}{order})")
    ax.set_ylabel("\n".join(wrap(in_unit(noun, "" if outcomes.measure.is_share else outcomes.measure.unit), LONGEST)))
    if len(names) > 1 and shared:
        arm_legend(figure, marks, handletextpad=0.3)
    words = "floating-point operations" if column == "flops" else "seconds"
    together = shared and len(names) > 1
    return ReportFigure(
        "cost",
        f"{'Accuracy' if outcomes.measure.is_accuracy else capital(noun)} against training cost",
        f"Plot of {outcomes.measure.mean_noun} against training cost in {words} for {listed(names)}.",
        f"Marker: mean over seeds; line: lowest to highest seed. Below each column: the {words} of one training run"
        + (
            f" and the setting. In a setting the cost is nearly the same for every {outcomes.axis.replace('_', ' ')}."
            if together
            else "."
        ),
        figure,
    )


def _points(outcomes: Outcomes, cost_of: dict[str, float]) -> pd.DataFrame:
    points = []
    for arm in range(len(outcomes.arms)):
        for cell in range(len(outcomes.cells)):
            values = outcomes.values[arm, cell]
            known = np.isfinite(values)
            if known.any():
                whole = [key for key in outcomes.keys[arm, cell][known] if key not in outcomes.diverged]
                points.append(
                    {
                        "arm": outcomes.arm_name(arm),
                        "setting": "\n".join(
                            shortened(name_level(axis, level))
                            for axis, level in zip(outcomes.cell_axes, outcomes.cells[cell], strict=True)
                        ),
                        "cost": float(np.mean([cost_of[str(key)] for key in whole or outcomes.keys[arm, cell][known]])),
                        "mean": values[known].mean(),
                        "low": values[known].min(),
                        "high": values[known].max(),
                    }
                )
    return pd.DataFrame(points)


def _places(costs: FloatArray) -> tuple[FloatArray, bool]:
    """Return the places of columns by increasing cost, and whether they are on a log scale (no two too close)."""
    logs = np.log2(costs)
    gaps = np.diff(logs)
    if gaps.size and gaps.min() > 0.5 * gaps.mean():
        return logs, True
    return np.arange(costs.size, dtype=float), False


def _three_digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _unit(most: float) -> tuple[float, str]:
    """Return the largest unit of which `most` is at least 2, as (FLOPs, name)."""
    return next(unit for unit in UNITS if most >= 2 * unit[0] or unit[0] == 1.0)
