"""The report as a reader meets it: words that follow from numbers, links that lead somewhere, nothing lost."""

import re
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest

from ablations.config import GRIDS
from ablations.errors import UsageError
from ablations.reporting import run_tables
from ablations.reporting.findings import (
    BestCellFinding,
    ContrastFinding,
    DivergenceFinding,
    InteractionFinding,
    NoInteractionFinding,
    SummaryFinding,
    Verdict,
    claims,
    more_seeds,
)
from ablations.reporting.first_screen import verdict_table
from ablations.reporting.formatting import p_text, time_text
from ablations.reporting.report import compose, write_report
from ablations.reporting.tables import Table
from ablations.reporting.threats import threats
from ablations.reporting.wording import sentence
from ablations.statistics import Analysis, analyse, arrange, baseline_contrasts
from ablations.statistics.other_images import OtherImages
from tests.support import synthetic_results
from tests.support.rendering import rendered

ROPE = synthetic_results.RunConfig(position="rope")


@pytest.fixture(scope="module")
def text(folder) -> str:
    return (folder / "README.md").read_text(encoding="utf-8")


def test_it_answers_the_question(text):
    assert text.startswith("# Which positional encoding improves accuracy")
    for heading in (
        "Answer",
        "Details",
        "Accuracy",
        "Paired contrasts",
        "How to read this",
        "Method",
        "Cost",
        "Provenance",
    ):
        assert f"\n## {heading}\n" in text
    assert "48 of 48 runs finished" in text
    assert "vitab run --grid rope\nvitab report rope" in text
    assert not re.search(r"\bnan\b", text, re.I)


def test_links_lead_to_files_and_files_are_linked(folder, text):
    linked = set(re.findall(r"\]\(((?:figures|tables)/[^)]+)\)", text))
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.parent != folder and path.is_file()}
    assert linked == there
    assert len(re.findall(r"!\[[^\]]{30,}\]", text)) == len(list(folder.glob("figures/*.png"))) == 7


def test_tables_are_well_formed(text):
    for block in re.findall(r"(?:^\|.*\n)+", text, re.M):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(widths) == 1, block


@pytest.mark.parametrize(("kind", "report"), [("fixed", "folder"), ("grown", "grown"), ("lossy", "lossy")])
def test_every_number_of_a_finding_is_in_the_table_of_claims(request, kind, report):
    folder = request.getfixturevalue(report)
    text = (folder / "README.md").read_text(encoding="utf-8")
    table = pd.read_csv(folder / "tables" / "claims.csv")
    assert ("sequential Holm p" in text) == ("seeds_needed" in table) == (kind == "grown")
    answer = text.split("## Answer\n\n")[1].splitlines()[0]
    details = re.findall(r"^- (.*)$", text.split("## Details")[1].split("\n## ")[0], re.M)
    assert [f.replace("**", "") for f in (answer, *details)] == list(table["sentence"])
    for _, row in table.iterrows():
        numbers = pd.to_numeric(row.drop(["sentence", "runs"]), errors="coerce").abs().dropna()
        names = f"{row['subject']} {row['reference']} {row['axis']}"
        words = re.sub(r"95 % interval|80 % power|< 0\.001", "", row["sentence"])
        assert ("< 0.001" in row["sentence"]) <= (row[["p", "p_adjusted", "p_equivalence"]].min() < 0.001)
        for number in re.findall(r"\d[\d,]*(?:\.\d+)?", words):
            digits = len(number.partition(".")[2])
            shown = {f"{value:.{digits}f}" for value in numbers}
            assert number.replace(",", "") in shown or number in names, (number, row["sentence"])


def test_claims_name_their_runs(folder):
    table = pd.read_csv(folder / "tables" / "claims.csv")
    known = set(pd.read_csv(folder / "tables" / "runs.csv")["key"].str[:16])
    for runs in table["runs"]:
        assert set(runs.split()) <= known
    assert list(table["kind"][:2]) == ["Summary", "Contrast"]
    assert len(table["runs"][0].split()) == 48
    assert len(table["runs"][1].split()) == 24


def test_accuracy_table_and_csv_agree_with_the_runs(folder, text):
    table = pd.read_csv(folder / "tables" / "accuracy.csv")
    runs = pd.read_csv(folder / "tables" / "runs.csv")
    assert len(table) == 16
    for _, row in table.iterrows():
        same = runs[(runs[["position", "depth", "patch"]] == row[["position", "depth", "patch"]]).all(axis=1)]
        assert row["mean"] == pytest.approx(100 * same["test_accuracy"].mean(), rel=1e-5)
        assert f"{row['mean']:.1f}" in text
        assert (row["low"] < row["mean"] < row["high"]) or row["sd"] < 1e-9


def test_the_same_runs_give_the_same_bytes(folder, tmp_path):
    with rendered():
        again = write_report(synthetic_results.make(), tmp_path)
    first = {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert {p.relative_to(again): p.read_bytes() for p in again.rglob("*") if p.is_file()} == first


STUDIES = {
    "depth": {"axes": {"depth": (1, 2, 4)}, "base": ROPE, "baseline": "rope"},
    "patch": {"axes": {"patch": (1, 2, 4)}, "base": ROPE, "baseline": "rope"},
    "positions": {"axes": {"position": ("none", "rope")}},
    "single": {"axes": {"position": ("none", "rope"), "depth": (2, 4)}, "seeds": (0,)},
    "single_depth": {"axes": {"depth": (2, 4)}, "seeds": (0,), "base": ROPE, "baseline": "rope"},
    "one_run": {"axes": {"depth": (2,)}, "seeds": (0,)},
    "rates": {"axes": {"learning_rate": (1e-3, 2e-3)}, "base": ROPE, "baseline": "rope"},
    "classes": {"axes": {"classes": (None, 5)}, "base": ROPE, "baseline": "rope"},
    "one_finished": {"axes": {"position": ("none", "rope")}, "missing": lambda c: (c.position, c.seed) != ("rope", 1)},
    "three_axes": {"axes": {"position": ("none", "rope"), "depth": (2, 4), "width": (32, 64), "patch": (2, 4)}},
}


COVERED = ("patch", "positions", "single_depth", "rates")
"""Shapes whose every part another shape has too."""


@pytest.mark.parametrize(
    "study", [pytest.param(study, marks=pytest.mark.slow if study in COVERED else ()) for study in STUDIES]
)
def test_a_report_of_any_shape(study, tmp_path):
    folder = write_report(synthetic_results.make(study=study, **STUDIES[study]), tmp_path)
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert folder == tmp_path / study
    assert not re.search(r"\bnan\b|\binf\b|None", text.replace("loss is nan", ""))
    linked = re.findall(r"\]\(((?:figures|tables)/[^)]+)\)", text)
    assert all((folder / link).is_file() for link in linked)
    if "single" in study or study == "one_run":
        assert "no setting has an interval" in text
        assert "95 % interval" not in text.split("## Accuracy")[0]
    assert ("**depth 1**" in text) == (study == "depth")


def test_missing_and_failed_runs_are_named():
    results = synthetic_results.make(missing=lambda c: c.position == "rope" and c.patch == 4 and c.seed == 2)
    text = compose(results).text
    assert "46 of 48 runs finished" in text
    assert "| rope | 2 | 4 | 2 | failed | NonFiniteLoss: loss is nan \\| epoch 3 |" in text
    assert "> **Failed runs.** 1 of 48 runs failed (rope 1). Failed runs are excluded from means and pairs" in text
    assert "assumes that failed runs are missing at random" in text.split("## Missing runs")[1]
    assert "- depth 4, patch 4, seed 2: rope missing" in text
    rows = re.findall(r"^\| ([24]) \| ([24]) \| .*\)([^)|]*) \| (\d) \|$", text, re.M)
    assert rows == [("2", "2", "", "3"), ("2", "4", ", n = 2", "3"), ("4", "2", "", "3"), ("4", "4", ", n = 2", "3")]
    assert "and the number of runs n, given with a mean where it is smaller. The highest" in text
    assert "10 pairs" in text


def test_runs_that_are_only_not_finished_are_no_failures():
    results = replace(synthetic_results.make(missing=lambda c: c.seed == 2), failed={})
    text = compose(results).text
    assert "32 of 48 runs finished" in text
    assert "failed" not in text


def test_it_says_for_what_the_level_holds_and_where_the_data_came_from(folder, text):
    assert "probability of a false finding to 5 % within one family of comparisons: the arms against none, all " in text
    assert "are based on the same variance: that between seeds within settings" in text
    assert "with few seeds the interval is conservative" in text
    assert f"| fingerprint of the data (SHA-256) | {'f' * 64} | 48 |" in text
    environments = pd.read_csv(folder / "tables" / "environments.csv").set_index("what")
    assert environments.loc["data_sha256", "value"] == "f" * 64


def test_a_study_that_grew_says_what_it_saved_and_what_stopping_early_does(grown):
    text = (grown / "README.md").read_text(encoding="utf-8")
    head, rounds = text.split("## Details")[0], text.split("## Rounds")[1]
    assert "Undecided so far: rope. The next round extends rope and none to 5 seeds." in head
    assert (
        "The study needed 66 runs. With 12 seeds in every setting it would have needed 96, so 30 were saved (31 %). "
        "Seeds per setting: none 12, learned 5, sinusoidal 12 and rope 4; 15 of 48 were saved." in rounds
    )
    assert "The estimate of an arm that was found better or worse early is biased away from zero" in rounds


def test_other_files_survive_and_old_ones_of_the_report_go(tmp_path):
    folder = tmp_path / "positions"
    (folder / "figures").mkdir(parents=True)
    (folder / "figures" / "old.png").write_text("old")
    (folder / "notes.txt").write_text("mine")
    write_report(synthetic_results.make({"position": ("none", "rope")}, study="positions"), tmp_path)
    assert (folder / "notes.txt").read_text() == "mine"
    assert not (folder / "figures" / "old.png").exists()
    assert {p.name for p in tmp_path.iterdir()} == {"positions"}


def test_a_failure_leaves_the_last_report_alone(tmp_path, monkeypatch):
    results = synthetic_results.make({"position": ("none", "rope")}, study="positions")
    folder = write_report(results, tmp_path)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}

    def fail(*_):
        raise RuntimeError("broken")

    monkeypatch.setattr("ablations.reporting.report.render", fail)
    with pytest.raises(RuntimeError, match="broken"):
        write_report(results, tmp_path)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    with pytest.raises(RuntimeError, match="broken"):
        write_report(results, tmp_path / "new" / "place")
    assert {p.name for p in tmp_path.iterdir()} == {folder.name}


def test_an_out_that_cannot_be_written_stops_before_any_work(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")

    def fail(*_):
        raise AssertionError("work began")

    monkeypatch.setattr("ablations.reporting.report.report_figures", fail)
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UsageError, match=r"--out .*file.* is not writable") as caught:
            write_report(synthetic_results.make(), out)
        assert "\n" not in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_study_without_runs_has_no_report(tmp_path):
    results = synthetic_results.make(missing=lambda c: True)
    with pytest.raises(UsageError, match="'rope' has no finished run"):
        write_report(results, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def _claim(gain: float, noise: float, seeds: int = 8) -> ContrastFinding:
    """A claim on two arms whose true difference is `gain` points, with this noise in every run."""

    def measure(config):
        draw = np.random.default_rng([config.seed, config.position == "rope"]).normal()
        return (80 + (gain if config.position == "rope" else 0) + noise * draw) / 100

    results = synthetic_results.make({"position": ("none", "rope")}, range(seeds), measure=measure)
    return ContrastFinding(baseline_contrasts(arrange(results))[0])


@pytest.mark.parametrize(
    ("make", "verdict", "words"),
    [
        (partial(_claim, 5, 0.5), Verdict.BETTER, "**rope** is better than **none** by"),
        (partial(_claim, -5, 0.5), Verdict.WORSE, "**rope** is worse than **none** by"),
        (partial(_claim, 0, 0.1), Verdict.EQUIVALENT, "are equivalent within 0.5 points"),
        (partial(_claim, 3, 3), Verdict.UNDECIDED, "more seed"),
        (partial(_claim, 5, 0.5, seeds=3), Verdict.UNDECIDED, "the smallest possible p is 0.250, so no difference can"),
    ],
)
def test_words_follow_the_verdict(make, verdict, words):
    claim = make()
    assert claim.verdict == verdict
    assert words in sentence(claim)


def test_an_interval_of_all_possible_differences_is_not_given():
    claim = _claim(5, 0.5, seeds=2)
    wide = replace(claim.contrast, low=-100.0, high=100.0)
    text = sentence(replace(claim, contrast=wide))
    assert "(the 95 % interval from 2 seeds is uninformative; " in text
    assert "100" not in text


def test_an_error_of_images_that_cannot_be_told_is_a_dash(monkeypatch):
    found = OtherImages("rope", "none", -1.1, -2.0, 0.0, -2.0, 0.0, 0.0, 30)
    monkeypatch.setattr(Analysis, "other_images", [found])
    results = synthetic_results.make({"position": ("none", "rope")})
    text = compose(results).text
    assert "| rope | none | −1.1 | −2.0 to 0.0 | −2.0 to 0.0 | – |\n\nA dash: the difference varies between" in text
    assert dict(threats(results, analyse(results)))["Test set"] == (
        "The test set has 30 images. For rope, the error of the images is too small to be told from that of the seeds."
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "less than a second"), (0.7, "1 second"), (3, "3 seconds"), (150, "2.5 minutes"), (9e3, "2.5 hours")],
)
def test_times_are_in_the_singular_too(seconds, text):
    assert time_text(seconds) == text


def test_a_claim_over_a_part_of_the_settings_names_it(lossy):
    text = (lossy / "README.md").read_text(encoding="utf-8")
    assert "9 pairs over 3 of 4 settings, ahead in 9)." in text
    assert re.search(r"\*\*rope\*\* .* on average over 3 of 4 settings", text.split("## Answer")[1].split("\n##")[0])
    head = text.split("in percentage points, averaged over depth and patch size:\n\n")[1].split("\n\n")[0].splitlines()
    assert head[0] == "| position | verdict | difference | settings | 95 % interval | adjusted p |"
    assert [row.split(" | ")[3] for row in head[2:]] == ["4 of 4", "4 of 4", "3 of 4"]
    assert "12 pairs, ahead in 12)." in text
    assert "cannot be decided with 3 blocks over 1 of 2 settings: the smallest possible p is 0.250." in text
    assert "The smallest possible p is 0.0039 with 9 pairs and 0.00049 with 12 pairs." in text


def test_an_interval_within_the_margin_that_is_not_called_equivalent_says_why():
    found = baseline_contrasts(arrange(synthetic_results.make({"position": ("none", "rope")}, range(8))))[0]
    near = replace(found, mean=0.1, low=-0.3, high=0.45, p=0.5, p_adjusted=1.0, p_equivalence=0.06)
    assert "does not pass after correction for several comparisons" in sentence(ContrastFinding(near))
    assert "within 0.5" not in sentence(ContrastFinding(replace(near, high=0.51)))
    grown = replace(near, correction="sequential Holm")
    assert "the equivalence test, which accounts for all interim analyses, does not pass" in sentence(
        ContrastFinding(grown)
    )


@pytest.mark.parametrize("correction", ["Holm", "sequential Holm"])
def test_equal_differences_have_no_interval_and_no_number_of_seeds(correction):
    equal = synthetic_results.make(
        {"position": ("none", "rope")}, range(4), measure=lambda config: 0.9 + 0.002 * (config.position == "rope")
    )
    found = replace(baseline_contrasts(arrange(equal))[0], correction=correction)
    text = sentence(ContrastFinding(found))
    assert "the difference is +0.2 points (no spread between seeds; " in text
    assert text.endswith("Without spread between seeds, the number of seeds needed cannot be estimated.")
    assert "margin" not in text
    assert "equivalence" not in text
    assert str(verdict_table("position", [found])).splitlines()[-1] == (
        f"| rope | **undecided** | +0.2 | no spread | {p_text(found.p_adjusted)} |"
    )


def test_an_undecided_change_says_how_many_more_seeds():
    found = claims(Analysis(arrange(synthetic_results.make())))
    claim = next(c for c in found if isinstance(c, NoInteractionFinding))
    more = more_seeds(claim.contrast)
    assert more >= 1
    assert f"6 blocks). About {more} more seed" in sentence(claim)


def test_an_arm_of_which_every_run_diverges_leaves_no_pair():
    results = synthetic_results.make(
        {"position": ("none", "rope")}, range(6), survives=lambda config: config.position == "none"
    )
    found = next(sentence(each) for each in claims(Analysis(arrange(results))) if isinstance(each, DivergenceFinding))
    assert found == (
        "**rope** diverged in 6 of 6 runs (100.0 %; exact 95 % interval 54.1 to 100.0 %), more often than **none** in "
        "0 of 6 (McNemar's exact test over 6 pairs: Holm p = 0.031). Without diverged runs no pair is left."
    )


def test_arms_without_a_run_are_not_said_to_diverge_or_not():
    results = synthetic_results.make(
        {"position": ("none", "learned", "rope")},
        range(6),
        missing=lambda config: config.position == "learned",
        survives=lambda config: (config.position, config.seed) != ("none", 0),
    )
    found = [each for each in claims(Analysis(arrange(results))) if isinstance(each, DivergenceFinding)]
    assert [each.divergence.arm for each in found] == ["none", "rope"]
    assert not any("nan" in sentence(each) for each in found)


def test_a_diverged_run_is_not_drawn_as_a_learned_table_nor_counted_in_the_cost():
    results = synthetic_results.make(
        {"position": ("none", "learned")},
        range(4),
        survives=lambda config: (config.position, config.seed) != ("learned", 2),
    )
    assert "From 3 trained models, averaged: learned." in compose(results).text
    results.runs.loc[results.runs["diverged"] > 0, "flops"] = 1
    cost = run_tables.cost_frame(results, arrange(results)).set_index("position")
    assert cost.loc["learned", "flops"] == cost.loc["none", "flops"]


def test_an_interaction_is_found_and_its_absence_is_not_claimed():
    sentences = [sentence(claim) for claim in claims(Analysis(arrange(synthetic_results.make())))]
    assert any("depends on patch" in s and "at patch 2" in s for s in sentences)
    assert any(
        s.startswith("Whether the differences between positions depend on depth is undecided") for s in sentences
    )


def _study(leads, seeds=3, axes=("patch", (2, 4))) -> list:
    """The claims on rope against none, with these leads in points by (level of the other axis, seed)."""

    def measure(config):
        return 0.6 + (leads(getattr(config, axes[0]), config.seed) / 100 if config.position == "rope" else 0)

    results = synthetic_results.make({"position": ("none", "rope"), axes[0]: axes[1]}, range(seeds), measure=measure)
    return claims(Analysis(arrange(results)))


def test_a_lead_that_changes_is_a_lead_on_average_and_depends_on_what_changes_it():
    _, contrast, change, _ = _study(lambda patch, seed: (20 if patch == 2 else 0.1) + 0.2 * seed, seeds=8)
    assert re.fullmatch(
        r"\*\*rope\*\* is better than \*\*none\*\* by 10.7 points on average over the settings \(95 % .*\)\. "
        r"The difference depends on patch size\.",
        sentence(contrast),
    )
    assert "depends on patch size: it is +20.7 points at patch 2 and +0.8 points at patch 4" in sentence(change)
    alone = _study(lambda patch, seed: 20 + 0.2 * seed, seeds=8, axes=("patch", (2,)))[:2]
    assert not any("average" in sentence(claim) or "depends" in sentence(claim) for claim in alone)


def test_an_average_that_hides_a_change_is_not_left_undecided_without_a_word():
    contrast = _study(lambda patch, seed: (5 if patch == 2 else -4.9) + 2.0 * (seed % 4 - 1.5), seeds=8)[1]
    assert contrast.verdict == Verdict.UNDECIDED
    assert "16 pairs, ahead in 8). The difference depends on patch size." in sentence(contrast)


def test_a_lead_in_one_of_two_settings_is_decided_as_the_interval_says():
    """Sign flips of the plain mean would take the difference between the settings for noise."""
    contrast = _study(lambda patch, seed: (4 if patch == 2 else 0.3) + 0.4 * (seed - 2), seeds=5)[1]
    assert contrast.contrast.low > 0
    assert contrast.contrast.p <= 0.05
    assert contrast.verdict == Verdict.BETTER


def test_an_interval_with_zero_beside_a_p_that_passes_is_explained():
    contrast = _study(lambda patch, seed: 10.0 if seed == 0 else 0.1 + 0.1 * seed)[1]
    assert contrast.contrast.p_adjusted <= 0.05
    assert contrast.contrast.low < 0
    assert sentence(contrast).endswith(
        ". The interval includes zero because it is conservative with few seeds; the verdict follows p."
    )


def test_the_highest_of_many_means_is_called_biased():
    best = claims(Analysis(arrange(synthetic_results.make())))[-1]
    assert sentence(best).endswith(". This value is biased upward because it is the maximum of 16 means.")
    one = claims(Analysis(arrange(synthetic_results.make({"position": ("none",)}))))[-1]
    assert "biased" not in sentence(one)


GAINS = {"none": 0.0, "learned": 8.0, "sinusoidal": 7.9, "rope": 6.0}


def _answer(gains, seeds=8, noise=0.05, missing=lambda config: False, **axes) -> str:
    """The answer of a study on arms with these gains in points, whose runs scatter by `noise` points."""

    def measure(config):
        draw = np.random.default_rng([config.seed, config.depth, *config.position.encode()]).normal()
        return (60 + gains[config.position] + noise * draw) / 100

    results = synthetic_results.make({"position": tuple(gains), **axes}, range(seeds), measure=measure, missing=missing)
    found = claims(Analysis(arrange(results)))[0]
    assert isinstance(found, SummaryFinding)
    return re.sub(r" \(95 % interval \S+ to \S+\)", " (I)", sentence(found))


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (
            partial(_answer, GAINS, seeds=12),
            "**learned** has the highest mean test accuracy and is better than **none** by 8.0 points (I). It is also "
            "better than **sinusoidal** and **rope**.",
        ),
        (
            partial(_answer, GAINS | {"sinusoidal": 8.0}, depth=(2, 4)),
            "**learned** has the highest mean test accuracy and is better than **none** by 8.0 points on average "
            "over depth (I). It is also better than **rope**; it is equivalent to **sinusoidal** within 0.5 points.",
        ),
        (
            partial(_answer, GAINS, seeds=3),
            "**learned** has the highest mean test accuracy, but whether it is better than **none** is undecided: the "
            "difference is +8.0 points (I). With 3 pairs no difference can be shown. It is equivalent to "
            "**sinusoidal** within 0.5 points; whether it is better than **rope** is also undecided.",
        ),
        (
            partial(_answer, GAINS, missing=lambda config: config.position == "learned" and config.seed > 2),
            "**learned** has the highest mean test accuracy, but whether it is better than **none** is undecided: the "
            "difference is +8.0 points (I). With 3 pairs no difference can be shown. It is equivalent to "
            "**sinusoidal** within 0.5 points; whether it is better than **rope** is also undecided. "
            "**sinusoidal** and **rope** are better than **none**.",
        ),
        (
            partial(_answer, {"none": 9.0, "learned": 5.0, "rope": 7.0}),
            "The baseline **none** has the highest mean test accuracy. The closest arm, **rope**, is worse by 2.0 "
            "points (I).",
        ),
        (
            partial(_answer, {"none": 9.0, "learned": 5.0, "rope": 8.99}, noise=1.0),
            "The baseline **none** has the highest mean test accuracy. Whether it is better than the closest arm, "
            "**rope**, is undecided: the difference is −0.1 points (I).",
        ),
        (partial(_answer, {"none": 0.0, "rope": 2.0}), "**rope** is better than **none** by 2.0 points (I)."),
        (partial(_answer, {"none": 2.0, "rope": 0.0}), "**rope** is worse than **none** by 2.0 points (I)."),
        (
            partial(_answer, {"none": 0.0, "rope": 0.1}, noise=0.2),
            "**rope** is equivalent to **none** within 0.5 points: the difference is +0.1 points (I).",
        ),
        (
            partial(_answer, {"none": 0.0, "rope": 2.0}, seeds=1),
            "Whether **rope** differs from **none** is undecided: the difference is +2.0 points. With 1 pair no "
            "difference can be shown.",
        ),
        (
            partial(
                _answer,
                {"none": 0.0, "rope": 2.0},
                missing=lambda config: config.seed % 2 == (config.position == "rope"),
            ),
            "**rope** cannot be compared with **none**: no pair of runs has finished.",
        ),
    ],
)
def test_the_answer_says_who_leads_by_how_much_and_whether_that_is_decided(make, expected):
    assert make() == expected


def test_the_answer_names_what_the_difference_depends_on():
    answer, contrast, change, _ = _study(lambda patch, seed: (20 if patch == 2 else 0.1) + 0.2 * seed, seeds=8)
    assert re.fullmatch(
        r"\*\*rope\*\* is better than \*\*none\*\* by 10\.7 points on average over patch size "
        r"\(95 % interval \S+ to \S+\)\. The difference between \*\*rope\*\* and \*\*none\*\* depends on patch size: "
        r"it is \+20\.7 points at patch 2 and \+0\.8 points at patch 4\.",
        sentence(answer),
    )
    assert [type(claim) for claim in (contrast, change)] == [ContrastFinding, InteractionFinding]


@pytest.mark.parametrize(
    ("arms", "gain", "words"),
    [(8, 0.0, "Whether it is better than any other arm is also undecided."), (8, 5.0, "better than every other arm.")],
)
def test_an_answer_on_many_arms_does_not_list_them(arms, gain, words):
    def measure(config):
        draw = np.random.default_rng([config.seed, round(1e4 * config.learning_rate)]).normal()
        return (60 + gain * (config.learning_rate == 1e-3 * arms) + draw) / 100

    rates = tuple(1e-3 * (i + 1) for i in range(arms))
    base = {"baseline": "0.001", "base": ROPE}
    results = synthetic_results.make({"learning_rate": rates}, range(12), measure=measure, **base)
    assert words in sentence(claims(Analysis(arrange(results)))[0])


def test_a_study_of_one_arm_has_its_mean_for_an_answer():
    results = synthetic_results.make({"position": ("none",)}, measure=lambda config: 0.98 + 0.005 * config.seed)
    (only,) = claims(Analysis(arrange(results)))
    assert isinstance(only, BestCellFinding)
    text = compose(results).text
    assert (
        "\n## Answer\n\nThe mean test accuracy of **none** is 98.5 % (3 runs; 95 % interval 97.3 to 99.7). Nothing is "
        "compared: the runs differ only in the seed.\n\n## Accuracy\n" in text
    )


def test_the_first_screen_has_a_table_of_verdicts(folder, text):
    head = text.split("## Details")[0]
    table = pd.read_csv(folder / "tables" / "contrasts.csv")
    rows = re.findall(r"^\| (\w+) \| \*\*(\w+)\*\* \| (\S+) \| (\S+) to (\S+) \| ([<\u00a0\d.]+) \|$", head, re.M)
    assert len(rows) == len(table) == 3
    for (arm, verdict, difference, low, high, p), row in zip(rows, table.to_dict("records"), strict=True):
        assert (arm, verdict, p) == (row["subject"], row["verdict"], p_text(row["p_adjusted"]))
        numbers = [float(number.replace("−", "-")) for number in (difference, low, high)]
        assert numbers == [round(row[name], 1) for name in ("estimate", "low", "high")]
    assert "(figures/contrasts.png)" in head
    assert text.count("figures/contrasts.png") == 1


def folder_study(environments, **base):
    results = synthetic_results.make(
        {"position": ("none", "rope")}, (0, 1), base=synthetic_results.RunConfig(data="folder", **base)
    )
    recorded = dict(zip(results.runs["key"], environments * 4, strict=False))
    return replace(results, environments={key: {"dataset": found} for key, found in recorded.items()})


FLOWERS = {"name": "flowers17", "train_images": 1200, "test_images": 300, "classes": 5, "image_size": 32}


def test_a_report_on_a_folder_names_it():
    text = compose(folder_study([FLOWERS])).text
    assert (
        '\n\nStudy `rope` on the image folder "flowers17" (1,200 training and 300 test images, 5 classes, 32 × 32 '
        "pixels): 4 of 4 runs finished; " in text
    )
    assert "Add `--data-dir PATH` to it, with the folder or file of the data as PATH." in text
    assert "your own" not in text
    other = compose(folder_study([FLOWERS, FLOWERS | {"train_images": 600}])).text
    assert 'the image folder "flowers17" (5 classes, 32 × 32 pixels)' in other


def test_a_report_on_a_folder_of_an_older_version_says_that_its_name_is_not_recorded():
    results = folder_study([FLOWERS])
    text = compose(replace(results, environments={})).text
    assert "Study `rope` on an image folder (name and size not recorded): 4 of 4 runs finished" in text


@pytest.mark.parametrize(("more", "words"), [(1, "1 more seed per setting is"), (9, "9 more seeds per setting are")])
def test_it_is_the_study_that_needs_more_seeds(more, words):
    contrast = _claim(3, 3).contrast
    claim = ContrastFinding(replace(contrast, seeds_needed=contrast.seeds + more))
    assert f". About {words} needed to decide this, if the difference and its spread stay as observed." in sentence(
        claim
    )


def test_runs_that_are_all_alike_have_no_interval_of_width_zero():
    results = synthetic_results.make({"position": ("none", "rope")}, measure=lambda config: 0.98)
    text = compose(results).text
    assert (
        "is 98.0 %, by **none** (3 runs, all equal). This value is biased upward because it is the maximum of 2" in text
    )
    assert "| none | **98.0** (all equal) | 3 |" in text
    assert "98.0 to 98.0" not in text


def test_the_head_of_a_report_says_on_what_images_it_rests(tmp_path):
    base = synthetic_results.RunConfig(data="cifar100", classes=20)
    results = synthetic_results.make({"position": ("none", "rope"), "patch": (4, 8)}, base=base)
    head = compose(results).text.split("## Answer")[0]
    data = "cifar100 (50,000 training and 10,000 test photographs in 100 classes), only the first 20 of 100 classes"
    assert f"\n\nStudy `rope` on {data}: 12 of 12 runs finished; position none, rope; patch 4, 8; 3 seeds.\n" in head


def test_p_text():
    assert [p_text(p) for p in (0.0312, 0.00049, np.nan, 1.0)] == ["0.031", "< 0.001", "–", "1.000"]


def test_table_cells_cannot_break_a_table():
    assert str(Table(["a"], [["x|y\n<b>z"]])).splitlines()[-1] == "| x\\|y \\<b>z |"


@pytest.mark.parametrize(("arms", "folded"), [(6, False), (7, True)])
def test_a_long_table_of_pairs_is_folded_and_says_what_it_cannot_show(arms, folded):
    results = synthetic_results.make({"position": GRIDS["encodings"].levels[:arms]}, (0, 1))
    section = compose(results).text.split("## Paired contrasts")[1].split("\n## ")[0]
    assert ("<details>" in section) == folded
    assert ("There are too few seeds for a significant difference in a family of so many" in section) == folded
    table = section.split("All pairs of arms, as a separate Holm family")[1]
    assert len(re.findall(r"^\| [^:]", table, re.M)) == 1 + arms * (arms - 1) // 2


@pytest.mark.parametrize(("seeds", "said"), [(9, True), (10, False)])
def test_pairs_can_be_significant_with_enough_seeds(seeds, said):
    results = synthetic_results.make({"position": GRIDS["encodings"].levels[:7]}, range(seeds))
    assert (2 * 0.5**seeds * 21 > 0.05) == said
    assert ("too few seeds for a significant difference" in compose(results).text) == said
