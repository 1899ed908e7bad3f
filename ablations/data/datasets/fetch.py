"""Downloads that can be interrupted: into the user's cache, checked against published checksums.

Nothing else in the project opens a network connection, and this does so only when it is called.
"""

import http.client
import logging
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ablations.errors import VitabError
from vit.caches import is_writable

Progress = Callable[[str, int, int | None], None]
CHUNK = 1 << 20
TIMEOUT_SECONDS = 60


@dataclass(frozen=True)
class Remote:
    """A published file: its address and its published MD5 (hex)."""

    url: str
    md5: str

    @property
    def file(self) -> str:
        """The last part of the address."""
        return self.url.rsplit("/", 1)[-1]


def fetch(remotes: Sequence[Remote], folder: Path, on_progress: Progress | None = None) -> list[Path]:
    """Bring files into ``folder``; those that are there with the right checksum are left alone.

    A file arrives under ``<name>.part`` and is renamed once its checksum is right, so an interrupted fetch
    leaves nothing that could be mistaken for the file, and the next one resumes where it stopped.

    Args:
        on_progress: Called with (file name, bytes so far, bytes in all or None) about once a mebibyte.

    Raises:
        VitabError: if a file cannot be had, or its checksum is not the published one.
    """
    import pooch

    missing = [remote for remote in remotes if not (folder / remote.file).exists()]
    if missing and not is_writable(folder):
        raise VitabError(
            f"cannot write {folder}; set XDG_CACHE_HOME to a folder that can be written, "
            f"or download {', '.join(remote.url for remote in missing)} and give its folder as --data-dir"
        )
    pooch.get_logger().setLevel(logging.WARNING)
    paths = []
    for remote in remotes:
        part = folder / f"{remote.file}.part"

        def download(url: str, output_file: str, _: object, part: Path = part) -> None:
            _resume(url, part, on_progress)
            part.replace(output_file)

        try:
            folder.mkdir(parents=True, exist_ok=True)
            found = pooch.retrieve(
                remote.url,
                known_hash=f"md5:{remote.md5}",
                fname=remote.file,
                path=os.fspath(folder),
                downloader=download,
            )
        except ValueError as error:
            raise VitabError(
                f"{remote.url}: the downloaded file does not match the published MD5 {remote.md5} "
                "and was deleted; run the same command again"
            ) from error
        except (OSError, http.client.HTTPException) as error:
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            raise VitabError(
                f"{remote.url}: {reason}; run the same command again to resume, or copy the file to {folder}"
            ) from error
        paths.append(Path(found))
    return paths


def _resume(url: str, part: Path, on_progress: Progress | None) -> None:
    """Append to ``part`` what it lacks of ``url``; start over where the server cannot resume."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            if error.headers.get("Content-Range") == f"bytes */{have}":
                return
            part.unlink()
            return _resume(url, part, on_progress)
        raise
    with response:
        resumed = response.status == http.HTTPStatus.PARTIAL_CONTENT
        have = have if resumed else 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        with part.open("ab" if resumed else "wb") as file:
            while chunk := response.read(CHUNK):
                file.write(chunk)
                have += len(chunk)
                if on_progress:
                    on_progress(url.rsplit("/", 1)[-1], have, total)
    if total is not None and have < total:
        raise OSError(f"the connection closed after {have:,} of {total:,} bytes")
