"""A report as one HTML file that needs nothing beside it: figures, tables and style are inside."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from itertools import pairwise

from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock
from markdown_it.token import Token

_STYLE = """
:root { color-scheme: light dark; --ink: #1f2328; --soft: #59636e; --line: #d1d9e0; --page: #fff; --band: #f6f8fa;
  --link: #0969da }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --soft: #9198a1; --line: #3d444d; --page: #0d1117;
  --band: #151b23; --link: #4493f8 } }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 60rem; padding: 1.5rem 1.25rem 4rem; color: var(--ink); background: var(--page);
  font: 1rem/1.55 system-ui, sans-serif; overflow-wrap: break-word }
h1 { font-size: 1.75rem; line-height: 1.25 }
h2 { margin-top: 2.2em; padding-bottom: .25em; border-bottom: 1px solid var(--line) }
a { color: var(--link) }
li { margin: .35em 0 }
img { display: block; width: auto; max-width: 100%; height: auto; max-height: 44rem; background: #fff;
  border-radius: 6px; padding: 6px }
em { color: var(--soft) }
.table { overflow-x: auto; margin: 1em 0; background-repeat: no-repeat;
  background-attachment: local, local, scroll, scroll;
  background-position: left, right, left, right; background-size: 2rem 100%, 2rem 100%, .8rem 100%, .8rem 100%;
  background-image: linear-gradient(90deg, var(--page) 60%, transparent), linear-gradient(270deg, var(--page) 60%,
  transparent), linear-gradient(90deg, var(--line), transparent), linear-gradient(270deg, var(--line), transparent) }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums }
th, td { padding: .35em .55em; border-bottom: 1px solid var(--line); white-space: nowrap }
details th, details td { padding: .35em .4em; font-size: .85rem }
td.long { white-space: normal; min-width: 12rem; max-width: 24rem; overflow-wrap: anywhere }
td[style*="left"]:last-child { white-space: normal; min-width: 12rem }
thead th { border-bottom: 2px solid var(--line); white-space: normal; vertical-align: bottom }
pre { overflow-x: auto; padding: .8em 1em; background: var(--band); border-radius: 6px }
code { font: .875em ui-monospace, monospace; overflow-wrap: anywhere }
summary { cursor: pointer }
blockquote { margin: 1em 0; padding: .1em 1em; border-left: .25em solid var(--line) }
@media (max-width: 40rem) { body { padding: 1rem .8rem 3rem } h1 { font-size: 1.4rem }
  th, td { padding: .3em .5em } ul { padding-left: 1.2rem } img { padding: 2px } }
"""
_ICON = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg'/%3E"
_KINDS = {"png": "image/png", "csv": "text/csv", "tex": "text/x-tex"}


LONG_CELL = 60
"""Characters of a cell beyond which it may take several lines."""
_ADDED = re.compile(r"</?details>|<summary>[^<>]*</summary>")
"""Lines of HTML that the template adds to the markdown; all other HTML is text."""
_TOGETHER = re.compile(r"(?<=\d) (?=%)|(?<=\bp [=<]) (?=\d)|(?<=\bp) (?=[=<] ?\d)|(?<=<) (?=\d)")
"""Spaces inside a number with its sign, where no line ends."""


def page(markdown: str, files: Mapping[str, bytes]) -> str:
    """Return README.md as a page with `files` (bytes by the path that the markdown links them with) put inside.

    A linked table becomes a download; an image loses its link to the vector file, which is not inside.
    """
    parser = _parser()
    parser.block.ruler.before("paragraph", "added", _added, {"alt": ["paragraph"]})
    tokens = parser.parse(markdown)
    titles = []
    for heading, inline in pairwise(tokens):
        if heading.type == "heading_open":
            text = "".join(child.content for child in inline.children or ())
            if heading.tag == "h1":
                titles.append(text)
            else:
                heading.attrSet("id", _anchor(text))
    for token in tokens:
        if token.children:
            token.children = list(_inside(token.children, files))
    for cell, inline in pairwise(tokens):
        if cell.type == "td_open" and len(inline.content) > LONG_CELL:
            cell.attrSet("class", "long")
    body = str(parser.renderer.render(tokens, parser.options, {}))
    body = body.replace("<table>", '<div class="table" tabindex="0"><table>').replace("</table>", "</table></div>")
    title = escape(titles[0] if titles else "Report")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<title>{title}</title>\n<link rel="icon" href="{_ICON}">\n<style>{_STYLE}</style>\n</head>\n'
        f"<body>\n{body}</body>\n</html>\n"
    )


def fragment(markdown: str) -> str:
    """Return markdown as HTML to be put into a page; HTML in it is text."""
    return str(_parser().render(markdown))


def _parser() -> MarkdownIt:
    return MarkdownIt("commonmark", {"html": False}).enable("table")


def _added(state: StateBlock, line: int, last: int, silent: bool) -> bool:
    """Rule of the parser for the lines of HTML that the template adds."""
    text = state.src[state.bMarks[line] + state.tShift[line] : state.eMarks[line]]
    if not _ADDED.fullmatch(text):
        return False
    if not silent:
        state.push("html_block", "", 0).content = f"{text}\n"
        state.line = line + 1
    return True


def _inside(tokens: Sequence[Token], files: Mapping[str, bytes]) -> Iterator[Token]:
    """Tokens of a line, with links into `files` replaced by what they lead to, and without links to vector files."""
    unlinked = False
    for token in tokens:
        if token.type == "link_open":
            path = str(token.attrs["href"])
            unlinked = path.endswith(".svg")
            if path in files:
                token.attrs |= {"href": _data(path, files[path]), "download": path.rpartition("/")[2]}
        if token.type == "image" and (path := str(token.attrs["src"])) in files:
            token.attrs["src"] = _data(path, files[path])
        if token.type == "text":
            token.content = _TOGETHER.sub("\u00a0", token.content)
        if token.children:
            token.children = list(_inside(token.children, files))
        if not (unlinked and token.type in ("link_open", "link_close")):
            yield token


def _data(path: str, content: bytes) -> str:
    return f"data:{_KINDS[path.rpartition('.')[2]]};base64,{base64.b64encode(content).decode()}"


def _anchor(heading: str) -> str:
    """Return the anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
