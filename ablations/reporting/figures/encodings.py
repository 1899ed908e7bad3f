"""Figures of positional encodings: what each of them does with the patches of an image, in the trained models."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from textwrap import wrap
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable

from ablations.config import count, level_text, position_label, vit_config
from ablations.config.safe_text import shortened
from ablations.reporting.figures.encoding_effects import UndrawableError, effects, learns
from ablations.reporting.figures.encoding_panels import (
    colour_bar,
    cosine_similarity,
    displacement_map,
    frequency_plane,
    similarity_mosaic,
)
from ablations.reporting.figures.figure import ReportFigure, canvas
from ablations.reporting.formatting import listed
from ablations.statistics import FloatArray

if TYPE_CHECKING:
    from ablations.storage import Results
    from vit import ViTConfig
    from vit.positions import Position

COLUMNS = 4
"""Most panels in a row, and most heads of an encoding that are drawn."""

TITLES = {
    "tokens": "Encodings added to the tokens",
    "rotations": "Rotations of queries and keys",
    "scores": "Encodings added to the scores",
}
"""Headings of the figures, one for each kind, if the panels do not fit in one row."""

CAPTIONS = {
    "table": "Cosine similarity: each tile belongs to one patch, at its position in the image, and compares what is "
    "added to its token with what is added to every token.",
    "response": "Of a convolution, it compares what is added to tokens of ones, which differs only at the edge of the "
    "image.",
    "rotation": "Relative score: product of a query and a key of ones, the key dx columns to the right of the query "
    "and dy rows below it, divided by the product without rotation; mean over heads, blocks and pairs of patches.",
    "frequencies": "Frequencies: a circle marks the start of a pair of channels of one head, and an arrow leads to its "
    "value after training; the pair is rotated by x fx + y fy at column x and row y.",
    "bias": "Bias minus mean: what the first block adds to the score of a key dx columns to the right of the query and "
    "dy rows below it, minus the mean of the map, which does not affect attention between patches.",
    "products": "Added score: what is added to the score of a key dx columns to the right of the query and dy rows "
    "below it, as the root mean square over random queries (independent standard normal components); mean over heads "
    "and blocks.",
}
"""Explanations of the panels by kind, in the order of a caption."""


@dataclass(frozen=True)
class Panel:
    """A panel: its heading, the function that draws it, and the label of its colours."""

    title: str
    draw: Callable[[Axes], ScalarMappable]
    label: str


@dataclass(frozen=True)
class Drawing:
    """The panels of one effect of one encoding, which stay in one row."""

    name: str
    kind: str
    """A key of CAPTIONS."""
    panels: list[Panel]
    source: str
    """Where the values are from."""

    @property
    def title(self) -> str:
        return f"{self.name} (frequencies)" if self.kind == "frequencies" else self.name

    @property
    def figure(self) -> str:
        """Return a key of TITLES."""
        kinds = {"table": "tokens", "response": "tokens", "bias": "scores", "products": "scores"}
        return kinds.get(self.kind, "rotations")


@dataclass(frozen=True)
class Measured:
    """Effects of an encoding by kind, in each of its trained models with a seed; in one model if nothing is learned."""

    learned: bool
    seeds: list[int]
    models: list[dict[str, FloatArray]]

    def mean(self, kind: str, function: Callable[[FloatArray], FloatArray] = np.asarray) -> FloatArray:
        return np.asarray(np.mean([function(model[kind]) for model in self.models], axis=0))

    @property
    def mean_source(self) -> str:
        many = len(self.models) > 1
        return f"{count(len(self.models), 'trained model')}{', averaged' * many}" if self.learned else "formulas"

    @property
    def first_source(self) -> str:
        return f"the trained model with seed {self.seeds[0]}" if self.learned else "formulas"


def encodings(results: Results) -> list[ReportFigure]:
    """Return the figures: one with all panels if they fit in a row, else one for each of TITLES that has panels.

    There are none if positions do not vary or the size of the images is not known.
    """
    names = list(dict.fromkeys(results.plan.axes.get("position", ())))
    config = _config(results) if len(names) > 1 else None
    if config is None:
        return []
    runs = _alike(results)
    drawings: dict[str, list[Drawing]] = {}
    facts: dict[str, object] = {"encodings_patches_a_side": config.grid}
    for name in names:
        for label, part in _parts(name, names, config):
            if label in drawings:
                continue
            measured = _measured(part, config, results, runs[runs["position"] == name]) if part else None
            drawings[label] = _drawings(label, measured) if measured else []
            if measured and measured.learned:
                facts |= {
                    f"encodings_models_{label}": len(measured.models),
                    f"encodings_seed_{label}": measured.seeds[0],
                }
    missing = [label for label, drawn in drawings.items() if not drawn]
    every = [drawing for drawn in drawings.values() for drawing in drawn]
    if any(drawing.kind == "bias" for drawing in every):
        facts |= {"encodings_heads": config.heads, "encodings_heads_drawn": min(config.heads, COLUMNS)}
    if sum(len(drawing.panels) for drawing in every) <= COLUMNS:
        groups = {"": every} if every else {}
    else:
        groups = {kind: found for kind in TITLES if (found := [each for each in every if each.figure == kind])}
    figures = []
    for i, (kind, group) in enumerate(groups.items()):
        absent = f" Not drawn: {', '.join(missing)}." if missing and i == len(groups) - 1 else ""
        figures.append(_figure(kind, group, _caption(group, config) + absent, facts))
    return figures


def _alike(results: Results) -> pd.DataFrame:
    """Return the runs of one setting, that with the smallest patch, depth and width, without those that diverged."""
    runs = results.runs.sort_values(["patch", "depth", "width", "seed"])
    runs = runs[runs["diverged"] == 0]
    axes = {*results.plan.axes, "patch", "depth", "width", "heads", "pool", "data"} - {"position"}
    for axis in sorted(axes):
        texts = runs[axis].map(level_text, na_action=None)
        runs = runs[texts == texts.iloc[0]] if len(runs) else runs
    return runs


def _config(results: Results) -> ViTConfig | None:
    """Return the model of the first run of `_alike` on images of one channel, None if their size is not known."""
    from ablations.data import DATASETS

    runs = _alike(results)
    config = results.plan.runs[runs["key"].iloc[0]] if len(runs) else results.plan.configs[0]
    info = DATASETS.get(config.data)
    if info is None or info.image_size is None:
        return None
    return vit_config(config, image_size=info.image_size, channels=1, classes=2)


def _parts(name: str, names: Sequence[str], config: ViTConfig) -> Iterator[tuple[str, Position | None]]:
    """Yield the encodings of a sum with their labels, None for a part that cannot be loaded; nothing for none.

    A part without parameters that is also an arm has the label of the arm.
    """
    from vit import ConfigError
    from vit.positions import encoding

    try:
        parts = encoding(name).parts
    except ConfigError:
        yield position_label(name), None
        return
    for part in parts:
        own = position_label(str(part))
        fixed_arm = str(part) in names and len(parts) > 1 and not learns(part, config)
        if str(part) != "none":
            yield own if len(parts) == 1 or fixed_arm else f"{own} in {position_label(name)}", part


def _measured(part: Position, config: ViTConfig, results: Results, runs: pd.DataFrame) -> Measured | None:
    """Return the effects in the trained models that can be read, None if there are none."""
    try:
        found = Measured(learns(part, config), [], [])
        if not found.learned:
            found.models.append(effects(part, config, {}))
            return found
    except UndrawableError:
        return None
    for key, seed in zip(runs["key"], runs["seed"], strict=True):
        try:
            found.models.append(effects(part, config, results.checkpoint(key), int(seed)))
        except (OSError, KeyError, UndrawableError):
            continue
        found.seeds.append(int(seed))
    return found if found.models else None


def _drawings(name: str, found: Measured) -> list[Drawing]:
    """Return the panels of every effect of an encoding."""
    kinds = [kind for kind in CAPTIONS if all(kind in model for model in found.models)]
    first = found.models[0]
    drawings = []
    for kind in kinds:
        source = found.mean_source
        if kind in ("table", "response"):
            similarity = found.mean(kind, cosine_similarity)
            panels = [Panel(name, partial(similarity_mosaic, similarity=similarity), "cosine similarity")]
        elif kind == "frequencies":
            arrows = partial(frequency_plane, start=first["start"], trained=first[kind])
            panels, source = [Panel(f"{name}\nfrequencies", arrows, "block")], found.first_source
        elif kind == "bias":
            panels, source = _heads(name, first[kind]), found.first_source
        else:
            label = "relative score" if kind == "rotation" else "added score"
            panels = [Panel(name, partial(displacement_map, values=found.mean(kind)), label)]
        drawings.append(Drawing(name, kind, panels, source))
    return drawings


def _heads(name: str, bias: FloatArray) -> list[Panel]:
    """Return a panel for each of the first heads of a bias (H, span, span)."""
    bias = bias - bias.mean(axis=(1, 2), keepdims=True)
    largest = float(np.abs(bias[:COLUMNS]).max()) or 1.0
    return [
        Panel(f"{name}\nhead {head}", partial(displacement_map, values=values, largest=largest), "bias minus mean")
        for head, values in enumerate(bias[:COLUMNS], start=1)
    ]


def _rows(group: Sequence[Drawing]) -> list[list[Panel]]:
    """Return the panels in as few rows as possible, of which the longest is as short as possible."""
    packed = [_packed(group, columns) for columns in range(1, COLUMNS + 1)]
    fewest = min(map(len, packed))
    return next(rows for rows in packed if len(rows) == fewest)


def _packed(group: Sequence[Drawing], columns: int) -> list[list[Panel]]:
    """Return rows of panels in order, at most `columns` in a row unless a drawing has more."""
    rows: list[list[Panel]] = []
    for drawing in group:
        if rows and len(rows[-1]) + len(drawing.panels) <= columns:
            rows[-1].extend(drawing.panels)
        else:
            rows.append(list(drawing.panels))
    return rows


def _figure(kind: str, group: Sequence[Drawing], caption: str, facts: Mapping[str, object]) -> ReportFigure:
    rows = _rows(group)
    columns = max(map(len, rows))
    width = max(5.4, 0.6 + 1.95 * columns)
    side = min(2.1, (width - 0.45) / columns - 0.2)
    lines = [max(_heading(panel.title).count("\n") + 1 for panel in row) for row in rows]
    height = 0.1 + sum(side + 1.3 + 0.19 * line for line in lines)
    figure, axes = canvas(height, len(rows), columns, width=width)
    for ax in axes.flat:
        ax.set_visible(False)
    for line, row in zip(axes, rows, strict=True):
        above = ""
        for ax, panel in zip(line, row, strict=False):
            ax.set_visible(True)
            colour_bar(figure, ax, panel.draw(ax), panel.label, shrink=min(0.8, 0.85 * side / (width / columns - 0.4)))
            ax.set_title(_heading(panel.title))
            if ax.get_ylabel() == above:
                ax.set_ylabel("")
            above = ax.get_ylabel() or above
    names = listed(list(dict.fromkeys(drawing.name for drawing in group)))
    return ReportFigure(
        f"encodings_{kind}" if kind else "encodings",
        TITLES.get(kind, "What the encodings do"),
        f"Maps of the effect of the encodings {names} on patches, by place or displacement.",
        caption,
        figure,
        facts,
    )


def _heading(title: str) -> str:
    """Return a title in lines that fit above a panel."""
    return "\n".join(line for part in title.split("\n") for line in wrap(shortened(part), 20))


def _caption(group: Sequence[Drawing], config: ViTConfig) -> str:
    kinds = {drawing.kind for drawing in group}
    sentences = [f"Grid of {config.grid} × {config.grid} patches."]
    sentences += [text for kind, text in CAPTIONS.items() if kind in kinds]
    if "bias" in kinds and config.heads > COLUMNS:
        sentences.append(f"The first {COLUMNS} of {config.heads} heads are drawn.")
    sentences.append("Each encoding has its own scale.")
    sources = {drawing.source: "" for drawing in group}
    for source in sources:
        sentences.append(f"From {source}: {', '.join(_unique(d.title for d in group if d.source == source))}.")
    return " ".join(sentences)


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
