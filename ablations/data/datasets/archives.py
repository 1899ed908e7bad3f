"""Named files out of a folder or a tar archive, with limits and checksums; nothing is unpacked to disk."""

import hashlib
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from ablations.errors import UsageError


def md5_of(path: Path) -> str:
    """MD5 of a file in hex: the checksum that the publishers of these data sets give."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def read_folder(folder: Path, limits: Mapping[str, int]) -> dict[str, bytes]:
    """Read those files of ``limits`` that are in ``folder``; return their contents by name.

    Args:
        limits: The most bytes each file may have.

    Raises:
        UsageError: if a file is larger than its limit, or cannot be read.
    """
    contents = {}
    for name, limit in limits.items():
        path = folder / name
        if not path.is_file():
            continue
        try:
            _check_size(path, path.stat().st_size, limit)
            contents[name] = path.read_bytes()
        except OSError as error:
            raise UsageError(f"cannot read {path}: {error.strerror}") from error
    return contents


def read_tar(archive: Path, limits: Mapping[str, int]) -> dict[str, bytes]:
    """Like `read_folder`, from a tar archive of any compression, by the last part of the members' names.

    Only plain files are read, into memory: links, devices and absolute paths in the archive do nothing.

    Raises:
        UsageError: if the archive is damaged or truncated, or a member is larger than its limit.
    """
    contents: dict[str, bytes] = {}
    try:
        with tarfile.open(archive, "r|*") as tar:
            for member in tar:
                name = PurePosixPath(member.name).name
                if not member.isfile() or name not in limits:
                    continue
                _check_size(archive / name, member.size, limits[name])
                file = tar.extractfile(member)
                contents[name] = file.read() if file else b""
                if len(contents[name]) != member.size:
                    raise EOFError(f"{name} ends early")
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise UsageError(f"{archive}: damaged or truncated ({error}); delete it and fetch or copy it again") from error
    return contents


def check_md5(path: Path, expected: str) -> None:
    """Refuse a file whose MD5 is not the published one.

    Raises:
        UsageError: naming the file and both checksums.
    """
    found = md5_of(path)
    if found != expected:
        raise UsageError(
            f"{path}: MD5 must be {expected} (published {path.name}), got {found}; delete the file and "
            "download it again, or, if it is your own dataset, rename it and pass its path to --data-dir"
        )


def _check_size(path: Path, size: int, limit: int) -> None:
    if size > limit:
        raise UsageError(f"{path}: {size:,} bytes, the published file has at most {limit:,}; fetch it again")
