"""The report as one HTML file and its tables as LaTeX."""

import base64
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from ablations.config.safe_text import markdown
from ablations.reporting.html import page
from ablations.reporting.report import write_report
from ablations.reporting.tables import Strong, Table
from tests.support import synthetic_results

VOID = {"meta", "link", "img", "br", "hr"}


class Elements(HTMLParser):
    """The elements of a page; fails where a tag is closed that is not open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


@pytest.fixture(scope="module")
def folder(incomplete_html) -> Path:
    return incomplete_html


@pytest.fixture(scope="module")
def elements(folder) -> Elements:
    return Elements((folder / "report.html").read_text(encoding="utf-8"))


def test_nothing_is_outside_the_file(elements):
    anchors = {attributes["id"] for _, attributes in elements.found if "id" in attributes}
    for _, attributes in elements.found:
        for name in ("src", "href"):
            link = attributes.get(name, "data:")
            assert link.startswith("data:") or link.removeprefix("#") in anchors, link
    assert not elements.all("script")
    assert "missing-runs" in anchors


def test_figures_and_tables_are_inside_byte_for_byte(folder, elements):
    inside = [base64.b64decode(image["src"].partition(",")[2]) for image in elements.all("img")]
    assert sorted(inside) == sorted(path.read_bytes() for path in folder.glob("figures/*.png"))
    assert all(len(image["alt"]) > 30 for image in elements.all("img"))
    downloads = {
        a["download"]: base64.b64decode(a["href"].partition(",")[2]) for a in elements.all("a") if "download" in a
    }
    assert downloads == {path.name: path.read_bytes() for path in folder.glob("tables/*")}


def test_every_table_may_scroll_by_itself_on_a_phone(folder, elements):
    text = (folder / "README.md").read_text(encoding="utf-8")
    tables = len(re.findall(r"^\| :--", text, re.M))
    assert len(elements.all("table")) == tables == len([a for a in elements.all("div") if a.get("class") == "table"])
    assert any(meta.get("name") == "viewport" for meta in elements.all("meta"))


def test_every_figure_is_small_enough_for_a_page(folder):
    assert max(path.stat().st_size for path in folder.glob("figures/*")) < 500_000


def test_a_report_without_html_removes_an_old_one(tmp_path):
    results = synthetic_results.make({"position": ("none", "rope")})
    assert (write_report(results, tmp_path, "html") / "report.html").is_file()
    assert not (write_report(results, tmp_path) / "report.html").exists()


def test_a_number_stays_with_its_sign(folder):
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert "95\u00a0% interval" in text
    assert re.search(r"Holm p\u00a0=\u00a00\.\d", text)
    loose = re.search(r".{0,40}(\d %|p [=&]|&lt; \d)", text)
    assert not loose, loose


def test_a_question_cannot_bring_its_own_tags():
    text = page(f"# {markdown('Is a <script>alert(1)</script> safe?')}\n", {})
    assert text.count("Is a &lt;script&gt;alert(1)&lt;/script&gt; safe?") == 2  # title and heading
    assert "<script" not in text
    assert "<script" not in page("<script>alert(1)</script>\n", {})


def test_latex_of_a_table():
    table = Table(["arm", "gain"], [(Strong("a_b"), "−1.5"), ("x|y & 50 %", "< 0.1 ± 2")])
    assert table.latex() == (
        "\\begin{tabular}{lr}\n\\toprule\narm & gain \\\\\n\\midrule\n"
        "\\textbf{a\\_b} & $-$1.5 \\\\\nx\\textbar{}y \\& 50 \\% & \\textless{} 0.1 $\\pm$ 2 \\\\\n"
        "\\bottomrule\n\\end{tabular}\n"
    )


def test_latex_tables_have_the_cells_of_the_report(folder):
    for path in folder.glob("tables/*.tex"):
        text = path.read_text(encoding="utf-8")
        rules = (r"\begin{tabular}", r"\toprule", r"\midrule", r"\bottomrule")
        assert {text.count(rule) for rule in rules} == {text.count(r"\end{tabular}")} != {0}
        assert text.isascii()
        assert not re.search(r"(?<!\\)[%#_|<>~^]", text)  # what TeX takes for something else
        assert text.count("{") == text.count("}")
        assert text.count("$") % 2 == 0
        for table in text.split("\\end{tabular}\n")[:-1]:
            columns = len(re.search(r"tabular}{(\w+)}", table)[1])
            rows = [line for line in table.splitlines() if line.endswith(r"\\")]
            assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {columns - 1}
    accuracy = (folder / "tables" / "accuracy.tex").read_text(encoding="utf-8")
    assert accuracy.count(r"\textbf{") == 4


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
def test_latex_tables_compile(folder, tmp_path):
    """With stand-ins for the rules of booktabs, which small installations of TeX lack."""
    rules = "".join(rf"\newcommand{{\{name}rule}}{{\hline}}" for name in ("top", "mid", "bottom"))
    tables = "\n\n".join(path.read_text(encoding="utf-8") for path in sorted(folder.glob("tables/*.tex")))
    (tmp_path / "all.tex").write_text(
        f"\\documentclass{{article}}{rules}\\begin{{document}}\n{tables}\\end{{document}}\n"
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:]
