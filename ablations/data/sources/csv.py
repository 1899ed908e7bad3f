"""A CSV with a row for each picture: its file, relative to the CSV, its label, and maybe its part and its group.

Columns are separated by commas, semicolons, tabs or bars, in UTF-8, or UTF-16 with a mark. Paths may have backslashes,
and need no suffix where one of the known ones gives a file.
"""

import csv
import os
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ablations.data.heartbeat import send_heartbeat
from ablations.data.pictures import SUFFIXES
from ablations.data.sources.files import only_file
from ablations.data.sources.labels import numbered
from ablations.data.sources.source import Source
from ablations.data.sources.table import choose_columns, groups_from, parts_from
from ablations.errors import UsageError

DELIMITERS = ",;\t|"
KINDS = ("file", "label", "split", "group")


def find(path: Path) -> Path | None:
    """Return the file if its name is that of a table, or the only .csv of a folder."""
    if path.is_dir():
        found = sorted(path.glob("*.csv"))
        return found[0] if len(found) == 1 else None
    return path if path.suffix.lower() in (".csv", ".tsv", ".txt") else None


def read(path: Path, columns: str = "") -> Source:
    """List the pictures of a CSV.

    Args:
        columns: As the field of a run: names of columns, where they are not to be guessed.

    Raises:
        UsageError: if the CSV cannot be understood, a file has two rows, or no file exists.
    """
    path = only_file(path, ".csv")
    rows = _rows(path)
    header = next(rows, [])
    chosen = choose_columns(str(path), header, KINDS, columns)
    where = {kind: header.index(name) for kind, name in chosen.items()}
    values: dict[str, list[str]] = {kind: [] for kind in where}
    skipped: Counter[str] = Counter()
    for row in rows:
        if not row[where["label"]]:
            skipped["without a label"] += 1
        elif not row[where["file"]]:
            skipped["without a file"] += 1
        else:
            for kind, column in where.items():
                values[kind].append(row[column])
    root, files, known = str(path.parent), [], []
    for i, text in enumerate(values["file"]):
        if not i % 1000:
            send_heartbeat()
        file = _resolve(root, text)
        suffix = os.path.splitext(file)[1].lower()  # noqa: PTH122
        if suffix in SUFFIXES:
            files.append(file)
            known.append(i)
        else:
            skipped[suffix or "without a suffix"] += 1
    if not known:
        raise UsageError(f"{path}: no row has a picture and a label" + _first(values["file"]))
    values = {kind: [column[i] for i in known] for kind, column in values.items()}
    names = [os.path.normpath(text.replace("\\", "/")) for text in values["file"]]
    _check_files(path, files, names)
    class_names, labels = numbered(values["label"])
    parts = np.full(len(names), "", dtype="<U10")
    if "split" in values:
        parts = parts_from(str(path), chosen["split"], values["split"])
    return Source(
        kind="csv",
        path=path,
        names=names,
        labels=labels,
        parts=parts,
        class_names=class_names,
        read=lambda i: Path(files[i]).read_bytes(),
        files=[str(path), *files],
        groups=groups_from(values["group"], names) if "group" in values else None,
        grouped_by=f"column {chosen['group']}" if "group" in values else "",
        skipped=dict(skipped),
    )


def _rows(path: Path) -> Iterator[list[str]]:
    """Yield the header and the rows, all of one length, without spaces around the values; empty lines are left out."""
    with path.open("rb") as file:
        start = file.read(2)
    encoding = "utf-16" if start in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    line = 1
    try:
        with path.open(encoding=encoding, newline="") as text:
            first = text.readline()
            delimiter = max(DELIMITERS, key=lambda d: len(next(csv.reader([first], delimiter=d), [])))
            text.seek(0)
            reader = csv.reader(text, delimiter=delimiter, strict=True)
            length = 0
            for row in reader:
                line = reader.line_num
                if not any(map(str.strip, row)):
                    continue
                length = length or len(row)
                if len(row) != length:
                    raise UsageError(
                        f"{path}, line {line}: {len(row)} values where the header has {length} columns; a "
                        f"value with {delimiter!r} in it needs quotes"
                    )
                yield [value.strip() for value in row]
    except UnicodeError as error:
        raise UsageError(f"{path}: must be UTF-8 text ({error}); save it as 'CSV UTF-8'") from error
    except csv.Error as error:
        raise UsageError(f"{path}, after line {line}: not a readable CSV ({error})") from error


def _resolve(root: str, text: str) -> str:
    """Return the file that a text in a CSV names, by the first way to read it by which there is one."""
    plain = os.path.join(root, text.replace("\\", "/"))  # noqa: PTH118
    if os.path.isfile(plain):  # noqa: PTH113
        return plain
    suffixes = [""] if os.path.splitext(plain)[1].lower() in SUFFIXES else ["", *sorted(SUFFIXES)]  # noqa: PTH122
    for start in (plain, os.path.join(root, text)):  # noqa: PTH118
        for form in dict.fromkeys((start, unicodedata.normalize("NFC", start), unicodedata.normalize("NFD", start))):
            for suffix in suffixes:
                if os.path.isfile(form + suffix):  # noqa: PTH113
                    return form + suffix
    return plain


def _check_files(path: Path, files: list[str], names: list[str]) -> None:
    if not any(map(os.path.exists, files)):
        raise UsageError(
            f"{path}: none of the {len(files):,} files exists in {path.parent}, to which paths are relative; the first "
            f"is {names[0]}"
        )
    if twice := [name for name, number in Counter(names).items() if number > 1]:
        raise UsageError(
            f"{path}: a file must have one row and one label, got several rows for {', '.join(twice[:10])}"
            + (f", ... ({len(twice):,} in all)" if len(twice) > 10 else "")
        )


def _first(texts: list[str]) -> str:
    return f"; the first file is {texts[0]!r}" if texts else ""
