"""The page of a report in a browser: a silent console, and nothing wider than the window, on a screen or a phone."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ablations.reporting.html import page
from ablations.reporting.report import pngs, write_report
from tests.support import synthetic_evaluations, synthetic_results, synthetic_tuning
from tests.support.rendering import rendered

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --enable-logging=stderr --v=0 --virtual-time-budget=5000 --dump-dom"
)
WIDTHS = (390, 1280)
REPORTS = Path(__file__).resolve().parents[2] / "docs" / "studies"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: apt-get install chromium)"),
]


def look(text: str, folder: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """A page in frames of several widths: what is measured in each, and the messages in the console."""
    frames = "".join(f'<iframe width="{width}" height="800" srcdoc="{html.escape(text)}"></iframe>' for width in WIDTHS)
    script = """
      addEventListener("load", () => {
        const found = [...document.querySelectorAll("iframe")].map((frame) => {
          const page = frame.contentDocument, images = [...page.images];
          return {
            window: frame.contentWindow.innerWidth,
            page: page.documentElement.scrollWidth,
            drawn: images.filter((image) => image.naturalWidth > 0).length,
            images: images.length,
            cut: [...page.querySelectorAll(".table")].filter((table) => table.scrollWidth > table.clientWidth)
              .map((table) => table.innerText.slice(0, 300)),
            smallest: Math.min(...[...page.querySelectorAll("p, li, td, th")].map(
              (element) => parseFloat(getComputedStyle(element).fontSize))),
          };
        });
        document.getElementById("found").textContent = JSON.stringify(found);
      });
    """
    path = folder / "frames.html"
    path.write_text(f"<!doctype html><meta charset=utf-8><pre id=found></pre>{frames}<script>{script}</script>")
    command = [str(CHROMIUM), *FLAGS.split(), f"--user-data-dir={folder / 'profile'}", "--window-size=1400,900"]
    done = subprocess.run([*command, path.as_uri()], capture_output=True, text=True, timeout=120)
    found = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.S)
    assert found is not None, done.stderr[-2000:]
    return json.loads(html.unescape(found[1])), re.findall(r".*CONSOLE.*", done.stderr)


def check(text: str, folder: Path) -> None:
    measured, console = look(text, folder)
    assert console == []
    assert [frame["window"] - 15 <= frame["page"] <= frame["window"] for frame in measured] == [True, True], measured
    assert all(frame["drawn"] == frame["images"] > 0 for frame in measured)
    assert all(frame["smallest"] >= 12 for frame in measured)
    assert measured[-1]["cut"] == []  # on a screen no table has to be scrolled


def test_a_report_with_missing_runs(incomplete_html, tmp_path):
    check((incomplete_html / "report.html").read_text(encoding="utf-8"), tmp_path)


def test_a_report_on_a_study_that_grew(grown, tmp_path):
    check(page((grown / "README.md").read_text(encoding="utf-8"), pngs(grown)), tmp_path)


def test_a_report_with_evaluations(tmp_path):
    results = synthetic_results.make()
    with rendered():
        folder = write_report(results, tmp_path, "html", evaluations=synthetic_evaluations.make(results))
    check((folder / "report.html").read_text(encoding="utf-8"), tmp_path)


def test_a_report_on_a_tuned_study(tmp_path):
    results = synthetic_tuning.pruned_study()
    folder = write_report(
        results, tmp_path, "html", tuning=synthetic_tuning.sources(results, synthetic_tuning.untuned(results))
    )
    check((folder / "report.html").read_text(encoding="utf-8"), tmp_path)


@pytest.mark.parametrize("folder", sorted(path.parent for path in REPORTS.glob("*/README.md")), ids=lambda p: p.name)
def test_reports_that_are_committed(folder, tmp_path):
    tables = {f"tables/{path.name}": path.read_bytes() for path in (folder / "tables").iterdir()}
    check(page((folder / "README.md").read_text(encoding="utf-8"), pngs(folder) | tables), tmp_path)


def test_a_page_that_is_too_wide_or_complains_is_found_out(tmp_path):
    text = "<!doctype html><body style='margin:0'><p style='width:700px'>wide</p><script>console.error('no')</script>"
    measured, console = look(text, tmp_path)
    assert [frame["page"] > frame["window"] for frame in measured] == [True, False]
    assert len(console) == 2
