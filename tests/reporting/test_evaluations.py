"""What evaluation protocols measured, in reports: sentences, tables, families, figures, checks."""

import itertools
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from ablations.config import GRIDS
from ablations.config.safe_text import one_line
from ablations.reporting.check import differences
from ablations.reporting.evaluation_analysis import analyse_evaluations
from ablations.reporting.evaluation_sections import choices, introduction, outdated_note, sections
from ablations.reporting.figures.evaluations import evaluation_figures, in_place
from ablations.reporting.html import page
from ablations.reporting.paper import paper
from ablations.reporting.report import compose, write_report
from ablations.statistics import Verdict, analyse, joined_family, verdict
from tests.reporting.test_hostile_names import INLINE, LEVELS, TAGS, Page, as_github, hostile_study, inline, table_cells
from tests.support import synthetic_evaluations, synthetic_results

LOST = "a side of 6 pixels is not a multiple of the patch, 4"


def measure(config, text, name, unit):
    """No values at 0.75 times the size with patches of 4; `learned` resizes its table, the others extend."""
    if "0.75x" in name and config.patch == 4:
        return None
    way = name.rpartition("-")[2]
    if way == "interpolate" or (way in ("resize", "extend") and (way == "resize") != (config.position == "learned")):
        return None
    return synthetic_evaluations.value(config, text, name, unit)


@pytest.fixture(scope="module")
def results():
    return synthetic_results.make()


@pytest.fixture(scope="module")
def evaluations(results):
    return synthetic_evaluations.make(
        results,
        beforehand=("shift", "calibration"),
        measure=measure,
        reasons={"resolution": lambda config: LOST if config.patch == 4 else None},
        outdated=("shuffle",),
    )


@pytest.fixture(scope="module")
def found(results, evaluations):
    return analyse_evaluations(results, evaluations)


@pytest.fixture(scope="module")
def report(results, evaluations):
    return compose(results, evaluations)


@pytest.fixture(scope="module")
def section(report):
    return report.text.split("\n## Evaluations\n")[1].split("\n## Figures\n")[0]


def part(section, name):
    return section.split(f"\n### {name}\n")[1].split("\n### ")[0]


def of(found, name):
    return next(each for each in found.protocols if each.name == name)


def column(evaluations, results, metric, **levels):
    rows = evaluations.values.merge(results.runs, on="key").query("metric == @metric")
    for axis, level in levels.items():
        rows = rows[rows[axis] == level]
    return rows.sort_values(["depth", "patch", "seed"])["value"].to_numpy()


def test_differences_are_those_of_the_values(results, evaluations, found):
    for name, metric, factor in (("calibration", "nll", 1), ("shift", "changed-patch", 100)):
        contrast = next(c for c in of(found, name).contrasts if c.measure.name == f"{name}:{metric}" and c.n)
        pairs = [column(evaluations, results, metric, position=arm) for arm in (contrast.subject, "none")]
        assert contrast.mean == pytest.approx(factor * (pairs[0] - pairs[1]).mean())
        assert contrast.n == 12


def test_a_protocol_is_one_family(found):
    for each in found.protocols:
        assert each.questions == 3 * len(each.tested) == len(each.contrasts)
        assert [c.p_adjusted for c in each.contrasts] == [c.p_adjusted for c in joined_family([*each.tested.values()])]
        assert {c.correction for c in each.contrasts} == {"adjusted"}
    assert found.questions == sum(each.questions for each in found.protocols) == 3 * found.metrics


def test_other_ways_to_serve_a_size_are_shown_and_not_tested(found, section):
    resolution = of(found, "resolution")
    assert len(resolution.tested) == 5
    assert len(resolution.analyses) == 15
    assert {c.n for c in resolution.contrasts} == {6, 12}
    text = part(section, "resolution")
    row = re.search(r"^\| accuracy-2x-resize in % \|(.*)\|$", text, re.M)[1].split(" | ")
    assert [cell.strip() for cell in row] == ["–", "51.5", "–", "–"]
    assert "Names that end in `-extend` and `-resize`" in text
    assert "`accuracy-0.75x` in 2 of 4." in text
    assert f"- {LOST[0].upper()}{LOST[1:]} (24 runs)." in text


def test_up_to_six_tested_metrics_are_columns_with_intervals(found, section):
    for name in ("resolution", "occlusion"):
        each = of(found, name)
        header, *rows = re.findall(r"^\|.*\|$", part(section, name), re.M)[:6]
        assert header.split("|")[1:-1] == [" position ", *(f" {metric} in % " for metric in each.tested)]
        for arm, row in enumerate(rows[1:]):
            for metric, cell in zip(each.tested, row.replace("*", "").split("|")[2:-1], strict=True):
                mean = each.means[metric][arm]
                assert cell.strip() == f"{mean.mean:.1f} ({mean.low:.1f} to {mean.high:.1f})"
    assert "95 % intervals" not in part(section, "corruption").split("<details>")[0].split("Means over")[1]


def test_sentences_follow_the_direction(section):
    shift, calibration = part(section, "shift"), part(section, "calibration")
    assert re.search(r"\*\*rope\*\* has the highest mean accuracy after a shift by half a patch and is better", shift)
    assert "by 3.0 points on average over depth and patch size (95 % interval +2.9 to +3.1)." in shift
    assert re.search(r"has the lowest mean root-mean-square calibration error(\.|, but)", calibration)
    attention = part(section, "attention")
    assert re.search(
        r"\*\*rope\*\* has the highest mean attention distance, higher than that of \*\*none\*\* by 0\.1[78] pix",
        attention,
    )
    assert "better" not in attention.replace("neither direction is better", "")


def test_verdicts_follow_the_direction(found):
    verdicts = {c.measure.name: verdict(c) for each in found.protocols for c in each.contrasts if c.subject == "rope"}
    assert verdicts["shift:accuracy-half"] is Verdict.BETTER
    assert verdicts["shift:changed-half"] is Verdict.WORSE
    assert verdicts["calibration:nll"] is Verdict.WORSE
    assert verdicts["attention:distance"] is Verdict.HIGHER
    assert verdicts["position-probe:r2"] is Verdict.HIGHER


def test_means_are_over_settings_and_the_best_is_bold(results, evaluations, section):
    rows = re.findall(r"^\| (none|learned|sinusoidal|rope) \|(.*)\|$", part(section, "calibration"), re.M)
    assert [name for name, _ in rows] == ["none", "learned", "sinusoidal", "rope"]
    cells = dict(zip(("error", "nll", "brier"), rows[1][1].split(" | "), strict=True))
    assert cells["nll"].startswith(f"{column(evaluations, results, 'nll', position='learned').mean():.3f} (")
    bold = [name for name, row in rows if "**0.3" in row.split(" | ")[1]]
    assert bold == [
        min(("none", "sinusoidal"), key=lambda arm: column(evaluations, results, "nll", position=arm).mean())
    ]
    assert "**" not in "".join(re.findall(r"^\| none \|.*", part(section, "attention"), re.M))


def test_the_section_says_what_was_asked_when_and_what_the_correction_covers(found, section):
    start = section.split("\n### ")[0]
    assert f"9 evaluation protocols measured the trained models by {found.metrics} metrics" in start
    assert f"{found.questions} questions are asked" in start
    assert "within each protocol, not over all of them" in start
    assert "**Chosen before the training**, in the grid: `shift` and `calibration`." in start.replace(
        "`calibration` and `shift`", "`shift` and `calibration`"
    )
    assert re.search(r"\*\*Chosen after the training\*\*: `attention`, .*exploratory", start)
    assert "1 measurement by other versions of the code or of the run was left out" in start
    assert "run: vitab evaluate rope --protocol shuffle" in start
    assert section.index("### shift") < section.index("### attention")


def test_one_protocol_and_one_question(results):
    two = synthetic_results.make({"position": ("none", "rope")}, range(7))
    evaluations = synthetic_evaluations.make(two, ("occlusion(shares=0.5)",))
    (text,) = evaluations.protocols
    found = analyse_evaluations(two, evaluations)
    assert introduction(found, "none").startswith("1 evaluation protocol measured the trained models by 2 metrics")
    assert "2 questions are asked" in introduction(found, "none")
    assert choices(found)[0].startswith(f"**Chosen after the training**: `{text}`.")
    assert sections(found, 14)[0].finding.startswith("**rope** is better than **none**: its mean accuracy with blanked")
    report = compose(two, evaluations)
    assert [figure.name for figure in report.figures if figure.name.startswith("evaluation")] == [
        "evaluation_occlusion_shares_0_5_c79dfd"
    ]
    assert "vitab evaluate rope --protocol 'occlusion(shares=0.5)'" in report.text


def test_an_undecided_finding_names_the_metric(results):
    two = synthetic_results.make({"position": ("none", "rope")}, range(6))
    flat = synthetic_evaluations.make(
        two,
        ("calibration",),
        measure=lambda config, text, name, unit: 0.3 + 0.01 * synthetic_evaluations.noise(config, name),
    )
    text = sections(analyse_evaluations(two, flat), 12)[0].finding
    assert text.startswith("Whether **rope** differs from **none** in root-mean-square calibration error is undecided")


@pytest.mark.parametrize(
    ("outdated", "protocols", "expected"),
    [
        (0, (), ""),
        (
            1,
            ("shift",),
            "1 measurement by other versions of the code or of the run was left out; to measure it again, run: "
            "vitab evaluate s --protocol shift",
        ),
        (
            4,
            (),
            "4 measurements by other versions of the code or of the run were left out; the protocol no longer exists",
        ),
        (
            2,
            ("shift(fill=zero)", "shuffle"),
            "2 measurements by other versions of the code or of the run were left out; to measure them again, run: "
            "vitab evaluate s --protocol 'shift(fill=zero),shuffle'",
        ),
    ],
)
def test_outdated_measurements_are_counted_with_the_command_that_renews_them(outdated, protocols, expected):
    assert outdated_note(outdated, "s", protocols) == expected


def test_only_outdated_measurements(results):
    text = compose(results, synthetic_evaluations.make(results, (), outdated=("shift",))).text
    assert "No measurement by the present code exists." in text
    assert "to measure it again" in text
    assert compose(results, synthetic_evaluations.make(results, ())).text == compose(results).text


def test_every_protocol_has_a_figure_with_texts(report, section):
    drawn = [figure for figure in report.figures if figure.name.startswith("evaluation_")]
    assert len(drawn) == 9
    for figure in drawn:
        assert f"figures/{figure.name}.png" in section
        assert figure.alt.endswith(".")
        assert figure.caption.endswith(".")
        assert "none, learned, sinusoidal and rope" in figure.alt or figure.name == "evaluation_per_class"


def test_tables_have_every_measurement_and_every_number_of_the_section(report, evaluations, found, section, results):
    table = pd.read_csv(pd.io.common.StringIO(report.tables["evaluations.csv"]))
    assert len(table) == len(evaluations.values)
    assert list(table.columns) == ["key", "position", "depth", "patch", "seed", "protocol", "metric", "value"]
    assert table["value"].sum() == pytest.approx(evaluations.values["value"].sum())
    contrasts = pd.read_csv(pd.io.common.StringIO(report.tables["evaluation_contrasts.csv"]))
    assert len(contrasts) == found.questions
    assert set(contrasts["runs"].str.split().str.len()) == {12, 24}
    means = pd.read_csv(pd.io.common.StringIO(report.tables["evaluation_means.csv"]))
    assert len(means) == 4 * sum(len(each.analyses) for each in found.protocols)
    findings = pd.read_csv(pd.io.common.StringIO(report.tables["evaluation_findings.csv"]))
    assert list(findings["protocol"]) == [each.name for each in found.protocols]
    facts = dict(csv_rows(report.tables["study.csv"]))
    assert facts["evaluation_questions"] == str(found.questions)
    assert facts["evaluation_shift"] == "chosen before the training"
    assert facts["evaluation_shuffle"] == "chosen after the training"
    assert facts["evaluation_resolution_missing_1"] == f"{LOST} (24)"


def csv_rows(text):
    return pd.read_csv(pd.io.common.StringIO(text), dtype=str).itertuples(index=False, name=None)


def test_confused_classes(section):
    text = part(section, "per-class")
    assert (
        "Of 2 pairs of classes that any run confuses, compared with **none**: **rope** confuses 1 pair less often."
        in text
    )
    assert re.search(r"^\| 3 and 8 \| rope \| 2.0 \| 8.0 \| −6.0 \| 0.001 \|$", text, re.M)


def test_check_covers_evaluations(tmp_path):
    results = synthetic_results.make({"position": ("none", "rope")})
    evaluations = synthetic_evaluations.make(results, ("shift", "per-class"), ("shift",))
    folder = write_report(results, tmp_path, "html", for_paper=True, evaluations=evaluations)
    assert differences(results, tmp_path, evaluations) == []
    assert any("Evaluations" in line for line in differences(results, tmp_path))
    values = evaluations.values.copy()
    values.loc[0, "value"] += 0.001
    (folder / "tables" / "evaluation_means.csv").unlink()
    (folder / "figures" / "evaluation_shift.png").unlink()
    changed = differences(results, tmp_path, replace(evaluations, values=values))
    assert any(line.startswith("tables/evaluations.csv, row 1, value: found") for line in changed)
    assert {"tables/evaluation_means.csv: missing", "figures/evaluation_shift.png: missing"} < set(changed)


def test_a_paper_has_a_sentence_on_each_protocol_chosen_beforehand(results, found):
    text = paper(results, analyse(results), found).results
    assert len(re.findall(r"\(protocol \w+\)", text)) == 2
    assert re.search(
        r"Accuracy on translated images, and predictions that change \(protocol shift\): rope has the highest mean "
        r"accuracy after a shift by half a patch and is better than none by 3\.0 points .* \(adjusted p = 0\.001, over "
        r"the 12 contrasts of the protocol, chosen before the training\)\.",
        text,
    )
    families = dict(paper(results, analyse(results), found).threats)["Several families"]
    assert families.endswith("the metrics of the protocol shift and the metrics of the protocol calibration.")
    assert paper(results, analyse(results)).results in text


def test_many_arms_and_one_setting():
    results = synthetic_results.make({"position": GRIDS["encodings"].levels}, (0, 1))
    report = compose(results, synthetic_evaluations.make(results))
    assert sum(figure.name.startswith("evaluation_") for figure in report.figures) == 9
    header = next(line for line in report.text.splitlines() if line.startswith("| metric | none"))
    assert header.count("|") == len(GRIDS["encodings"].levels) + 2
    section = report.text.split("\n## Evaluations\n")[1].split("\n## Figures\n")[0]
    assert "band" not in section
    assert "one panel per setting" not in section


@pytest.mark.parametrize(("classes", "shape", "caption"), [(12, (1, 2), "Left: "), (13, (2, 1), "Above: ")])
def test_confusion_matrices_of_many_classes_stand_below_each_other(monkeypatch, classes, shape, caption):
    """With 20 classes beside each other, their names overlapped."""
    names = np.array([f"class {i}" for i in range(classes)])
    matrix = np.random.default_rng(0).integers(0, 9, (classes, classes))
    monkeypatch.setattr(synthetic_evaluations, "confusion", lambda config: matrix)
    results = synthetic_results.make({"position": ("none", "rope")}, range(3))
    found = analyse_evaluations(results, synthetic_evaluations.make(results, ("per-class",)))
    monkeypatch.setattr(found.protocols[0].__class__, "class_name", lambda self, label: names[label])
    (figure,) = evaluation_figures(results, found)["per-class"]
    panels = [ax for ax in figure.figure.axes if ax.get_title(loc="left")]
    assert panels[0].get_gridspec().get_geometry() == shape
    assert figure.caption.startswith(caption)
    figure.figure.canvas.draw()
    boxes = [label.get_window_extent() for label in panels[0].get_yticklabels()]
    assert len(boxes) == classes
    assert all(above.y0 >= below.y1 - 1 for above, below in itertools.pairwise(boxes))


def test_a_study_without_a_comparison():
    results = synthetic_results.make({}, range(3))
    text = compose(results, synthetic_evaluations.make(results)).text
    assert "Nothing is compared: no pair of runs was measured." in text
    assert "questions are asked" not in text


def test_names_of_arms_are_text():
    results = hostile_study()
    report = compose(results, synthetic_evaluations.make(results, ("shift", "per-class", "resolution")))
    tokens = as_github(report.text.split("\n## Evaluations\n")[1].split("\n## Figures\n")[0])
    lines = {line for token in tokens if token.type == "html_block" for line in token.content.splitlines()}
    summary = "Differences from the baseline, adjusted for the N questions of this protocol"
    others = "<summary>Means of the metrics that are not tested</summary>"
    expected = {"<details>", f"<summary>{summary}</summary>", "</details>", others}
    assert {re.sub(r"\d+", "N", line) for line in lines} == expected
    assert {token.type for token in inline(tokens)} <= INLINE
    elements = {tag for tag, _ in Page(page(report.text, {})).elements}
    assert elements <= TAGS
    assert [row[0] for row in table_cells(tokens, "classes")[1:]] == [one_line("+".join(level)) for level in LEVELS]


def test_a_protocol_that_measured_nothing_has_a_section(results):
    """Every report failed after an evaluation in which all sizes were left out."""
    nothing = synthetic_evaluations.make(
        results, ("resolution",), measure=lambda *_: None, reasons={"resolution": lambda config: LOST}
    )
    section = compose(results, nothing).text.split("\n## Evaluations\n")[1].split("\n## Figures\n")[0]
    assert "Nothing was measured." in section
    assert f"- {LOST[0].upper()}{LOST[1:]} (48 runs)." in section


def test_diverged_runs_are_told_apart(results):
    diverged = synthetic_results.make({"position": ("none", "rope")}, range(6))
    at = diverged.runs.index[(diverged.runs["position"] == "rope") & (diverged.runs["seed"] < 2)]
    diverged.runs.loc[at, "diverged"] = 1
    kept = set(diverged.runs["key"].drop(at))
    whole = synthetic_evaluations.make(diverged, ("shift", "occlusion"))
    evaluations = replace(whole, values=whole.values[whole.values["key"].isin(kept)])
    found = analyse_evaluations(diverged, evaluations)
    assert introduction(found, "none").endswith(
        "2 diverged runs are not measured (2 of **rope**): these comparisons are among the runs that trained to the "
        "end, unlike those of the accuracy."
    )
    accuracy = in_place(diverged, of(found, "occlusion"))
    assert np.isfinite(accuracy.values).sum() == 10
    assert not set(accuracy.keys.ravel()) & set(diverged.runs["key"][at])


def test_an_undecided_finding_says_why_the_interval_excludes_zero():
    """p of nine pairs is small enough for one question, not for those of all arms and metrics."""

    def slightly_more(config, text, name, unit):
        return 3 + 0.14 * (config.position == "rope") + 0.1 * synthetic_evaluations.noise(config, name)

    many = synthetic_results.make({"position": ("none", "rope", "learned", "sinusoidal")}, range(9))
    evaluations = synthetic_evaluations.make(many, ("attention",), measure=slightly_more)
    text = sections(analyse_evaluations(many, evaluations), 36)[0].finding
    assert "undecided" in text
    assert text.endswith("The interval excludes zero, but p adjusted for several comparisons is above 0.05.")


def test_names_of_figures_are_unique():
    two = synthetic_results.make({"position": ("none", "rope")}, range(2))
    names = ("resolution(factors=2/1.5)", "resolution(factors=2.1/5)", "resolution")
    figures = compose(two, synthetic_evaluations.make(two, names)).figures
    drawn = [figure.name for figure in figures if figure.name.startswith("evaluation_")]
    assert len(set(drawn)) == 3
    assert "evaluation_resolution" in drawn
