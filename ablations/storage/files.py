"""Files that are whole or absent: temporary sibling, sync, rename."""

import errno
import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ablations.errors import StorageError
from ablations.machine import exists


def write_file(path: Path, content: bytes, check: Callable[[], None] = lambda: None) -> str:
    """Write all of a file or leave what was there.

    Returns the SHA-256 of the file. The file has reached the disk when this returns. Raises OSError, and what `check`
    raises; it is called directly before the file appears, since the write before it may take long.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        # A plain descriptor: an interruption between opening and closing leaves no file object that would complain
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            left = memoryview(content)
            while left:
                left = left[os.write(descriptor, left) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        check()
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)
    return hashlib.sha256(content).hexdigest()


def to_json(value: Any) -> bytes:
    """Return a value as indented JSON, keys in its order, with a final newline."""
    return (json.dumps(value, indent=2) + "\n").encode()


def read_json(path: Path) -> Any:
    """Return the value in a JSON file; None when it cannot be read or is not JSON."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hex; empty when it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


@contextmanager
def storage_errors(what: str) -> Iterator[None]:
    """Turn an OSError in this context into a StorageError, one line with `what` failed and why."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"{what}: {error.strerror or error}") from error


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to the disk, where the file system can do that. Raises OSError."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise
        finally:
            os.close(handle)


def remove_leftovers(folder: Path) -> None:
    """Remove what processes of this machine that are gone, or this one, were writing to a folder. Raises OSError."""
    for path in folder.glob(".*.tmp"):
        pid = path.name.split(".")[-3]
        if not pid.isdecimal() or int(pid) == os.getpid() or not exists(int(pid)):
            path.unlink(missing_ok=True)
