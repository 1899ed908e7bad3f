"""A report is checked against its runs: what was changed by hand, or follows no longer, is named in one line each."""

import re
import shutil
from pathlib import Path

import pytest

from ablations.errors import UsageError
from ablations.reporting.check import differences
from ablations.reporting.report import write_report
from tests.support import synthetic_results

RESULTS = synthetic_results.make()


@pytest.fixture
def out(folder, tmp_path) -> Path:
    shutil.copytree(folder, tmp_path / "rope")
    return tmp_path


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count(old) >= 1
    path.write_bytes(text.replace(old, new, 1).encode())


def test_a_report_just_written_follows_from_its_runs(out):
    assert differences(RESULTS, out) == []


def test_a_number_changed_in_the_prose_is_named(out):
    text = (out / "rope" / "README.md").read_text(encoding="utf-8")
    said = re.search(r"\*\*rope\*\* is better than \*\*none\*\* by ([\d.]+) points", text)
    edit(out / "rope" / "README.md", said[0], said[0].replace(said[1], "99.9"))
    (line,) = differences(RESULTS, out)
    assert line.startswith("README.md, line ")
    assert "99.9" in line.split(", expected ")[0]
    assert said[1] in line.split(", expected ")[1]


def test_a_cell_of_a_table_and_a_claim_are_named(out):
    tables = out / "rope" / "tables"
    edit(tables / "accuracy.csv", "none,2,2,", "none,2,3,")
    edit(tables / "claims.csv", "Contrast,better,", "Contrast,worse,")
    claim, cell = sorted(differences(RESULTS, out), reverse=True)
    assert cell == "tables/accuracy.csv, row 1, patch: found 3, expected 2"
    assert re.match(r"tables/claims.csv, row \d, verdict: found worse, expected better \(claim: \w+ is better", claim)


def test_rounding_of_other_hardware_is_no_difference_but_a_digit_is(out):
    path = out / "rope" / "tables" / "contrasts.csv"
    value = path.read_text().splitlines()[1].split(",")[2]
    edit(path, f",{value},", f",{float(value) * (1 + 1e-6):.8g},")
    assert differences(RESULTS, out) == []
    edit(path, f",{float(value) * (1 + 1e-6):.8g},", f",{float(value) * (1 + 1e-4):.6g},")
    assert len(differences(RESULTS, out)) == 1


def test_the_page_is_checked_where_there_is_one(tmp_path):
    results = synthetic_results.make({"position": ("none", "rope")}, range(8), study="positions")
    folder = write_report(results, tmp_path, "html")
    assert differences(results, tmp_path) == []
    page = folder / "report.html"
    whole = page.read_text(encoding="utf-8")
    said = re.search(r"<strong>rope</strong> is better than <strong>none</strong> by ([\d.]+) points", whole)
    edit(page, said[0], said[0].replace(said[1], "99.9"))
    (line,) = differences(results, tmp_path)
    assert line.startswith("report.html, line ")
    assert "99.9" in line
    assert len(line) < 2000
    page.write_text(whole.replace("base64,iVBOR", "base64,iVBOS", 1), encoding="utf-8")
    (line,) = differences(results, tmp_path)
    assert line.startswith("report.html, line ")
    assert "sha256" in line
    page.write_text(whole, encoding="utf-8")
    shutil.copy(folder / "figures" / "cost.png", folder / "figures" / "contrasts.png")  # another picture than is inside
    assert [line.split(",")[0] for line in differences(results, tmp_path)] == ["report.html"]


def test_files_that_lack_or_do_not_belong_are_named(out):
    (out / "rope" / "tables" / "pairs.csv").unlink()
    (out / "rope" / "figures" / "cost.png").unlink()
    (out / "rope" / "tables" / "mine.csv").write_text("a\n1\n")
    (out / "rope" / "notes.txt").write_text("mine")
    assert differences(RESULTS, out) == [
        "tables/pairs.csv: missing",
        "figures/cost.png: missing",
        "tables/mine.csv: not part of this report",
    ]


def test_other_runs_make_the_claims_differ(out):
    other = synthetic_results.make(study="rope", missing=lambda c: c.position == "rope" and c.seed == 2)
    found = differences(other, out)
    assert any(line.startswith("README.md") for line in found)
    assert any(line.startswith("tables/claims.csv") for line in found)
    assert "tables/runs.csv: found 48 rows, expected 44" in found
    assert all("\n" not in line for line in found)


def test_a_report_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match="no report in"):
        differences(RESULTS, tmp_path)
