"""The reports in docs/studies/ and the golden one are whole: links lead somewhere, tables and images are sound."""

import re
from pathlib import Path

import pytest
from PIL import Image

from tests.reporting.test_report_numbers import unfounded

ROOT = Path(__file__).resolve().parents[2]
REPORTS = sorted(path.parent for path in ROOT.glob("docs/studies/*/README.md"))
GOLDEN = ROOT / "tests" / "golden" / "report" / "small"  # has no figures


def text_of(folder: Path) -> str:
    return (folder / "README.md").read_text(encoding="utf-8")


@pytest.fixture(params=[*REPORTS, GOLDEN], ids=lambda path: path.name)
def folder(request) -> Path:
    return request.param


def test_there_are_reports():
    assert {path.name for path in REPORTS} >= {"rope", "cifar100-20"}


def test_links_lead_to_files_and_headings_and_files_are_linked(folder):
    text = text_of(folder)
    links = set(re.findall(r"\]\(([^)]+)\)", text))
    anchors = {
        re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^#+ (.*)$", text, re.M)
    }
    assert {link[1:] for link in links if link.startswith("#")} <= anchors
    files = {link for link in links if not link.startswith("#")}
    kinds = ("tables",) if folder == GOLDEN else ("tables", "figures")
    there = {path.relative_to(folder).as_posix() for kind in kinds for path in (folder / kind).iterdir()}
    assert {file for file in files if file.startswith(kinds)} == there
    assert all(file.startswith(("tables/", "figures/")) for file in files)


def test_tables_are_well_formed(folder):
    blocks = re.findall(r"(?:^\|.*\n)+", text_of(folder), re.M)
    assert len(blocks) >= 8
    for block in blocks:
        lines = block.splitlines()
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1, block
        assert re.fullmatch(r"\|(?: (?::--|--:) \|)+", lines[1]), block
        assert len(lines) >= 3


def test_html_is_only_what_github_shows(folder):
    text = re.sub(r"^```.*?^```|`[^`]*`", "", text_of(folder), flags=re.M | re.S)
    assert set(re.findall(r"</?[a-z]+[^>]*>", text)) <= {"<details>", "</details>", "<summary>", "</summary>"}
    assert text.count("<details>") == text.count("</details>")


@pytest.mark.parametrize("folder", REPORTS, ids=lambda path: path.name)
def test_images_are_small_whole_and_described(folder):
    text = text_of(folder)
    for path in folder.glob("figures/*"):
        assert path.stat().st_size < 500_000
    for path in folder.glob("figures/*.png"):
        with Image.open(path) as image:
            image.load()
            assert image.width >= 1000
        assert re.search(rf"!\[[^\]]{{30,}}\]\(figures/{path.name}\)\]\(figures/{path.stem}\.svg\)", text)


def test_every_number_of_the_prose_is_in_a_table(folder):
    if not (folder / "tables" / "study.csv").exists():
        pytest.skip("of a version before study.csv")
    assert unfounded(text_of(folder), folder) == []
