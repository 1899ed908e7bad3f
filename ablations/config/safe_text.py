"""Text from outside (names of classes, arms, studies and folders, questions, reasons) as text in each output format.

Whatever it holds is shown and never interpreted. HTML is rendered from `markdown`. Figures show `shortened` names and
interpret no formulas. A CSV holds names as they are, quoted by the CSV writer.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata

LONGEST = 40
"""Characters of a name in a figure or in the header of a table."""

_HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
_JOINERS = "\u200c\u200d"

_MARKDOWN = re.compile(
    r"""
    [\\`*\[\]|~$]                       # code, emphasis, links, columns, strikethrough, formulas
    | (?<![^\W_])_ | _(?![^\W_])        # emphasis; not inside a word
    | [<&](?!\s)                        # tags and entities
    | ^\#(?=\#{0,5}(\s|$)) | \#(?=\#*$)  # headings
    | ^[-+](?=\s|$|-) | ^>              # lists, rules, quotes
    | :(?=//) | (?<=\bwww)\.            # addresses, which GitHub turns into links
    """,
    re.VERBOSE | re.IGNORECASE,
)

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "*": "{*}",
    "[": "{[}",
    "]": "{]}",
    "`": r"\textasciigrave{}",
    "'": r"\textquotesingle{}",
    '"': "{''}",
    "−": "$-$",
    "×": r"$\times$",
    "±": r"$\pm$",
    "–": "--",
    "…": r"\ldots{}",
}


def visible(text: object) -> str:
    r"""Return text with control and formatting characters shown as escapes, such as `\x1b`, `\n` or `\u202e`."""
    line = str(text)
    return line if line.isprintable() else "".join(map(_visible, line))


def _visible(character: str) -> str:
    if unicodedata.category(character) in _HIDDEN and character not in _JOINERS:
        return character.encode("unicode_escape").decode()
    return character


def one_line(text: object) -> str:
    """Return text with each run of white space as one space, and other hidden characters as escapes.

    Text of white space alone is quoted: `' '`.
    """
    line = str(text)
    folded = " ".join(line.split())
    return visible(folded) if folded or not line else repr(line)


def shortened(text: object, longest: int = LONGEST) -> str:
    """Return text as one line of at most `longest` characters.

    A longer text ends in an ellipsis and six digits of its checksum, which keep long names apart that start alike.
    """
    line = one_line(text)
    if len(line) <= longest:
        return line
    digest = hashlib.sha256(str(text).encode(errors="surrogatepass")).hexdigest()[:6]
    return f"{line[: longest - 7]}…{digest}"


def markdown(text: object) -> str:
    """Return text as GitHub's markdown: one line, with a backslash before each character that would be markup there."""
    return re.sub(r"^(\d{1,9})([.)])(?=\s|$)", r"\1\\\2", _MARKDOWN.sub(r"\\\g<0>", one_line(text)))


def bold(text: object) -> str:
    """Return text as bold markdown."""
    return f"**{markdown(text)}**"


def code(text: object) -> str:
    """Return text as a code span of markdown."""
    line = one_line(text)
    fence = "`" * (_longest_backticks(line) + 1)
    space = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{space}{line}{space}{fence}"


def code_block(text: str) -> str:
    """Return lines as a code block of markdown."""
    fence = "`" * max(3, _longest_backticks(text) + 1)
    return f"{fence}\n{text}\n{fence}"


def plain(text: str) -> str:
    """Return a sentence of `markdown` and `bold` parts without its markup."""
    return re.sub(r"\\([!-/:-@\[-`{-~])|\*\*", lambda found: found[1] or "", text)


def latex(text: object) -> str:
    """Return text for LaTeX, hyphens unjoined; characters beyond Latin letters need XeLaTeX or LuaLaTeX."""
    return re.sub("(-)(?=-)|(.)", lambda found: "-{}" if found[1] else _LATEX.get(found[2], found[2]), one_line(text))


def _longest_backticks(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)
