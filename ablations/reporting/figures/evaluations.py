"""Figures of what the evaluation protocols measured, with captions and alternative texts."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ablations.config.safe_text import shortened
from ablations.evaluation import PROTOCOLS
from ablations.reporting.evaluation_analysis import EvaluationAnalysis, ProtocolAnalysis
from ablations.reporting.figures import evaluation_panels as panels
from ablations.reporting.figures.figure import WIDTH, ReportFigure, canvas
from ablations.reporting.figures.gallery import axis_label, marks_of, names_of, panel_title, panels_of
from ablations.reporting.figures.palette import arm_legend, style, value_ticks
from ablations.reporting.figures.panels import MOST_BANDS, means_heatmap
from ablations.reporting.findings import best_arm
from ablations.reporting.formatting import capital, listed
from ablations.statistics import ACCURACY, Measure, Outcomes, arrange, means_of_arms, t_interval

if TYPE_CHECKING:
    from ablations.storage import Results

MOST_PANELS = 9
"""Most settings that have a panel each."""
MOST_BESIDE = 12
"""Most classes of two confusion matrices beside each other; larger ones stand below each other."""


def evaluation_figures(results: Results, found: EvaluationAnalysis) -> dict[str, list[ReportFigure]]:
    """Return the figures of each protocol, by its name in the standard spelling."""
    drawn = {}
    with style():
        for each in found.protocols:
            draw = FIGURES.get(each.protocol.name, _means)
            figure = draw(each, in_place(results, each)) if each.analyses else None
            drawn[each.name] = [figure] if figure else []
    return drawn


def in_place(results: Results, each: ProtocolAnalysis) -> Outcomes:
    """Return the test accuracies of the runs that a protocol has measured."""
    accuracy = arrange(results)
    measured = np.any([np.isfinite(analysis.outcomes.values) for analysis in each.analyses.values()], axis=0)
    return replace(
        accuracy, values=np.where(measured, accuracy.values, np.nan), keys=np.where(measured, accuracy.keys, "")
    )


def _name(each: ProtocolAnalysis) -> str:
    """Return a file name for a protocol; a digest tells apart options and files whose letters and digits are equal."""
    name = "evaluation_" + re.sub(r"\W+", "_", each.name, flags=re.ASCII).strip("_")
    if each.name in PROTOCOLS:
        return name
    return f"{name}_{hashlib.sha256(each.name.encode()).hexdigest()[:6]}"


def _means(each: ProtocolAnalysis, accuracy: Outcomes) -> ReportFigure:
    """Draw the means of the metrics that have the unit of the first, a row for each."""
    first = each.first.outcomes
    measures = {name: analysis.outcomes.measure for name, analysis in each.tested.items()}
    shown = [name for name, m in measures.items() if m.unit == first.measure.unit]
    marks, names = marks_of(first), names_of(first)
    figure, axes = canvas(0.8 + len(shown) * (0.35 + 0.13 * len(names)))
    labels = [fill(capital(measures[name].noun), 30) for name in shown]
    panels.means_by_metric(axes[0, 0], [each.means[name] for name in shown], labels, marks)
    value_ticks(axes[0, 0].xaxis, first.measure)
    if not first.measure.is_share:
        axes[0, 0].set_xlabel(axis_label(first.measure) if len(shown) == 1 else first.measure.unit)
    arm_legend(figure, marks)
    return ReportFigure(
        _name(each),
        capital(each.protocol.description),
        f"Dot plot of the metrics of the protocol {each.name} for {listed(names)}.",
        "Marker: mean over seeds and settings; line: its 95 % interval over seeds.",
        figure,
    )


def _by_setting(each: ProtocolAnalysis, draw: Callable[[Axes, int], None], height: float) -> tuple[Figure, str]:
    """Draw a panel for each setting, at most `MOST_PANELS`; return the figure, and what it shows in a sentence."""
    outcomes = each.first.outcomes
    shown = min(len(outcomes.cells), MOST_PANELS)
    rows, columns = panels_of(outcomes) if shown == len(outcomes.cells) else (3, 3)
    width = max(WIDTH, 1.8 * columns + 0.6)
    figure, axes = canvas(0.8 + rows * height, rows, columns, sharey=True, width=width)
    for cell, ax in enumerate(axes.flat):
        if cell >= shown:
            ax.set_visible(False)
            continue
        draw(ax, cell)
        ax.set_title(panel_title(outcomes.cell_name(cell)), loc="left")
    arm_legend(figure, marks_of(outcomes), line=2)
    some = f" The first {shown} of {len(outcomes.cells)} settings." if shown < len(outcomes.cells) else ""
    return figure, some


def _banded(outcomes: Outcomes) -> bool:
    """Return whether lines have bands of their intervals; those of many arms would hide each other."""
    return len(outcomes.arms) <= MOST_BANDS


def _band_text(outcomes: Outcomes) -> str:
    return "; band: its 95 % interval over seeds" * _banded(outcomes)


def _per_setting(outcomes: Outcomes) -> str:
    return ", one panel per setting" * (len(outcomes.cells) > 1)


def _resolution(each: ProtocolAnalysis, accuracy: Outcomes) -> ReportFigure:
    sizes = {1.0: accuracy.values}
    for name, analysis in each.tested.items():
        sizes[float(name.removeprefix("accuracy-").removesuffix("x"))] = analysis.outcomes.values
    factors = sorted(sizes)

    def draw(ax: Axes, cell: int) -> None:
        for arm, (name, mark) in enumerate(marks_of(accuracy).items()):
            points = [_mean(sizes[factor][arm, cell], ACCURACY) for factor in factors]
            panels.curve(ax, factors, points, mark, band=_banded(accuracy), name=name)
        ax.axvline(1, color="#999999", lw=0.8, ls=":", zorder=0)
        ax.set_xticks(factors, [f"{factor:g}" for factor in factors])
        value_ticks(ax.yaxis, ACCURACY)
        ax.set_ylim(max(ax.get_ylim()[0], 0), min(ax.get_ylim()[1], 102))
        ax.grid(axis="y")

    figure, some = _by_setting(each, draw, 1.9)
    figure.supxlabel("side of the test images, relative to the training images", fontsize=11)
    figure.supylabel("accuracy", fontsize=11)
    return ReportFigure(
        _name(each),
        "Accuracy on images of other sizes",
        f"Accuracy against the size of the test images for {listed(names_of(accuracy))}{_per_setting(accuracy)}.",
        f"Line: mean over seeds, with the default way of each encoding to serve another grid{_band_text(accuracy)}; "
        f"dotted line: the size of the training images, with the test accuracy.{some}",
        figure,
    )


def _occlusion(each: ProtocolAnalysis, accuracy: Outcomes) -> ReportFigure:
    shares = {0.0: accuracy.values} | {
        100 * float(name.removeprefix("accuracy-")): analysis.outcomes.values
        for name, analysis in each.tested.items()
        if name != "accuracy"
    }
    x = sorted(shares)

    def draw(ax: Axes, cell: int) -> None:
        for arm, (name, mark) in enumerate(marks_of(accuracy).items()):
            points = [_mean(shares[share][arm, cell], ACCURACY) for share in x]
            panels.curve(ax, x, points, mark, band=_banded(accuracy), name=name)
        ax.set_xticks(x)
        value_ticks(ax.yaxis, ACCURACY)
        ax.grid(axis="y")

    figure, some = _by_setting(each, draw, 1.9)
    figure.supxlabel("blanked patches (%)", fontsize=11)
    figure.supylabel("accuracy", fontsize=11)
    return ReportFigure(
        _name(each),
        "Accuracy with blanked patches",
        f"Accuracy against the share of blanked patches for {listed(names_of(accuracy))}{_per_setting(accuracy)}.",
        f"Line: mean over seeds{_band_text(accuracy)}. At 0 %: the test accuracy.{some}",
        figure,
    )


def _corruption(each: ProtocolAnalysis, accuracy: Outcomes) -> ReportFigure:
    kinds = {"accuracy": "all\ncorruptions"} | {
        name: name.removeprefix("accuracy-").replace("-", "\n") for name in each.tested if name != "accuracy"
    }
    columns = {"no\ncorruption": means_of_arms(accuracy)} | {
        text: each.means[name] for name, text in kinds.items() if name in each.means
    }
    names = list(map(shortened, names_of(accuracy)))
    over = ["five severities", "seeds", *["settings"] * (len(accuracy.cells) > 1)]
    frame = pd.DataFrame({text: [mean.mean for mean in means] for text, means in columns.items()}, names)
    figure, axes = canvas(0.9 + 0.36 * len(names), width=max(WIDTH, 0.86 * len(columns) + 1.3))
    known = frame.to_numpy()[np.isfinite(frame.to_numpy())]
    layout = figure.get_layout_engine()
    figure.set_layout_engine("none")  # a heatmap of seaborn would lay the figure out
    means_heatmap(axes[0, 0], frame, lowest=float(known.min()), highest=float(max(known.max(), known.min() + 1)))
    figure.set_layout_engine(layout)
    axes[0, 0].xaxis.tick_top()
    axes[0, 0].tick_params(length=0)
    return ReportFigure(
        _name(each),
        "Accuracy on corrupted images",
        f"Heat map of accuracy by corruption for {listed(names_of(accuracy))}.",
        f"Mean accuracy in percent over {listed(over)}.",
        figure,
    )


def _calibration(each: ProtocolAnalysis, accuracy: Outcomes) -> ReportFigure | None:
    confidence, right, count = (each.array(name) for name in ("confidence", "accuracy", "count"))
    if not confidence:
        return None
    names = names_of(accuracy)
    columns = min(len(names), 4)
    rows = -(-len(names) // columns)
    figure, axes = canvas(0.55 + 1.95 * rows, rows, columns, sharex=True, sharey=True)
    for arm, ax in enumerate(axes.flat):
        if arm >= len(names):
            ax.set_visible(False)
            continue
        keys = [key for key in map(str, accuracy.keys[arm].ravel()) if key in confidence]
        bins = max((len(confidence[key]) for key in keys), default=0)
        keys = [key for key in keys if len(confidence[key]) == bins]
        if keys:
            x, y = (np.mean([100 * values[key] for key in keys], axis=0) for values in (confidence, right))
            panels.reliability(ax, x, y, marks_of(accuracy)[names[arm]])
        ax.set_title(shortened(names[arm]), loc="left")
        value_ticks(ax.xaxis, ACCURACY, most=2)
        value_ticks(ax.yaxis, ACCURACY, most=4)
        ax.tick_params(labelbottom=arm + columns >= len(names))
    figure.supxlabel("confidence of the predicted class", fontsize=11)
    figure.supylabel("accuracy", fontsize=11)
    images = int(sum(next(iter(count.values()))))
    return ReportFigure(
        _name(each),
        "Reliability diagram",
        f"Reliability diagrams, one panel for each of {listed(names)}: accuracy against confidence.",
        f"Each point is a bin of the {images:,} test images, of equal size, by the confidence of the predicted class; "
        "mean over the bins of all runs of an arm. On the line, confidence equals accuracy; below it, the model is "
        "overconfident.",
        figure,
    )


def _confusion(each: ProtocolAnalysis, accuracy: Outcomes) -> ReportFigure | None:
    matrices = each.array("confusion")
    if not matrices:
        return None
    names = names_of(accuracy)
    best, base = names.index(best_arm(accuracy)), accuracy.baseline
    if best == base:
        others = [arm for arm in range(len(names)) if arm != base]
        best = others[0] if others else base
    shown = [base] if best == base else [base, best]
    keys = [[key for key in map(str, accuracy.keys[arm].ravel()) if key in matrices] for arm in shown]
    found = [panels.confusion_rates([matrices[key] for key in of_arm]) for of_arm in keys]
    rates = [each for each in found if each is not None]
    if len(rates) < len(shown) or len({rate.shape for rate in rates}) != 1:
        return None
    classes = [each.class_name(label) for label in range(len(rates[0]))]
    below = len(classes) > MOST_BESIDE
    figure, axes = canvas(5.2 * len(shown), len(shown), 1) if below else canvas(3.5, 1, len(shown))
    first, *second = axes.flat
    panels.confusion(figure, first, rates[0], classes, "share of a class (%)")
    first.set_title(f"{shortened(names[base])}: confusions", loc="left")
    for ax in second:
        panels.confusion(figure, ax, rates[1] - rates[0], classes, "difference (points)", signed=True)
        ax.set_title(f"{shortened(names[best], 18)} − {shortened(names[base], 18)}", loc="left")
    for ax in axes[-1]:
        ax.set_xlabel("predicted class")
    for ax in axes[:, 0]:
        ax.set_ylabel("true class")
    places = ("Above", "Below") if below else ("Left", "Right")
    difference = (
        f" {places[1]}: {names[best]} minus {names[base]}; blue: {names[best]} makes the confusion less often."
        if len(shown) > 1
        else ""
    )
    return ReportFigure(
        _name(each),
        "Confused classes",
        f"Confusion matrix of {names[base]}{f', and that of {names[best]} minus it' if len(shown) > 1 else ''}.",
        f"{f'{places[0]}: p' if len(shown) > 1 else 'P'}ercentage of the test images of a class that are predicted as "
        f"another, over all runs.{difference}",
        figure,
    )


def _attention(each: ProtocolAnalysis, accuracy: Outcomes) -> ReportFigure | None:
    distances = each.array("distance")
    if not distances:
        return None
    outcomes = each.first.outcomes

    def draw(ax: Axes, cell: int) -> None:
        by_arm = [[distances[key] for key in map(str, keys[cell]) if key in distances] for keys in outcomes.keys]
        panels.heads(ax, by_arm, list(marks_of(outcomes).values()))

    figure, some = _by_setting(each, draw, 2.0)
    figure.supxlabel("block", fontsize=11)
    figure.supylabel("mean attention distance (pixels)", fontsize=11)
    return ReportFigure(
        _name(each),
        "Attention distance by block and head",
        f"Mean attention distance of every head against its block for {listed(names_of(outcomes))}.",
        "Marker: mean attention distance of one head of one run, over test images and query patches; each panel is a "
        f"setting.{some}",
        figure,
    )


def _probe(each: ProtocolAnalysis, accuracy: Outcomes) -> ReportFigure | None:
    scores = each.array("r2")
    if not scores:
        return None
    outcomes = each.first.outcomes

    def draw(ax: Axes, cell: int) -> None:
        for keys, (name, mark) in zip(outcomes.keys, marks_of(outcomes).items(), strict=True):
            rows = [scores[key] for key in map(str, keys[cell]) if key in scores]
            if rows and len({len(row) for row in rows}) == 1:
                points = [_mean(values, outcomes.measure) for values in np.array(rows).T]
                panels.curve(ax, range(len(points)), points, mark, band=_banded(outcomes), name=name)
                ax.set_xticks(range(len(points)), ["0", *map(str, range(1, len(points)))])
        value_ticks(ax.yaxis, outcomes.measure)
        ax.grid(axis="y")

    figure, some = _by_setting(each, draw, 1.9)
    figure.supxlabel("block (0: before the first block)", fontsize=11)
    figure.supylabel("R2 of the patch position", fontsize=11)
    return ReportFigure(
        _name(each),
        "Position that can be read from the tokens",
        f"R2 of the patch position before and after each block for {listed(names_of(outcomes))}.",
        f"Line: mean over seeds{_band_text(outcomes)}. 1: column and row of a patch can be read exactly; 0: not at all."
        f"{some}",
        figure,
    )


def _mean(values: Any, measure: Measure) -> tuple[float, float, float]:
    """Return a mean and its 95 % t interval, which ends at what is possible."""
    known = values[np.isfinite(values)]
    if not known.size:
        return np.nan, np.nan, np.nan
    low, high = np.clip(t_interval(known), measure.lowest, measure.highest)
    return float(known.mean()), float(low), float(high)


FIGURES: Mapping[str, Callable[[ProtocolAnalysis, Outcomes], ReportFigure | None]] = {
    "resolution": _resolution,
    "occlusion": _occlusion,
    "corruption": _corruption,
    "calibration": _calibration,
    "per-class": _confusion,
    "attention": _attention,
    "position-probe": _probe,
}
"""The figure of a protocol by its name; others have the means of their metrics."""
