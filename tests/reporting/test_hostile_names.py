"""Names and questions that look like markup, through every output: they arrive as text."""

import csv
import html
import io
import json
import re
import shutil
import subprocess
import unicodedata
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest
from markdown_it import MarkdownIt
from typer.testing import CliRunner

from ablations.cli import app
from ablations.config import RunConfig, SequentialDesign, name_level
from ablations.config.safe_text import bold, code, code_block, latex, markdown, one_line, plain, shortened, visible
from ablations.reporting import compare as comparing
from ablations.reporting.figures.figure import canvas
from ablations.reporting.figures.palette import Mark, arm_legend
from ablations.reporting.html import page
from ablations.reporting.report import compose, csv_text, write_report
from ablations.reporting.tables import Code, Strong, Table
from tests.reporting.test_browser import CHROMIUM, FLAGS
from tests.support import fake_trainer, synthetic_results
from tests.support.archives import pictures
from tests.support.rendering import rendered

NAMES = (
    '<img src=x onerror="parent.fired=fired=1">',
    "</td></table></title><script>parent.fired=fired=1</script>",
    "a|b \\| c \\\\| d \\",
    "**bold** _it_ __x__ ~~s~~ `code` ``",
    "[link](javascript:parent.fired=1) ![image](x.png)",
    "<javascript:parent.fired=1> <https://example.com> https://example.com www.example.com",
    "$x^2$ and \\(y\\) and \\input{/etc/passwd} %&#_{}~^",
    "line one\n\n# line two\r\n---\n</details>",
    "1. one",
    "# heading #",
    "- item\t- two",
    "=1+1",
    "\"quoted\" 'single' ''' -- ---",
    "\x1b[31mred\x07\x9b31m \u202eleft",
    "[bold red]rich[/bold red] :smile: {{ 7 * 7 }} {% raw %}",
    "&amp; &lt;b&gt; &#60; <!-- --> --> ]]>",
    "x" * 300,
    "x" * 299 + "y",
)
QUESTION = 'Is | <b>a</b> or **b** better? </title><script>fired=1</script> `c` $x$ & "q" \\| #'
LEVELS = tuple((name, "b") for name in NAMES)
ARMS = tuple(name_level("classes", level) for level in LEVELS)
TAGS = {
    *("html", "head", "meta", "title", "link", "style", "body", "h1", "h2", "h3", "p", "a", "img", "em", "strong"),
    *(
        "code",
        "pre",
        "ul",
        "li",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "div",
        "details",
        "summary",
        "blockquote",
    ),
}
SVG_TAGS = {"svg", "metadata", "RDF", "Work", "type", "format", "defs", "style", "g", "path", "use", "clipPath", "rect"}
SVG_TAGS |= {"image", "title"}
INLINE = {
    "text",
    "strong_open",
    "strong_close",
    "em_open",
    "em_close",
    "link_open",
    "link_close",
    "image",
    "code_inline",
}
ATTRIBUTES = {"lang", "charset", "name", "content", "rel", "href", "id", "class", "tabindex", "style", "src", "alt"}
ATTRIBUTES |= {"download"}
VOID = ("meta", "link", "img")


class Page(HTMLParser):
    """The elements of a page, its title, and the text of each cell and paragraph."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self.texts.setdefault(tag, []).append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        for tag in dict.fromkeys(self.open):
            self.texts[tag][-1] += data


def hostile_study():
    """A study with a hostile arm for each name, a hostile question and command, and a run that failed."""

    def measure(config: RunConfig) -> float:
        return 0.4 + 0.02 * (LEVELS.index(config.classes) % 5) + 0.003 * config.seed + 0.001 * config.depth

    results = synthetic_results.make(
        {"classes": LEVELS, "depth": (2, 4)},
        (0, 1),
        measure=measure,
        missing=lambda config: config.classes == LEVELS[0] and config.depth == 4 and config.seed == 1,
        baseline="+".join(LEVELS[1]),
        study="__init__",
    )
    command = "vitab run --set 'classes=```\n</details>\n<script>fired=1</script>'"
    failed = dict.fromkeys(results.failed, "ValueError: <img src=x onerror=fired=1> | **no**\n\x1b[31m")
    return replace(results, plan=replace(results.plan, question=QUESTION, command=command), failed=failed)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    with rendered():
        return write_report(hostile_study(), tmp_path_factory.mktemp("reports"), "html")


@pytest.fixture(scope="module")
def written(folder) -> str:
    return (folder / "README.md").read_text(encoding="utf-8")


def as_github(text: str):
    """Tokens of markdown with the raw HTML and the extensions that GitHub knows."""
    return MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(text)


def inline(tokens):
    return [child for token in tokens for child in token.children or ()]


def text_of(token) -> str:
    return "".join(child.content for child in token.children or ())


def table_cells(tokens, header: str) -> list[list[str]]:
    """Rows of texts of the first table whose header begins with this cell."""
    rows: list[list[str]] = []
    for before, token in pairwise(tokens):
        if before.type == "table_open":
            rows = []
        if before.type == "tr_open":
            rows.append([])
        if before.type in ("th_open", "td_open"):
            rows[-1].append(text_of(token))
        if token.type == "table_close" and rows[0][0] == header:
            return rows
    raise AssertionError(f"no table begins with {header}")


@pytest.mark.parametrize("name", [*NAMES, QUESTION, " ", "\n", "", "a", "x_y __ a_", "<", "a&", "~"])
def test_a_name_is_text_in_markdown(name):
    shown = one_line(name)
    for text in (f"# {markdown(name)}", f"- {markdown(name)}", f"A {bold(name)}, {bold(name)}."):
        tokens = as_github(text)
        kinds = {token.type for token in (*tokens, *inline(tokens))}
        assert kinds <= {
            *("heading_open", "heading_close", "bullet_list_open", "bullet_list_close", "list_item_open", "text"),
            *("list_item_close", "paragraph_open", "paragraph_close", "inline", "strong_open", "strong_close"),
        }
    assert [text_of(token) for token in as_github(f"- {markdown(name)}") if token.type == "inline"] in ([shown], [])
    assert text_of(as_github(f"A {bold(name)}.")[1]) == f"A {shown}." or not name
    assert plain(f"A {bold(name)} {markdown(name)}") == f"A {shown} {shown}"


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_text_in_a_cell(name):
    table = Table([name, "b"], [(name, (Strong(name), " x")), ((Code(name), " a"), name)])
    rows = table_cells(as_github(str(table)), shortened(name))
    shown = one_line(name)
    assert rows == [[shortened(name), "b"], [shown, f"{shown} x"], [f"{shown} a", shown]]


def test_code_spans_and_blocks_hold_backticks():
    tokens = as_github(f"A {code('`a` ``b``')} c\n\n{code_block('````' + chr(10) + '</details>')}")
    assert [token.content for token in inline(tokens) if token.type == "code_inline"] == ["`a` ``b``"]
    assert [token.content for token in tokens if token.type == "fence"] == ["````\n</details>\n"]


def test_long_names_are_shortened_and_stay_apart():
    labels = [shortened(name) for name in (*NAMES, *ARMS)]
    assert len(set(labels)) == len({*NAMES, *ARMS})
    assert max(map(len, labels)) == 40
    assert shortened("x" * 40) == "x" * 40


def test_names_show_no_control_characters():
    for name in NAMES:
        assert not {"Cc", "Cf", "Zl", "Zp"} & set(map(unicodedata.category, one_line(name)))
    assert one_line("\x1b[31m\u202e \udcff") == "\\x1b[31m\\u202e \\udcff"


def test_the_report_as_markdown_holds_every_name_as_text(written):
    tokens = as_github(written)
    html_lines = [token.content for token in tokens if token.type == "html_block"]
    assert [re.sub(r"\d+", "N", line) for line in html_lines] == [
        "<details>\n<summary>All pairs of arms, as a separate Holm family</summary>\n",
        "</details>\n",
        "<details>\n<summary>The N runs behind this report, by the first N characters of their keys</summary>\n",
        "</details>\n",
    ]
    kinds = {token.type for token in inline(tokens)}
    assert kinds == INLINE
    links = {token.attrs["href"] for token in inline(tokens) if token.type == "link_open"}
    assert all(re.fullmatch(r"#[\w-]+|(figures|tables)/\w+\.(svg|csv|tex)", link) for link in links), links
    assert text_of(tokens[1]) == one_line(QUESTION)
    contrasts = table_cells(tokens, "arm")
    assert [row[0] for row in contrasts[1:]] == [one_line(arm) for arm in ARMS if arm != ARMS[1]]
    assert {row[1] for row in contrasts[1:]} == {one_line(ARMS[1])}
    assert table_cells(tokens, "depth")[0][1:-1] == [shortened(arm) for arm in ARMS]
    findings = " ".join(text_of(token) for token in tokens if token.type == "inline")
    for arm in ARMS:
        if arm != ARMS[1]:
            assert f"{one_line(arm)} is " in findings or f"Whether {one_line(arm)} differs from " in findings


@pytest.mark.parametrize("grown", [True, False])
def test_prose_on_settings_and_on_rounds_holds_names_as_text(grown):
    """Hostile settings of two positions, and a study of hostile arms that grew in rounds."""
    some = LEVELS[0], LEVELS[2], LEVELS[3], LEVELS[6], LEVELS[14], LEVELS[16]

    def measure(config: RunConfig) -> float:
        lead = 0.02 * some.index(config.classes) * (1 if grown else config.position == "rope")
        return 0.4 + lead + 0.001 * ((7 * config.seed + config.depth) % 5)

    axes = {"classes": some, "depth": (2, 4)} if grown else {"position": ("none", "rope"), "classes": some}
    design = SequentialDesign(4, 8) if grown else None
    results = synthetic_results.make(axes, range(8), measure=measure, design=design, baseline="none")
    text = compose(results).text
    tokens = as_github(text)
    assert {token.type for token in inline(tokens)} <= INLINE
    assert [token.content[:9] for token in tokens if token.type == "html_block"] == ["<details>", "</details"]
    prose = " ".join(text_of(token) for token in tokens if token.type == "inline")
    for level in some:
        assert prose.count(one_line(name_level("classes", level))) >= 2
    found = Page(page(text, {}))
    assert {tag for tag, _ in found.elements} <= TAGS


def test_the_page_has_no_element_or_attribute_of_a_name(folder):
    found = Page((folder / "report.html").read_text(encoding="utf-8"))
    assert {tag for tag, _ in found.elements} <= TAGS
    names = {name for _, attributes in found.elements for name in attributes}
    assert names <= ATTRIBUTES
    assert found.texts["title"] == [one_line(QUESTION)]
    assert found.texts["h1"] == [one_line(QUESTION)]
    for _, attributes in found.elements:
        for name in ("src", "href"):
            assert re.match(r"data:(image|text)/|#[\w-]+$", attributes.get(name) or "#a")
    cells = {text.replace("\u00a0", " ") for text in found.texts["td"]}
    assert {one_line(arm) for arm in ARMS} <= cells
    assert {shortened(arm) for arm in ARMS} <= set(found.texts["th"])


def test_a_csv_holds_names_as_they_are(folder):
    def rows(name):
        return list(csv.DictReader(io.StringIO((folder / "tables" / name).read_bytes().decode(), newline="")))

    assert [row["subject"] for row in rows("contrasts.csv")] == [
        arm.replace("\r", "\\r") for arm in ARMS if arm != ARMS[1]
    ]
    assert {row["classes"] for row in rows("cost.csv")} == {"+".join(level).replace("\r", "\\r") for level in LEVELS}
    for claim in rows("claims.csv"):
        if claim["kind"] == "Contrast" and "\\r" not in claim["subject"]:
            assert one_line(claim["subject"]) in claim["sentence"]


def test_a_csv_shows_carriage_returns_and_bytes_that_are_no_text_as_escapes():
    assert csv_text(pd.DataFrame({"name": ["\udcff", "é\rb", "=1+1", -1]})) == "name\n\\udcff\né\\rb\n=1+1\n-1\n"


def from_latex(cell: str) -> str:
    """Text of a cell, for checks; fails on what TeX would take for a command or a special character."""
    known = {
        "textbackslash": "\\", "textasciitilde": "~", "textasciicircum": "^", "textless": "<", "textgreater": ">",
        "textbar": "|", "textasciigrave": "`", "textquotesingle": "'", "ldots": "…",
    }  # fmt: skip
    pattern = re.compile(r"\\([a-z]+)\{\}|\\([&%$#_{}])|\{(''|[*\[\]])\}|-\{\}|\$-\$|([^\\&%$#_{}~^])")
    text, place = "", 0
    while place < len(cell):
        found = pattern.match(cell, place)
        assert found, cell[place:]
        command, special, braced, ordinary = found.groups()
        other = "-" if found[0] == "-{}" else "−"
        text += known[command] if command else special or (braced or "").replace("''", '"') or ordinary or other
        place = found.end()
    return text


def test_latex_holds_every_name_as_text(folder):
    text = (folder / "tables" / "contrasts.tex").read_text(encoding="utf-8")
    rows = [line.removesuffix(r" \\") for line in text.splitlines() if line.endswith(r" \\")]
    cells = [[from_latex(cell) for cell in re.split(r"(?<!\\) & ", row)] for row in rows]
    assert [row[0] for row in cells[1:]] == [one_line(arm) for arm in ARMS if arm != ARMS[1]]
    assert {len(row) for row in cells} == {10}
    for name in NAMES:
        assert from_latex(latex(name)) == one_line(name)


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
def test_latex_with_hostile_names_compiles(folder, tmp_path):
    rules = "".join(rf"\newcommand{{\{name}rule}}{{\hline}}" for name in ("top", "mid", "bottom"))
    paths = sorted(folder.glob("tables/*.tex"))
    tables = "\n\n".join(path.read_text(encoding="utf-8") for path in paths)
    starts = Table(["[a]", "*b"], [(name, name) for name in NAMES]).latex()
    (tmp_path / "all.tex").write_text(
        f"\\documentclass{{article}}\\usepackage{{textcomp}}{rules}\\begin{{document}}\n{tables}\n{starts}\n"
        "\\end{document}\n",
        encoding="utf-8",
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "all.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:]


def test_figures_draw_names_as_text(folder):
    for path in folder.glob("figures/*.svg"):
        root = ET.fromstring(path.read_bytes(), parser=ET.XMLParser(target=ET.TreeBuilder(insert_comments=True)))
        tags = {str(element.tag).rpartition("}")[2] for element in root.iter() if isinstance(element.tag, str)}
        assert tags <= SVG_TAGS
        attributes = {name for element in root.iter() if isinstance(element.tag, str) for name in element.attrib}
        assert not [name for name in attributes if name.startswith("on")]
        for image in root.iter("{http://www.w3.org/2000/svg}image"):
            assert image.attrib["{http://www.w3.org/1999/xlink}href"].startswith("data:image/png;base64,")
        if path.stem == "contrasts":
            drawn = {html.unescape(str(e.text)).strip() for e in root.iter() if not isinstance(e.tag, str)}
            expected = {re.sub("-(?=-)", "- ", shortened(arm)) for arm in ARMS if arm != ARMS[1]}
            assert expected <= drawn
            group = re.search(r"<!-- (classes \$x.*?) -->(.*?)<!--", path.read_text(encoding="utf-8"), re.S)
            assert group[2].count("<use ") == len(group[1])  # a glyph per character: no formula is set


def test_a_name_with_an_underscore_first_stays_in_the_legend():
    figure, _ = canvas(3.0)
    arm_legend(figure, {"_a": Mark("#000000", "o"), "$b$": Mark("#56B4E9", "s"), NAMES[-1]: Mark("#332288", "X")})
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["_a", "$b$", shortened(NAMES[-1])]


def test_a_comparison_holds_names_as_text(monkeypatch):
    results = hostile_study()
    monkeypatch.setattr(comparing, "load_results", lambda store, name: results)
    for first in LEVELS[:1] + LEVELS[2:]:
        text = comparing.compare(None, "+".join(first), f"classes={'+'.join(LEVELS[1])}", study="__init__", last=str)
        tokens = as_github(text)
        assert {token.type for token in inline(tokens)} == {"text", "strong_open", "strong_close"}
        assert text_of(tokens[1]).startswith("Two arms of study __init__. ")
        arms = [shortened(name_level("classes", level)) for level in (first, LEVELS[1])]
        assert table_cells(tokens, "depth")[0] == ["depth", *arms, "difference", "pairs"]
        assert text.isprintable() or set(filter(lambda c: not c.isprintable(), text)) <= {"\n", "\u00a0"}


FOLDERS = tuple(name.replace("/", "∕")[:200] for name in NAMES)


@pytest.fixture
def vitab(workplace, monkeypatch):
    monkeypatch.setattr("ablations.training.trainer.train", fake_trainer.train)
    names = FOLDERS[:4] + FOLDERS[12:15]
    pictures(workplace / "own", dict.fromkeys(names, 4))
    axes = "\n".join(f"classes = {json.dumps([[names[0], name] for name in names[1:]])}".splitlines())
    question = f"Which [bold]classes[/bold]? :smile: \x1b[31m\n{'x' * 300}"
    Path("own.toml").write_text(
        f'question = {json.dumps(question)}\nseeds = 2\n[base]\ndata = "folder"\nepochs = 2\ndepth = 1\nwidth = 16\n'
        f"heads = 1\nbatch_size = 4\npatch = 8\nvalidation = 0.3\n[axes]\n{axes}\n"
    )
    return lambda *arguments: CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})


def flat(text: str) -> str:
    """Printed text without what the width of the terminal did to it; no control character but line ends is left."""
    assert not [c for c in text if unicodedata.category(c) in ("Cc", "Cf") and c != "\n"]
    return re.sub(r"\s+", "", text)


def test_commands_print_names_of_folders_and_questions_as_text(vitab):
    run = ("run", "--grid", "own.toml", "--data-dir", "own", "--workers", "1")
    dry = vitab(*run, "--dry-run")
    assert dry.exit_code == 0, dry.output
    trained = vitab(*run)
    assert trained.exit_code == 0, trained.output
    status = vitab("status")
    for name in FOLDERS[1:4] + FOLDERS[12:15]:
        pair = visible(f"{FOLDERS[0]}+{name}")
        assert flat(pair) in flat(dry.stdout)
        assert flat(pair) in flat(trained.stdout)
    assert f"Which[bold]classes[/bold]?:smile:\\x1b[31m{'x' * 300}" in flat(status.stdout)
    wrong = vitab("compare", "\x1b[31m\n[bold]", "b", "--study", "own")
    assert (wrong.exit_code, wrong.stderr.count("\n")) == (2, 1)
    assert "unknown arm '\\x1b[31m\\n[bold]'" in wrong.stderr
    assert flat(wrong.stderr)
    report = vitab("report", "own", "--format", "html")
    assert report.exit_code == 0, report.output
    found = Page(Path("reports/own/report.html").read_text(encoding="utf-8"))
    assert {tag for tag, _ in found.elements} <= TAGS
    assert vitab("report", "own", "--check").exit_code == 0
    assert vitab("data", "sheet", "folder", "--data-dir", "own", "--out", "sheet.png").exit_code == 0


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: apt-get install chromium)")
def test_no_name_comes_alive_in_a_browser(folder, tmp_path):
    """The page in a frame: no payload fires, no element but those of a report is there, the title is the question."""
    found = in_browser((folder / "report.html").read_text(encoding="utf-8"), tmp_path)
    assert found["fired"] is False
    assert found["title"] == one_line(QUESTION)
    assert set(found["tags"]) <= {tag.upper() for tag in TAGS}
    assert [name for name in found["attributes"] if name.startswith("on")] == []
    assert {one_line(arm) for arm in ARMS} <= {text.replace("\u00a0", " ") for text in found["cells"]}
    assert found["wide"] is False


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: apt-get install chromium)")
def test_the_browser_finds_a_page_with_live_names(tmp_path):
    for payload in NAMES[:2]:
        found = in_browser(page(f"# {markdown(QUESTION)}\n\nx", {}).replace("<p>x", f"<p>{payload}"), tmp_path)
        assert found["fired"] is True


def in_browser(text: str, folder: Path) -> dict:
    script = """
      addEventListener("load", () => setTimeout(() => {
        const frame = document.querySelector("iframe"), page = frame.contentDocument;
        const all = [...page.querySelectorAll("*")];
        document.getElementById("found").textContent = JSON.stringify({
          fired: Boolean(window.fired || frame.contentWindow.fired),
          title: page.title,
          tags: [...new Set(all.map((element) => element.tagName))],
          attributes: [...new Set(all.flatMap((element) => element.getAttributeNames()))],
          cells: [...page.querySelectorAll("td")].map((cell) => cell.textContent),
          wide: page.documentElement.scrollWidth > frame.contentWindow.innerWidth,
        });
      }, 300));
    """
    path = folder / "frame.html"
    frame = f'<iframe width="1280" height="800" srcdoc="{html.escape(text)}"></iframe>'
    path.write_text(f"<!doctype html><meta charset=utf-8><pre id=found></pre>{frame}<script>{script}</script>")
    command = [str(CHROMIUM), *FLAGS.split(), f"--user-data-dir={folder / 'profile'}", "--window-size=1400,900"]
    done = subprocess.run([*command, path.as_uri()], capture_output=True, text=True, timeout=120)
    found = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.S)
    assert found is not None, done.stderr[-2000:]
    return json.loads(html.unescape(found[1]))
