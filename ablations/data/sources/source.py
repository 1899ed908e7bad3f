"""Source: a listing of labelled pictures, none of them decoded."""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ablations.errors import UsageError

Content = bytes | NDArray[Any]
"""A picture as its source holds it: an encoded file, or an array (h, w) or (h, w, c) of any numeric type."""

PARTS = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class Source:
    """Names, labels and parts of n pictures, and a way to read each of them.

    Args:
        kind: The name of the kind, such as ``"csv"``.
        path: The file or folder that was given.
        names: One name for each picture, unique, and the same on every machine: a path relative to ``path``, or the
            place in an array or a table.
        labels: int64 (n,), indices into ``class_names``.
        parts: One of ``PARTS`` for each picture (n,), or all ``""`` where the source has no parts.
        class_names: In label order.
        read: ``read(i)`` returns the content of picture i. It can be called by several threads, and is fast in
            ascending order only. Raises OSError or UsageError if that picture cannot be read.
        files: The files that hold the contents.
        groups: A name (n,) for what pictures belong to, such as a patient. Those of a group stay in one part.
        grouped_by: What names the groups, for people, such as ``"column patient"``.
        own_parts: Whether the parts came with the source; else a test part was cut off.
        skipped: Numbers of what was passed over, by reason, such as ``".txt"`` or ``"without a label"``, for
            `skipped_text`.

    Raises:
        UsageError: if there are fewer than two classes, or a name is not text in UTF-8.
    """

    kind: str
    path: Path
    names: Sequence[str] = field(repr=False)
    labels: NDArray[np.int64] = field(repr=False)
    parts: NDArray[np.str_] = field(repr=False)
    class_names: tuple[str, ...] = field(repr=False)
    read: Callable[[int], Content] = field(repr=False)
    files: Sequence[str] = field(repr=False)
    groups: NDArray[np.str_] | None = field(default=None, repr=False)
    grouped_by: str = ""
    own_parts: bool = True
    skipped: Mapping[str, int] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if len(self.class_names) < 2:
            raise UsageError(
                f"{self.path}: there must be pictures of at least 2 classes, got {len(self.class_names)}"
                + "".join(f" ({name!r})" for name in self.class_names)
            )
        try:
            "\0".join([*self.class_names, *self.names]).encode()
        except UnicodeEncodeError as error:
            odd = next(name for name in [*self.class_names, *self.names] if not name.isprintable())
            raise UsageError(f"{self.path}: names must be text in UTF-8, got {odd!r}; rename it") from error

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def stamp(self) -> str:
        """SHA-256 of the listing, and of the sizes and times of the files: it changes when a picture may have changed.

        Files that do not exist count as such.
        """
        digest = hashlib.sha256(repr((self.kind, self.class_names)).encode())
        for array in (self.labels, self.parts) if self.groups is None else (self.labels, self.parts, self.groups):
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        digest.update("\0".join(self.names).encode(errors="surrogateescape"))
        for file in self.files:
            try:
                status = os.stat(file)  # noqa: PTH116 (a hundred thousand of them)
                digest.update(f"\0{file}\0{status.st_size}\0{status.st_mtime_ns}".encode(errors="surrogateescape"))
            except OSError:
                digest.update(f"\0{file}\0".encode(errors="surrogateescape"))
        return digest.hexdigest()

    def without(self, left_out: Sequence[int] | NDArray[np.int64], reason: str) -> "Source":
        """Return the source without some of its pictures, which are counted as skipped for a reason."""
        kept = np.setdiff1d(np.arange(len(self)), np.asarray(left_out, dtype=np.int64))
        read = self.read
        return replace(
            self,
            names=[self.names[i] for i in kept],
            labels=self.labels[kept],
            parts=self.parts[kept],
            groups=None if self.groups is None else self.groups[kept],
            read=lambda i: read(int(kept[i])),
            skipped={**self.skipped, reason: self.skipped.get(reason, 0) + len(self) - len(kept)},
        )
