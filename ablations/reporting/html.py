"""A report as one HTML file that needs nothing beside it: figures, tables and style are inside."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from html import escape

from markdown_it import MarkdownIt

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


def page(markdown: str, files: Mapping[str, bytes]) -> str:
    """README.md as a page with `files` (bytes by the path that the markdown links them with) put inside.

    A linked table becomes a download; a picture loses its link to the vector file, which is not inside.
    """
    title = next((line[2:] for line in markdown.splitlines() if line.startswith("# ")), "Report")
    unlinked = re.sub(r"\[(!\[[^\]]*\]\([^)]*\))\]\([^)]*\.svg\)", r"\1", markdown)
    body = str(MarkdownIt("commonmark", {"html": True}).enable("table").render(unlinked))
    body = body.replace("<table>", '<div class="table" tabindex="0"><table>').replace("</table>", "</table></div>")
    body = re.sub(r"(?<=\d) (?=%)|(?<=\bp [=<]) (?=\d)|(?<=\bp) (?=(?:[=<]|&lt;) ?\d)|(?<=&lt;) (?=\d)", "\u00a0", body)
    body = re.sub(r"<h([23])>(.*?)</h\1>", lambda m: f'<h{m[1]} id="{_anchor(m[2])}">{m[2]}</h{m[1]}>', body)
    for path, content in files.items():
        inside = f"data:{_KINDS[path.rpartition('.')[2]]};base64,{base64.b64encode(content).decode()}"
        name = path.rpartition("/")[2]
        body = body.replace(f'src="{path}"', f'src="{inside}"')
        body = body.replace(f'href="{path}"', f'href="{inside}" download="{name}"')
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<title>{escape(title)}</title>\n<link rel="icon" href="{_ICON}">\n<style>{_STYLE}</style>\n</head>\n'
        f"<body>\n{body}</body>\n</html>\n"
    )


def _anchor(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    text = re.sub(r"<[^>]+>", "", heading).lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
