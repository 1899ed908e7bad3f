"""Every number that a report says in words stands in one of its CSV files, and the runs' file gives all the others."""

import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from ablations.reporting.report import compose, csv_text, frames, write_report
from ablations.statistics import analyse
from tests.reporting.test_report import FLOWERS, folder_study
from tests.support import synthetic_results

TABLES = {
    "Answer": ("claims", "contrasts", "study"),  # and row by row: test_report.py
    "Details": ("claims",),
    "Accuracy": ("accuracy", "study"),
    "Paired contrasts": ("contrasts", "study", "missing"),
    "Ranks over settings": ("ranks",),
    "Tuning": ("choices", "untuned", "study"),
    "Evaluations": ("evaluation_findings", "evaluation_means", "study"),
    "Most confident mistakes": ("mistakes",),
    "Figures": ("accuracy", "study"),
    "How to read this": ("contrasts", "study"),
}
"""Where the numbers of a section stand, where that is not study.csv."""
NUMBER = r"(?<![\w.])\d[\d,]*(?:\.\d+)?"
CONSTANTS = (
    "95 of 100 repetitions|0.5 means no difference|first 16 characters|rank 1 is the best|1 = best|SHA-256|2-D rotary|"
    "2-D|level of 5 %|share of the 5 %|false finding to 5 %|therefore at most 5 %|critical difference at 5 %|< 0.001|"
    r"95 % interval|\d{4}, arXiv \d{4}\.\d{5}|begins with [0-9a-f]{16}|"
    r"\(Barz and Denzler 2020\)|fewer than 6 (?:validation )?images|(?<=\d)e-\d+|Of [\d,]+ pairs of classes"
)
"""What the text says whatever the study."""


def sections(text: str) -> dict[str, str]:
    """The prose of a report by its headings: without tables, code and the addresses of links."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    text = re.sub(r"^\|.*$|`[^`]*`|(?<=\])\([^)]*\)", "", text, flags=re.M)
    head, *rest = re.split(r"^## (.*)$", text, flags=re.M)
    return {"": head} | dict(zip(rest[::2], rest[1::2], strict=True))


def numbers_of(table: Path) -> list[float]:
    """Every number in a CSV file, those inside of texts too."""
    cells = pd.read_csv(table, dtype=str, keep_default_na=False).to_numpy().ravel()
    whole = [abs(float(cell)) for cell in cells if re.fullmatch(r"-?[\d.]+(e-?\d+)?", cell)]
    inside = [found for cell in cells for found in re.findall(NUMBER, cell)]
    return whole + [float(found.replace(",", "")) for found in inside]


def unfounded(text: str, folder: Path) -> list[str]:
    """The numbers of the prose that stand in no table they should, as `section: number`."""
    missing = []
    for heading, prose in sections(text).items():
        known = [
            number
            for name in TABLES.get(heading, ("study",))
            if (folder / "tables" / f"{name}.csv").exists()
            for number in numbers_of(folder / "tables" / f"{name}.csv")
        ]
        for number, percent in re.findall(rf"({NUMBER})( %)?", re.sub(CONSTANTS, "", prose)):
            plain = number.replace(",", "")
            digits = len(plain.partition(".")[2])
            scaled = [100 * value for value in known if value <= 1] if percent else []
            close = {f"{value:.{digits}f}" for value in [*known, *scaled]} | {f"{value:.2g}" for value in known}
            if plain not in close:
                missing.append(f"{heading}: {number}")
    return missing


def read_runs(path: Path) -> pd.DataFrame:
    """The file of runs, its numbers as they were written. It has a column on divergence only if a run diverged."""
    runs = pd.read_csv(
        path, converters=dict.fromkeys(("test_accuracy", "test_loss", "seconds", "train_seconds"), float)
    )
    return runs if "diverged" in runs else runs.assign(diverged=0)


@pytest.fixture(scope="module")
def fixed(tmp_path_factory) -> Path:
    lost = synthetic_results.make(missing=lambda c: (c.position, c.depth, c.patch, c.seed) == ("rope", 2, 4, 1))
    return write_report(lost, tmp_path_factory.mktemp("fixed"))


@pytest.fixture(scope="module")
def own_images(tmp_path_factory) -> Path:
    return write_report(folder_study([FLOWERS]), tmp_path_factory.mktemp("own"))


@pytest.mark.parametrize("kind", ["fixed", "grown", "own_images", "tuned"])
def test_every_number_of_the_prose_is_in_a_table(kind, request):
    folder = request.getfixturevalue(kind)
    assert unfounded((folder / "README.md").read_text(encoding="utf-8"), folder) == []


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("fixed", r"Friedman's test over \d+ settings: p [=<] ([\d.]+\d)"),
        ("fixed", r"mean ranks differ by less than ([\d.]+\d)"),
        ("fixed", r"The smallest possible p is ([\d.]+\d)"),
        ("fixed", r"The finished runs took ([\d.]+) TFLOPs"),
        ("fixed", r"training and ([\d.]+) (?:seconds|minutes)"),
        ("fixed", r"Training\.\*\* (\d+) epochs"),
        ("fixed", r"(\d+) of 48 runs finished"),
        ("own_images", r"([\d,]+) training and 300 test images"),
        ("fixed", r"is better than \*\*none\*\* by ([\d.]+) points"),
        ("fixed", r"depth 2, patch 4, seed (\d)"),
        ("grown", r"The study needed (\d+) runs"),
        ("grown", r"were saved \((\d+) %\)"),
        ("grown", r"sinusoidal 12 and rope (\d+)"),
        ("grown", r"starts with (\d+) seeds"),
        ("grown", r"divided over the interim analyses \((?:\d+ %, )+(\d+) %"),
        ("grown", r"correction over the (\d+) contrasts"),
    ],
)
def test_another_number_would_be_found_out(kind, said, request):
    folder = request.getfixturevalue(kind)
    text = (folder / "README.md").read_text(encoding="utf-8")
    found = re.search(said, text)
    other = f"{float(found[1]) * 7 + 31.5:.3f}" if "." in found[1] else str(int(found[1].replace(",", "")) * 7 + 531)
    wrong = text[: found.start(1)] + other + text[found.end(1) :]
    assert [line.rpartition(" ")[2] for line in unfounded(wrong, folder)] == [other]


def test_the_file_of_runs_gives_all_other_tables_again(fixed):
    results = synthetic_results.make(missing=lambda c: (c.position, c.depth, c.patch, c.seed) == ("rope", 2, 4, 1))
    runs = read_runs(fixed / "tables" / "runs.csv")
    assert list(runs["test_accuracy"]) == list(results.runs["test_accuracy"])
    again = replace(results, runs=runs, epochs=results.epochs[:0])
    for name, frame in frames(again, analyse(again)).items():
        text = (fixed / "tables" / f"{name}.csv").read_text(encoding="utf-8")
        assert csv_text(frame, exact=name == "runs") == text, name


def test_ties_survive_the_file_of_runs(tmp_path):
    """Two arms that differ by two images in one setting and are behind by two in the other: equal on average."""
    right = {("none", 2): 301, ("rope", 2): 303, ("none", 4): 322, ("rope", 4): 320}
    results = synthetic_results.make(
        {"position": ("none", "rope"), "patch": (2, 4)},
        (0, 1, 2, 3, 4, 5),
        measure=lambda config: right[config.position, config.patch] / 397,
    )
    report = compose(results)
    (tmp_path / "runs.csv").write_text(report.tables["runs.csv"])
    runs = read_runs(tmp_path / "runs.csv")
    means = runs.groupby("position")["test_accuracy"].mean()
    assert means["rope"] == pytest.approx(means["none"], abs=1e-12)
    again = analyse(replace(results, runs=runs)).pairs
    assert repr(again) == repr(analyse(results).pairs)  # NaN included
