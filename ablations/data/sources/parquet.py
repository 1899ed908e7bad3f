"""Parquet tables as on the Hugging Face Hub: a file, or a folder of shards.

A column of images, as encoded bytes or as ``{bytes, path}``, and one of labels. Names of classes come from the metadata
that the library `datasets` writes (ClassLabel). The parts are told by the names of shards (``train-00000-of-00002``) or
of their folders, or by a column. Images are read from the file a few at a time.
"""

import json
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ablations.config.columns import parse_columns
from ablations.data.heartbeat import send_heartbeat
from ablations.data.sources.files import is_ignored
from ablations.data.sources.forward import Forward
from ablations.data.sources.labels import as_text, numbered
from ablations.data.sources.part_names import part_of, part_within
from ablations.data.sources.source import Content, Source
from ablations.data.sources.table import choose_columns, groups_from, parts_from
from ablations.errors import UsageError

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

KINDS = ("image", "label", "split", "group")
AT_ONCE = 64
"""Images of a table that are in memory at once."""
BUFFER = 1 << 20


def find(path: Path) -> Path | None:
    """Return the file, or the folder if there are such files in it."""
    if path.is_dir():
        return path if _shards(path) else None
    return path if path.suffix == ".parquet" else None


def read(path: Path, columns: str = "") -> Source:
    """List the images of a table.

    Args:
        columns: As the field of a run: names of columns, where they are not to be guessed.

    Raises:
        UsageError: if pyarrow is not installed, or the table cannot be understood.
    """
    shards = _shards(path) if path.is_dir() else [path]
    if not shards:
        raise UsageError(f"--data-dir must be a .parquet file or a folder of them, got {path}")
    tables = [_open(shard) for shard in shards]
    schema = tables[0].schema_arrow
    for shard, table in zip(shards, tables, strict=True):
        if table.schema_arrow.names != schema.names:
            raise UsageError(
                f"{shard}: the columns are {', '.join(table.schema_arrow.names)}, and in {shards[0].name} "
                f"{', '.join(schema.names)}; all files must have the same"
            )
    features = _features(schema.metadata)
    chosen = choose_columns(str(path), schema.names, KINDS, _with_image_column(columns, features))
    _check_types(path, schema, chosen)
    class_names = _class_names(features.get(chosen["label"], {}))
    of_shards = _parts_of(path, shards) if "split" not in chosen else [""] * len(shards)

    names: list[str] = []
    values: dict[str, list[str]] = {kind: [] for kind in ("label", "split", "group") if kind in chosen}
    parts: list[str] = []
    rows: list[np.ndarray] = []
    skipped: Counter[str] = Counter()
    for shard, table, part in zip(shards, tables, of_shards, strict=True):
        texts = _texts(shard, table, {kind: chosen[kind] for kind in values})
        labelled = [text not in ("", "-1") if class_names else text != "" for text in texts["label"]]
        kept = np.flatnonzero(labelled)
        skipped["without a label"] += len(labelled) - len(kept)
        place = shard.relative_to(path).as_posix() if path.is_dir() else shard.name
        names += [f"{place}[{row}]" for row in kept]
        for kind, column in texts.items():
            values[kind] += [column[row] for row in kept]
        parts += [part] * len(kept)
        rows.append(kept)
        send_heartbeat()
    if not names:
        raise UsageError(f"{path}: no row has a label")
    found, labels = _numbered(path, values["label"], class_names)
    given = (
        np.array(parts, dtype="<U10")
        if "split" not in chosen
        else parts_from(str(path), chosen["split"], values["split"])
    )
    starts = np.cumsum([0, *map(len, rows[:-1])]).tolist()
    readers = [Forward(partial(_stream, shard, chosen["image"]), partial(_damaged, shard)) for shard in shards]

    def read_one(i: int) -> Content:
        shard = bisect_right(starts, i) - 1
        while not len(rows[shard]):  # shards without a labelled row start at the same place
            shard -= 1
        content = readers[shard](int(rows[shard][i - starts[shard]]))
        if not content:
            raise UsageError("the row has no image")
        return content

    return Source(
        kind="parquet",
        path=path,
        names=names,
        labels=labels,
        parts=given,
        class_names=found,
        read=read_one,
        files=[str(shard) for shard in shards],
        groups=groups_from(values["group"], names) if "group" in values else None,
        grouped_by=f"column {chosen['group']}" if "group" in values else "",
        skipped={reason: number for reason, number in skipped.items() if number},
    )


def _shards(folder: Path) -> list[Path]:
    found = sorted(file for file in folder.rglob("*.parquet") if file.is_file())
    return [file for file in found if not any(map(is_ignored, file.relative_to(folder).parts))]


def _open(path: Path) -> "ParquetFile":
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise UsageError("--data parquet needs the package pyarrow: pip install 'vitab[parquet]'") from error
    try:
        return pq.ParquetFile(path, buffer_size=BUFFER, pre_buffer=False)
    except (pa.ArrowException, OSError) as error:
        raise UsageError(f"{path}: not a readable Parquet file ({_one_line(error)})") from error


def _texts(path: Path, table: "ParquetFile", columns: Mapping[str, str]) -> dict[str, list[str]]:
    """Read columns of a table as text."""
    import pyarrow as pa

    try:
        read = table.read(columns=list(columns.values()), use_threads=False)
        return {kind: [as_text(value) for value in read.column(name).to_pylist()] for kind, name in columns.items()}
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _damaged(path, error) from error


def _features(metadata: dict[bytes, bytes] | None) -> dict[str, dict[str, Any]]:
    """Return what `datasets` has written about each column; nothing where it did not write the table."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError):
        return {}
    return {name: feature for name, feature in features.items() if isinstance(feature, dict)}


def _with_image_column(columns: str, features: dict[str, dict[str, Any]]) -> str:
    """Return names of columns with that of the images, if none is named and the metadata says which it is."""
    images = [name for name, feature in features.items() if feature.get("_type") == "Image"]
    return columns if "image" in parse_columns(columns) or len(images) != 1 else f"{columns},image={images[0]}"


def _class_names(feature: dict[str, Any]) -> list[str]:
    names = feature.get("names", []) if feature.get("_type") == "ClassLabel" else []
    return [str(name) for name in (names.values() if isinstance(names, dict) else names)]


def _check_types(path: Path, schema: Any, chosen: Mapping[str, str]) -> None:
    """Raise UsageError if images are not bytes, or labels are not numbers or text."""
    import pyarrow.types as types

    image, label = (schema.field(chosen[kind]).type for kind in ("image", "label"))
    inner = image.field("bytes").type if types.is_struct(image) and image.get_field_index("bytes") >= 0 else image
    if not (types.is_binary(inner) or types.is_large_binary(inner)):
        raise UsageError(f"{path}: the column {chosen['image']!r} must hold bytes or {{bytes, path}}, got {image}")
    if types.is_nested(label) or types.is_binary(label):
        raise UsageError(f"{path}: the column {chosen['label']!r} must hold one number or text for a row, got {label}")


def _numbered(path: Path, texts: list[str], class_names: list[str]) -> tuple[tuple[str, ...], np.ndarray]:
    if not class_names:
        return numbered(texts)
    if odd := [text for text in dict.fromkeys(texts) if not text.isdecimal() or int(text) >= len(class_names)]:
        raise UsageError(
            f"{path}: labels must be 0 to {len(class_names) - 1} by the names of the classes, got {odd[0]}"
        )
    return tuple(class_names), np.array([int(text) for text in texts], dtype=np.int64)


def _parts_of(path: Path, shards: Sequence[Path]) -> list[str]:
    """Return the part of each shard by its folders or its name; nothing for a single file, or if none has one."""
    if not path.is_dir():
        return [""]
    parts = []
    for shard in shards:
        *folders, name = shard.relative_to(path).parts
        stem = name.removesuffix(".parquet")
        words = [part_of(folder) for folder in folders] + [part_of(re.split(r"[-_.]", stem)[0]), part_within(stem)]
        parts.append(next((word for word in words if word), ""))
    if any(parts) and not all(parts):
        odd = [shard.name for shard, part in zip(shards, parts, strict=True) if not part]
        raise UsageError(f"{path}: some files are named after a part and some are not: {', '.join(odd[:10])}")
    return parts


def _stream(path: Path, column: str, start: int) -> tuple[int, Iterator[Content]]:
    table = _open(path)
    sizes = [table.metadata.row_group(group).num_rows for group in range(table.num_row_groups)]
    ends = np.cumsum(sizes).tolist()
    group = bisect_right(ends, start)

    def images() -> Iterator[Content]:
        batches = table.iter_batches(AT_ONCE, row_groups=range(group, len(sizes)), columns=[column], use_threads=False)
        for batch in batches:
            for value in batch.column(0).to_pylist():
                yield _bytes(path, value)

    return (ends[group - 1] if group else 0), images()


def _bytes(path: Path, value: Any) -> bytes:
    """Return the bytes of a row, or those of the file that it names; nothing if it has neither."""
    if not isinstance(value, dict):
        return value or b""
    if value.get("bytes") is None and value.get("path"):
        file = path.parent / value["path"]
        return file.read_bytes() if file.is_file() else b""
    return value.get("bytes") or b""


def _damaged(path: Path, error: Exception) -> Exception:
    return UsageError(f"{path}: damaged ({_one_line(error)})")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
