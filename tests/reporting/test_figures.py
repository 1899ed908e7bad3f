"""Figures: what is drawn, and that drawing leaves no trace."""

import itertools

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from ablations.config import GRIDS
from ablations.reporting.figures import panels as figures
from ablations.reporting.figures.cost import _places, cost
from ablations.reporting.figures.gallery import report_figures
from ablations.reporting.figures.palette import OTHER_MARKS, POSITION_MARKS, arm_marks, position_marks
from ablations.reporting.formatting import interval_text, points_text
from ablations.statistics import Analysis, arrange
from tests.support import synthetic_results
from tests.support.rendering import rendered
from vit.positions import POSITIONS

COLOUR_VISION = {  # Machado et al. 2009, full severity, linear RGB
    "normal": np.eye(3),
    "protanopia": [[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.0520]],
    "deuteranopia": [[0.3673, 0.8606, -0.2280], [0.2801, 0.6725, 0.0474], [-0.0118, 0.0429, 0.9689]],
    "tritanopia": [[1.2555, -0.0767, -0.1788], [-0.0784, 0.9308, 0.1476], [0.0047, 0.6914, 0.3039]],
}


def _lab(linear):
    matrix = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    t = np.array(matrix) @ np.clip(linear, 0, 1) / [0.9505, 1, 1.089]
    f = np.where(t > 0.008856, np.cbrt(t), 7.787 * t + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("vision", COLOUR_VISION)
def test_colours_of_positions_stay_apart_for_every_eye(vision):
    def seen(colour):
        c = np.array(to_rgb(colour))
        return _lab(np.array(COLOUR_VISION[vision]) @ np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4))

    first = {POSITION_MARKS[name].colour for name in ("none", "learned", "sinusoidal", "rope")}
    colours = {mark.colour for mark in [*POSITION_MARKS.values(), *OTHER_MARKS]}
    assert len(colours) == 15
    for a, b in itertools.combinations(colours, 2):
        assert np.linalg.norm(seen(a) - seen(b)) > (30 if {a, b} <= first else 19), (a, b)


def test_no_two_arms_share_a_marker():
    marks = {*POSITION_MARKS.values(), *OTHER_MARKS}
    assert len({mark.marker for mark in marks}) == len({mark.colour for mark in marks}) == len(marks) == 15
    assert len({mark.marker for mark in arm_marks("depth", [f"depth {n}" for n in range(15)]).values()}) == 15


def test_marks_are_fixed_for_built_in_positions_and_stable_for_others():
    assert set(POSITION_MARKS) == set(POSITIONS)
    assert position_marks(["rope", "mine"])["rope"] == POSITION_MARKS["rope"]
    assert position_marks(["mine"])["mine"] == position_marks(["none", "rope", "mine"])["mine"]
    built_in = position_marks([*POSITIONS, "rope+learned"])
    assert {name: built_in[name] for name in POSITIONS} == POSITION_MARKS
    assert len({mark.colour for mark in built_in.values()}) == 15


@pytest.mark.parametrize("built_in", [[], list(POSITIONS)[:3], list(POSITIONS)])
@pytest.mark.parametrize("count", [7, 11, 12, 40])
def test_many_arms_have_different_colours_or_markers(built_in, count):
    marks = list(position_marks([*built_in, *(f"mine-{n}" for n in range(count))]).values())
    assert len({(mark.colour, mark.marker) for mark in marks}) == len(marks)
    colours = {mark.colour for mark in marks}
    possible = {mark.colour for mark in OTHER_MARKS} | {POSITION_MARKS[name].colour for name in built_in}
    assert len(colours) == min(len(marks), len(possible))


def test_points_text():
    assert [points_text(x) for x in (1.26, -0.34, 0.04, -0.04)] == ["+1.3", "−0.3", "0.0", "0.0"]


def test_an_end_of_an_interval_shows_on_which_side_of_zero_it_is():
    assert interval_text(-2.51, -0.043) == "−2.5 to −0.04"
    assert interval_text(0.0049, 1.0) == "+0.005 to +1.0"
    assert interval_text(-0.00004, 0.0) == "0.0 to 0.0"
    assert interval_text(-0.05, 0.06) == "−0.1 to +0.1"


def test_every_run_is_a_dot():
    ax = Figure().subplots()
    accuracy = np.array([[70.0, 71.0, np.nan], [90.0, 10.0, 92.0], [np.nan] * 3])
    names = ["none", "rope", "learned"]
    assert figures.values_by_arm(ax, accuracy, accuracy == 10, names, position_marks(names)) is ax
    drawn = [np.ma.masked_invalid(dots.get_offsets()[:, 0]).compressed() for dots in ax.collections]
    assert [list(x) for x in drawn] == [[70, 71], [], [90, 92], [10], [], []]  # dots and crosses of each arm
    assert [text.get_text() for text in ax.texts] == ["70.5", "64.0", "no run"]


def test_learning_curves_of_many_arms_have_no_bands():
    arms = ("none", "rope", "learned", "sinusoidal", "cpe", "lie-rope", "alibi-2d")
    for count, bands in ((figures.MOST_BANDS, figures.MOST_BANDS), (7, 0)):
        results = synthetic_results.make({"position": arms[:count]})
        epochs = results.epochs.merge(results.runs[["key", "diverged"]], on="key")
        ax = Figure().subplots()
        names = {arm: arm for arm in arms[:count]}
        figures.learning_curves(ax, epochs, "position", names, position_marks(list(names)))
        assert sum(isinstance(each, mpl.collections.PolyCollection) for each in ax.collections) == bands
        drawn = {drawing.name: drawing for drawing in report_figures(results, Analysis(arrange(results)))}
        caption = drawn["learning_curves"].caption
        assert ("band" in caption) == bool(bands)


def test_learning_curves_show_mean_and_range():
    results = synthetic_results.make(
        {"position": ("none", "rope")}, survives=lambda c: (c.position, c.seed) != ("none", 1)
    )
    epochs = results.epochs.merge(results.runs[["key", "diverged"]], on="key")
    ax = Figure().subplots()
    names = {"none": "none", "rope": "rope"}
    figures.learning_curves(ax, epochs, "position", names, position_marks(list(names)))
    last = epochs[(epochs["position"] == "rope") & (epochs["epoch"] == 30)]["validation_accuracy"]
    curve = next(line for line in ax.lines if line.get_label() == "rope")
    assert curve.get_ydata()[-1] == pytest.approx(100 * last.mean())
    crosses = [dots.get_offsets().tolist() for dots in ax.collections if len(dots.get_offsets()) == 1]
    ended = epochs[(epochs["position"] == "none") & (epochs["seed"] == 1)].iloc[-1]
    assert [[2, pytest.approx(100 * ended["validation_accuracy"])]] in crosses
    band = ax.collections[2].get_paths()[0].vertices
    at_end = band[band[:, 0] == 30, 1]
    assert (at_end.min(), at_end.max()) == pytest.approx((100 * last.min(), 100 * last.max()))


def test_a_study_has_all_its_figures_and_drawing_changes_no_global_state(tmp_path):
    before = dict(mpl.rcParams)
    results = synthetic_results.make()
    drawn = report_figures(results, Analysis(arrange(results)))
    names = [drawing.name for drawing in drawn]
    assert names == ["accuracy", "contrasts", "ranks", "heatmap", "learning_curves", "cost", "encodings"]
    for drawing in drawn:
        assert len(drawing.alt) > 30
        assert drawing.caption.endswith(".")
        with rendered():
            drawing.save(tmp_path)
        assert 1_000 < (tmp_path / f"{drawing.name}.png").stat().st_size < 500_000
        assert (tmp_path / f"{drawing.name}.svg").stat().st_size < 500_000
        with Image.open(tmp_path / f"{drawing.name}.png") as image:  # opaque: readable on a dark page too
            pixels = np.asarray(image.convert("RGBA"))
        assert pixels[..., 3].min() == 255
        assert (pixels[[0, 0, -1, -1], [0, -1, 0, -1], :3] == 255).all()
        svg = (tmp_path / f"{drawing.name}.svg").read_text(encoding="utf-8")
        assert "fill: #ffffff" in svg.partition('id="axes_1"')[0]
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize(
    ("axes", "columns"),
    [
        (
            {"position": ("none", "rope"), "depth": (2, 4), "patch": (2, 4)},
            ["patch 4", "patch 4", "patch 2", "patch 2"],
        ),
        ({"depth": (1, 2, 8)}, ["depth 1", "depth 2", "depth 8"]),
        ({"position": ("none", "learned", "rope")}, [""]),
        ({"depth": (1, 2), "patch": (1, 2, 4, 8)}, None),
    ],
)
def test_no_marker_of_the_cost_figure_hides_another_and_each_column_names_its_cost(axes, columns):
    base = synthetic_results.RunConfig(position="rope")
    results = synthetic_results.make(axes, base=base, baseline=next(map(str, next(iter(axes.values())))))
    drawing = cost(results, arrange(results))
    (ax,) = drawing.figure.axes
    drawing.figure.canvas.draw()
    markers = [line for line in ax.lines if line.get_marker() != "None"]
    assert len(markers) == len(results.plan.keys) / 3
    centres = [ax.transData.transform((line.get_xdata()[0], line.get_ydata()[0])) for line in markers]
    for (i, a), (j, b) in itertools.combinations(enumerate(centres), 2):
        assert np.hypot(*(a - b)) > 0.8 * markers[i].get_markersize() * drawing.figure.dpi / 72, (i, j)
    texts = [label.get_text() for label in ax.get_xticklabels()]
    costs = sorted(results.runs["flops"].unique() / 1e9)
    if columns is not None:
        assert [text.split("\n")[-1] for text in texts] == (columns if columns != [""] else [f"{costs[0]:.3g}"])
        numbers = [float(text.split("\n")[0].replace(",", "")) for text in texts]
        assert numbers == pytest.approx(costs, rel=0.005)


def test_costs_stand_to_scale_where_that_leaves_room():
    assert _places(np.array([83.0, 166.0, 332.0]))[1]
    places, to_scale = _places(np.array([170.0, 175.0, 702.0]))
    assert (list(places), to_scale) == ([0, 1, 2], False)
    assert _places(np.array([5.0, 5.0]))[1] is False


@pytest.mark.parametrize("axes", [None, {"position": GRIDS["encodings"].levels}], ids=["four", "all"])
def test_no_text_overlaps_or_leaves_its_figure(axes):
    results = synthetic_results.untrained(synthetic_results.make(axes))
    for drawing in report_figures(results, Analysis(arrange(results))):
        figure = drawing.figure
        figure.canvas.draw()
        renderer = figure.canvas.get_renderer()
        unseen = set()
        for axis in (axis for ax in figure.axes for axis in (ax.xaxis, ax.yaxis)):
            low, high = sorted(axis.get_view_interval())
            for tick in axis.get_major_ticks():
                if not low <= tick.get_loc() <= high:
                    unseen |= {tick.label1, tick.label2}
        texts = [t for t in figure.findobj(mpl.text.Text) if t.get_visible() and t.get_text().strip()]
        texts = [t for t in texts if t not in unseen and (t.axes is None or t.axes.get_visible())]
        boxes = [(t.get_text(), t.get_window_extent(renderer)) for t in texts if t.get_window_extent(renderer).width]
        shown = [(text, box) for text, box in boxes if figure.bbox.overlaps(box)]
        for (a, first), (b, second) in itertools.combinations(shown, 2):
            overlap = mpl.transforms.Bbox.intersection(first, second)
            if overlap is not None and first.bounds != second.bounds:
                assert overlap.width < 1 or overlap.height < 1, f"{drawing.name}: {a!r} over {b!r}"
