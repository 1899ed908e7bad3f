"""The report as a reader meets it: words that follow from numbers, links that lead somewhere, nothing lost."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ablations.config import SequentialDesign
from ablations.errors import UsageError
from ablations.reporting.findings import ContrastFinding, NoInteractionFinding, Verdict, claims, more_seeds
from ablations.reporting.formatting import p_text
from ablations.reporting.report import compose, write_report
from ablations.reporting.tables import Table
from ablations.statistics import Analysis, arrange, baseline_contrasts
from tests.support import synthetic_results

ROPE = synthetic_results.RunConfig(position="rope")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_report(synthetic_results.make(), tmp_path_factory.mktemp("reports"))


@pytest.fixture(scope="module")
def text(folder) -> str:
    return (folder / "README.md").read_text(encoding="utf-8")


def test_it_answers_the_question(text):
    assert text.startswith("# Which positional encoding earns its keep")
    for heading in ("Findings", "Accuracy", "Paired contrasts", "How to read this", "Method", "Cost", "Provenance"):
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


def grown_study(tmp_path) -> Path:
    """A report of a study that grew in rounds: two arms decided early, one never."""
    seeds = {"none": 12, "learned": 5, "sinusoidal": 12, "rope": 4}
    results = synthetic_results.make(
        {"position": tuple(seeds), "depth": (2, 4)},
        range(12),
        study="grown",
        design=SequentialDesign(3, 12),
        asked=lambda config: config.seed < seeds[config.position],
        measure=lambda config: (
            synthetic_results.accuracy(replace(config, position="none"))
            if config.position == "sinusoidal" and config.seed % 2
            else synthetic_results.accuracy(config)
        ),
    )
    return write_report(results, tmp_path)


def lossy_study(tmp_path) -> Path:
    """A report in which one arm has no run at all in one of four settings."""
    return write_report(
        synthetic_results.make(missing=lambda c: (c.position, c.depth, c.patch) == ("rope", 2, 4)), tmp_path
    )


@pytest.fixture(scope="module")
def grown(tmp_path_factory) -> Path:
    return grown_study(tmp_path_factory.mktemp("grown"))


@pytest.fixture(scope="module")
def lossy(tmp_path_factory) -> Path:
    return lossy_study(tmp_path_factory.mktemp("lossy"))


@pytest.mark.parametrize(("kind", "report"), [("fixed", "folder"), ("grown", "grown"), ("lossy", "lossy")])
def test_every_number_of_a_finding_is_in_the_table_of_claims(request, kind, report):
    folder = request.getfixturevalue(report)
    text = (folder / "README.md").read_text(encoding="utf-8")
    table = pd.read_csv(folder / "tables" / "claims.csv")
    assert ("sequential Holm p" in text) == ("seeds_needed" in table) == (kind == "grown")
    findings = re.findall(r"^- (.*)$", text.split("## Findings")[1].split("\n[!")[0], re.M)
    assert [f.replace("**", "") for f in findings] == list(table["sentence"])
    for _, row in table.iterrows():
        numbers = pd.to_numeric(row.drop(["sentence", "runs"]), errors="coerce").abs().dropna()
        names = f"{row['subject']} {row['reference']} {row['axis']}"
        words = re.sub(r"95 % interval|80 % power|< 0\.001", "", row["sentence"])
        assert ("< 0.001" in row["sentence"]) <= (row[["p", "p_adjusted", "p_equivalence"]].min() < 0.001)
        for number in re.findall(r"\d[\d,]*\.?\d*", words):
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
    assert ("**depth 2** against **depth 1**" in text) == (study == "depth")


def test_missing_and_failed_runs_are_named(tmp_path):
    results = synthetic_results.make(missing=lambda c: c.position == "rope" and c.patch == 4 and c.seed == 2)
    text = (write_report(results, tmp_path) / "README.md").read_text(encoding="utf-8")
    assert "46 of 48 runs finished" in text
    assert "| rope | 2 | 4 | 2 | failed | NonFiniteLoss: loss is nan \\| epoch 3 |" in text
    assert "> **Failed runs.** 1 of 48 runs failed (rope 1). A run that failed is not counted against its arm" in text
    assert "the arm is worse than its numbers" in text.split("## Missing runs")[1]
    assert "- depth 4, patch 4, seed 2: no rope" in text
    rows = re.findall(r"^\| ([24]) \| ([24]) \| .*\)([^)|]*) \| (\d) \|$", text, re.M)
    assert rows == [("2", "2", "", "3"), ("2", "4", ", n = 2", "3"), ("4", "2", "", "3"), ("4", "4", ", n = 2", "3")]
    assert "and the number of runs n, with a mean where it has fewer. The highest" in text
    assert "10 pairs" in text


def test_runs_that_are_only_not_finished_are_no_failures(tmp_path):
    results = replace(synthetic_results.make(missing=lambda c: c.seed == 2), failed={})
    text = (write_report(results, tmp_path) / "README.md").read_text(encoding="utf-8")
    assert "32 of 48 runs finished" in text
    assert "failed" not in text


def test_it_says_for_what_the_level_holds_and_where_the_data_came_from(folder, text):
    assert "limits chance findings to 5 % within one family of comparisons: the arms against none, all pairs, " in text
    assert "p counts differences between settings as chance and the interval does not" in text
    assert "can include zero while p passes" in text
    assert f"| fingerprint of the data (SHA-256) | {'f' * 64} | 48 |" in text
    environments = pd.read_csv(folder / "tables" / "environments.csv").set_index("what")
    assert environments.loc["data_sha256", "value"] == "f" * 64


def test_a_study_that_grew_says_what_it_saved_and_what_stopping_early_does(grown):
    text = (grown / "README.md").read_text(encoding="utf-8")
    head, rounds = text.split("## Findings")[0], text.split("## Rounds")[1]
    assert "It took 66 of the 96 runs of a study fixed at that many seeds: 30 saved (31 %)." in head
    assert "Of at most 12 seeds a setting it took none 12, learned 5, sinusoidal 12 and rope 4: 15 of 48 saved." in head
    assert "An estimate that stopped an arm early is a little too large" in rounds


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

    monkeypatch.setattr("ablations.reporting.report.pictures", fail)
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UsageError, match=r"--out .*file.* cannot be written") as caught:
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
    ("claim", "verdict", "words"),
    [
        (_claim(5, 0.5), Verdict.BETTER, "**rope** is better than **none** by"),
        (_claim(-5, 0.5), Verdict.WORSE, "**rope** is worse than **none** by"),
        (_claim(0, 0.1), Verdict.EQUIVALENT, "are equivalent within 0.5 points"),
        (_claim(3, 3), Verdict.UNDECIDED, "more seed"),
        (_claim(5, 0.5, seeds=3), Verdict.UNDECIDED, "the smallest p is 0.250, so no difference could"),
    ],
)
def test_words_follow_the_verdict(claim, verdict, words):
    assert claim.verdict == verdict
    assert words in claim.sentence


def test_a_claim_over_a_part_of_the_settings_names_it(lossy):
    text = (lossy / "README.md").read_text(encoding="utf-8")
    assert "9 pairs over 3 of 4 settings, ahead in 9)." in text
    assert "12 pairs, ahead in 12)." in text
    assert "cannot be decided with 3 blocks over 1 of 2 settings: the smallest p they can reach is 0.250." in text
    assert "The smallest possible p is 0.0039 with 9 pairs and 0.00049 with 12 pairs." in text


def test_an_interval_within_the_margin_that_is_not_called_equivalent_says_why():
    found = baseline_contrasts(arrange(synthetic_results.make({"position": ("none", "rope")}, range(8))))[0]
    near = replace(found, mean=0.1, low=-0.3, high=0.45, p=0.5, p_adjusted=1.0, p_equivalence=0.06)
    assert "but not as one of so many" in ContrastFinding(near).sentence
    assert "within 0.5" not in ContrastFinding(replace(near, high=0.51)).sentence
    grown = replace(near, correction="sequential Holm")
    assert "the test of equivalence for all looks does not pass" in ContrastFinding(grown).sentence
    assert "tell nothing of the spread" in ContrastFinding(replace(near, p_equivalence=np.nan)).sentence


def test_an_undecided_change_says_how_many_more_seeds():
    found = claims(Analysis(arrange(synthetic_results.make())))
    claim = next(c for c in found if isinstance(c, NoInteractionFinding))
    more = more_seeds(claim.contrast)
    assert more >= 1
    assert f"6 blocks). Alone it would need about {more} more seed" in claim.sentence


def test_an_interaction_is_found_and_its_absence_is_not_claimed():
    sentences = [claim.sentence for claim in claims(Analysis(arrange(synthetic_results.make())))]
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
    contrast, change, _ = _study(lambda patch, seed: (20 if patch == 2 else 0.1) + 0.2 * seed, seeds=8)
    assert re.fullmatch(
        r"\*\*rope\*\* is better than \*\*none\*\* by 10.7 points on average over these settings \(95 % .*\)\. "
        r"The difference depends on patch\.",
        contrast.sentence,
    )
    assert "depends on patch: it is +20.7 points at patch 2 and +0.8 at patch 4" in change.sentence
    in_short = claims(Analysis(arrange(synthetic_results.make(seeds=range(8)))))[0].sentence
    assert in_short.startswith(
        "In short, on average over these settings: **learned**, **sinusoidal** and **rope** are "
    )
    assert " These differences depend on patch. " in in_short
    alone = _study(lambda patch, seed: 20 + 0.2 * seed, seeds=8, axes=("patch", (2,)))[0]
    assert "average" not in alone.sentence
    assert "depends" not in alone.sentence


def test_an_average_that_hides_a_change_is_not_left_undecided_without_a_word():
    contrast = _study(lambda patch, seed: (5 if patch == 2 else -3.6) + 0.02 * seed, seeds=8)[0]
    assert contrast.verdict == Verdict.UNDECIDED
    assert "16 pairs, ahead in 8). The difference depends on patch. The interval leaves out zero, but p, " in (
        contrast.sentence
    )


def test_an_interval_without_zero_beside_a_p_that_does_not_pass_is_explained_by_the_settings():
    contrast = _study(lambda patch, seed: (4 if patch == 2 else 0.3) + (0.4 * seed - 0.7) * 1.5, seeds=3)[0]
    assert contrast.contrast.low > 0
    assert contrast.contrast.p > 0.05
    assert "but p, unlike the interval, counts differences between settings as chance. To decide" in contrast.sentence


def test_an_interval_with_zero_beside_a_p_that_passes_is_explained():
    contrast = _study(lambda patch, seed: 10.0 if seed == 0 else 0.1 + 0.1 * seed)[0]
    assert contrast.contrast.p_adjusted <= 0.05
    assert contrast.contrast.low < 0
    assert contrast.sentence.endswith(
        ". The interval includes zero, as it is cautious with few seeds; a verdict goes by p alone."
    )


def test_the_highest_of_many_means_is_said_to_be_luck_in_part():
    best = claims(Analysis(arrange(synthetic_results.make())))[-1]
    assert best.sentence.endswith("; the highest of 16 means is in part luck.")
    one = claims(Analysis(arrange(synthetic_results.make({"position": ("none",)}))))[-1]
    assert "luck" not in one.sentence


@pytest.mark.parametrize(("more", "words"), [(1, "1 more seed a setting is"), (9, "9 more seeds a setting are")])
def test_it_is_the_study_that_needs_more_seeds(more, words):
    contrast = _claim(3, 3).contrast
    claim = ContrastFinding(replace(contrast, seeds_needed=contrast.seeds + more))
    assert f". To decide this, about {words} needed, if difference and spread stay as they are." in claim.sentence


def test_runs_that_are_all_alike_have_no_interval_of_width_zero(tmp_path):
    results = synthetic_results.make({"position": ("none", "rope")}, measure=lambda config: 0.98)
    text = (write_report(results, tmp_path) / "README.md").read_text(encoding="utf-8")
    assert "is 98.0 %, by **none** (3 runs, all alike); the highest of 2" in text
    assert "| none | **98.0** (all alike) | 3 |" in text
    assert "98.0 to 98.0" not in text


def test_the_head_of_a_report_says_on_what_images_it_rests(tmp_path):
    base = synthetic_results.RunConfig(data="cifar100", classes=20)
    results = synthetic_results.make({"position": ("none", "rope"), "patch": (4, 8)}, base=base)
    head = compose(results).text.split("## Findings")[0]
    said = "Trained on cifar100 (50,000 + 10,000 photographs in 100 classes), the first 20 of 100 classes only."
    assert head.endswith(f" 3 seeds. {said}\n\n")


def test_p_text():
    assert [p_text(p) for p in (0.0312, 0.00049, np.nan, 1.0)] == ["0.031", "< 0.001", "–", "1.000"]


def test_table_cells_cannot_break_a_table():
    assert str(Table(["a"], [["x|y\n<b>z"]])).splitlines()[-1] == "| x\\|y \\<b>z |"
