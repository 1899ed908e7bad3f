"""Pictures decoded once, into a file of the user's cache that is mapped into memory.

A folder of the cache belongs to one source at one geometry. It holds the pixels of the pictures that could be read, one
after the other, and a line about each picture. Both grow while pictures are decoded, so that a process that is killed
loses the last few pictures only; `meta.json` is written last and says that they are complete.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import chain, repeat
from pathlib import Path
from typing import BinaryIO

import numpy as np
import PIL
from numpy.typing import NDArray

from ablations.data import locations
from ablations.data.heartbeat import send_heartbeat
from ablations.data.pictures import CROP, decode, pillow_warnings
from ablations.data.reading_progress import report_progress
from ablations.data.sources import Content, Source
from ablations.errors import UsageError, VitabError
from ablations.machine import available_cores

FORMAT = 1
"""Of the files of the cache, and of the pixels that `decode` makes of a picture: to be raised when either changes."""
CHUNK_PICTURES, CHUNK_BYTES = 64, 4 << 20
"""Pictures that a thread decodes at a time: as many, but of no more bytes unless it is one."""
AHEAD = 2
"""Chunks for each thread that wait for it, or for their turn to be written."""
WRITE_BYTES, WRITE_SECONDS = 16 << 20, 1.0
"""Pixels that wait to be written, at most, and how long: what is lost if the process is killed."""

Record = tuple[int, int, str] | str
"""Width, height and kind of the pixels of a picture in its file; or the reason why it cannot be read."""


@dataclass(frozen=True)
class Geometry:
    """What every picture becomes: uint8 (image_size, image_size, channels), made square as `resize` says."""

    image_size: int
    channels: int
    resize: str = CROP

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.image_size, self.image_size, self.channels

    @property
    def bytes(self) -> int:
        return self.image_size**2 * self.channels


@dataclass(frozen=True, eq=False)
class DecodedPictures:
    """The pictures of a source that could be read, in an order, and what each was in its file.

    Args:
        images: uint8 (k, image_size, image_size, channels), mapped from a file if there is a cache.
        records: One for each of the n pictures asked for.
        folder: That of the cache, None if there is none.
    """

    images: NDArray[np.uint8]
    records: Sequence[Record]
    folder: Path | None = None

    @cached_property
    def readable(self) -> NDArray[np.bool_]:
        """Whether each of the n pictures could be read; `images` has those that could."""
        return np.array([not isinstance(record, str) for record in self.records], dtype=np.bool_)

    def fact(self, name: str) -> str | None:
        """Return what `remember` stored about these pictures, None if nothing was."""
        if self.folder is None:
            return None
        try:
            return str(json.loads((self.folder / "facts.json").read_bytes())[name])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def remember(self, name: str, value: str) -> None:
        """Store a fact about these pictures that takes long to find, if there is a cache that can be written."""
        if self.folder is None:
            return
        try:
            facts = json.loads((self.folder / "facts.json").read_bytes())
        except (OSError, ValueError):
            facts = {}
        with suppress(OSError):
            _write(self.folder / "facts.json", {**facts, name: value})


def decode_all(source: Source, order: NDArray[np.int64], geometry: Geometry) -> DecodedPictures:
    """Return the pictures of a source with these indices, from the cache if they are there, else decoded into it.

    Raises VitabError if there is too little space for them.
    """
    root = locations.decoded_folder()
    if root is None:
        return _decode_in_memory(source, order, geometry)
    name = re.sub(r"[^\w.-]+", "-", source.path.resolve().name)[:40]
    place = hashlib.sha256(repr((source.kind, str(source.path.resolve()), geometry)).encode()).hexdigest()[:12]
    folder = root / f"{name}-{place}"
    identity = _identity(source, order, geometry)
    if (found := _open(folder, identity, geometry)) is not None:
        return found
    with _locked(folder):
        if (found := _open(folder, identity, geometry)) is not None:  # another process has made them meanwhile
            return found
        _remove_orphans(root)
        _fill(folder, identity, source, order, geometry)
        found = _open(folder, identity, geometry)
    assert found is not None
    return found


def _identity(source: Source, order: NDArray[np.int64], geometry: Geometry) -> str:
    """Return the SHA-256 of all that the decoded pictures depend on."""
    digest = hashlib.sha256(repr((FORMAT, PIL.__version__, source.stamp, geometry)).encode())
    digest.update(np.ascontiguousarray(order).data)
    return digest.hexdigest()


def _open(folder: Path, identity: str, geometry: Geometry) -> DecodedPictures | None:
    """Return the complete pictures of this identity in a folder of the cache, None if they are not there."""
    try:
        meta = json.loads((folder / "meta.json").read_bytes())
        if meta["identity"] != identity:
            return None
        records = _parse((folder / f"{identity[:16]}.records").read_bytes())
        readable = sum(not isinstance(record, str) for record in records)
        pixels = folder / f"{identity[:16]}.pixels"
        if len(records) != meta["pictures"] or pixels.stat().st_size != readable * geometry.bytes:
            return None
        shape = (readable, *geometry.shape)
        mapped = np.memmap(pixels, np.uint8, "r", shape=shape) if readable else np.empty(shape, np.uint8)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return DecodedPictures(np.asarray(mapped), records, folder)


def _fill(folder: Path, identity: str, source: Source, order: NDArray[np.int64], geometry: Geometry) -> None:
    """Decode the pictures into a folder of the cache, from where an earlier process was interrupted."""
    started = {name: folder / f"{identity[:16]}.{name}.part" for name in ("pixels", "records")}
    try:
        for path in folder.iterdir():
            if path.name not in ("lock", "meta.json") and path not in started.values():
                path.unlink(missing_ok=True)
        with started["pixels"].open("ab+") as pixels, started["records"].open("ab+") as lines:
            done = _resume(pixels, lines, geometry)
            _check_space(folder, (len(order) - done) * geometry.bytes)
            for chunk in _decoded(source, order, geometry, done, folder):
                pixels.writelines(image.data for image, _ in chunk if image is not None)
                pixels.flush()  # before the lines that say that they are there
                lines.write(b"".join(json.dumps(record).encode() + b"\n" for _, record in chunk))
                lines.flush()
            for file in (pixels, lines):
                os.fsync(file.fileno())
        for path in started.values():
            path.replace(path.with_suffix(""))
        _write(folder / "meta.json", {"identity": identity, "pictures": len(order), "path": str(source.path.resolve())})
    except OSError as error:
        raise _unusable(folder, error) from error


def _resume(pixels: BinaryIO, lines: BinaryIO, geometry: Geometry) -> int:
    """Cut both files to the pictures that are whole in both, and return how many that are."""
    lines.seek(0)
    content = lines.read()
    records = content.split(b"\n")[:-1]  # what follows the last line break is not complete
    room = pixels.seek(0, os.SEEK_END) // geometry.bytes
    kept = readable = 0
    for record in records:
        readable_here = readable + (not record.startswith(b'"'))
        if readable_here > room:
            break
        kept, readable = kept + 1, readable_here
    lines.truncate(sum(len(record) + 1 for record in records[:kept]))
    pixels.truncate(readable * geometry.bytes)
    for file in (lines, pixels):
        file.seek(0, os.SEEK_END)
    return kept


def _decode_in_memory(source: Source, order: NDArray[np.int64], geometry: Geometry) -> DecodedPictures:
    images = np.empty((len(order), *geometry.shape), dtype=np.uint8)
    records: list[Record] = []
    readable = 0
    for chunk in _decoded(source, order, geometry, 0, None):
        for image, record in chunk:
            if image is not None:
                images[readable] = image
                readable += 1
            records.append(record)
    return DecodedPictures(images[:readable], records)


Pair = tuple[NDArray[np.uint8] | None, Record]


def _decoded(
    source: Source, order: NDArray[np.int64], geometry: Geometry, first: int, folder: Path | None
) -> Iterator[list[Pair]]:
    """Yield the pictures from the `first` on with their records, many at a time; None for one that cannot be read."""
    threads = available_cores()
    finished: list[Pair] = []
    done, written = first, time.monotonic()
    total, size = len(order), len(order) * geometry.bytes
    report_progress(source.path, done, total, size, folder)
    with pillow_warnings(), ThreadPoolExecutor(threads) as pool:
        coming: deque[Future[list[Pair]]] = deque()
        for chunk in chain(_chunks(source, order[first:]), repeat(None)):
            if chunk is not None:
                coming.append(pool.submit(_decode_chunk, chunk, geometry))
                if len(coming) <= AHEAD * threads:
                    continue
            if coming:
                finished += coming.popleft().result()
                send_heartbeat()
            at_end = chunk is None and not coming
            waiting = len(finished) * geometry.bytes
            if at_end or waiting > WRITE_BYTES or time.monotonic() > written + WRITE_SECONDS:
                yield finished
                done, written, finished = done + len(finished), time.monotonic(), []
                report_progress(source.path, done, total, size, folder)
            if at_end:
                return


def _chunks(source: Source, order: NDArray[np.int64]) -> Iterator[list[Content | str]]:
    """Yield the contents of pictures, a few at a time, with the reason for one that cannot be read."""
    chunk: list[Content | str] = []
    size = 0
    for i in order.tolist():
        try:
            content = source.read(i)
            chunk.append(content)
            size += len(content) if isinstance(content, bytes) else content.nbytes
        except (OSError, UsageError) as error:
            chunk.append(getattr(error, "strerror", None) or str(error))
        if len(chunk) == CHUNK_PICTURES or size > CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _decode_chunk(contents: Sequence[Content | str], geometry: Geometry) -> list[Pair]:
    return [_decode(content, geometry) for content in contents]


def _decode(content: Content | str, geometry: Geometry) -> Pair:
    if isinstance(content, str):
        return None, content
    try:
        found = decode(content, **asdict(geometry))
    except ValueError as error:
        return None, " ".join(str(error).split())
    return found.pixels, (found.width, found.height, found.mode)


def _parse(lines: bytes) -> list[Record]:
    """Return the records in a file of them."""
    rows = json.loads(b"[" + b",".join(lines.splitlines()) + b"]")
    return [row if isinstance(row, str) else tuple(row) for row in rows]


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let one process at a time decode into a folder; the system releases the lock of one that ends."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "lock").open("a")
    except OSError as error:
        raise _unusable(folder, error) from error
    with file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                send_heartbeat()
                time.sleep(0.2)
            except OSError as error:
                raise _unusable(folder, error) from error
        yield


def _unusable(folder: Path, error: OSError) -> VitabError:
    return VitabError(
        f"cannot write decoded pictures to {folder} ({error.strerror or error}); set XDG_CACHE_HOME to use another "
        "folder"
    )


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise VitabError(
            f"the decoded pictures need {needed / 1e9:.1f} GB in {folder}, which has {free / 1e9:.1f} GB free; set "
            "XDG_CACHE_HOME to use another folder, or choose a smaller image_size"
        )


def _remove_orphans(root: Path) -> None:
    """Remove the decoded pictures of folders and files that do not exist any more."""
    for meta in root.glob("*/meta.json"):
        try:
            if not Path(json.loads(meta.read_bytes())["path"]).exists():
                shutil.rmtree(meta.parent, ignore_errors=True)
        except (OSError, ValueError, KeyError, TypeError):
            continue


def _write(path: Path, value: object) -> None:
    """Write all of a JSON file or leave what was there."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(value))
    temporary.replace(path)
