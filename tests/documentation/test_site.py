"""The documentation site: it builds without warnings, and every link leads somewhere."""

import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

pytest.importorskip("myst_nb", reason="needs pip install -e '.[docs]'")
ROOT = Path(__file__).parents[2]


class Page(HTMLParser):
    """The links and anchors of a page, and what a browser loads with it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        self.anchors |= {found[name] or "" for name in ("id", "name") if name in found}
        self.links += [found[name] or "" for name in ("href", "src") if name in found]
        if tag in ("script", "img") and "src" in found:
            self.loaded.append(found["src"] or "")
        if tag == "link" and found.get("rel") == "stylesheet":
            self.loaded.append(found["href"] or "")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; a warning fails the build."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-c", "docs", ".", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


@pytest.mark.slow
def test_links_lead_to_files_and_anchors_of_the_site(site: Path) -> None:
    pages = {path: Page(path) for path in site.rglob("*.html") if not {"_downloads", "_static"} & {*path.parts}}
    assert len(pages) > 20
    broken = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or link.startswith("data:"):
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchor = unquote(parts.fragment)
            if not target.exists() or (anchor and target in pages and anchor not in pages[target].anchors):
                broken.append(f"{path.relative_to(site)}: {link}")
    assert broken == []


@pytest.mark.slow
def test_the_site_needs_no_network(site: Path) -> None:
    """Scripts, styles and images are local, and formulas are MathML."""
    loaded = [link for path in site.rglob("*.html") if "_static" not in path.parts for link in Page(path).loaded]
    assert loaded
    assert [link for link in loaded if urlsplit(link).netloc] == []
    assert not any("mathjax" in link.lower() for link in loaded)
