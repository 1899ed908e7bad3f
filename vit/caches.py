"""Cache folders, with a fallback if the usual one cannot be written (read-only installation, no home directory)."""

import logging
import os
import stat
import tempfile
from functools import cache
from pathlib import Path

_logger = logging.getLogger("vit")  # without a handler, its warnings are lines on stderr
_NOTED = "VITAB_CACHE_NOTED"
"""Environment variable: the cache folder that this process, or the one that started it, has said it cannot write."""


def user_cache() -> Path:
    """Return the cache folder of the user, which may not exist; it starts with ~ if there is no home directory."""
    from platformdirs import user_cache_path

    try:
        return user_cache_path("vitab", appauthor=False)
    except RuntimeError:
        return Path("~/.cache/vitab")


def is_writable(folder: Path) -> bool:
    """Return whether files can be created in a folder, which is created if it does not exist."""
    if folder.parts[:1] == ("~",):  # there is no home directory
        return False
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return False
    return True


def writable_cache() -> Path | None:
    """Return the user's cache folder, or else a private one under the temporary directory.

    Returns None if neither can be written. Logs a warning, once in this process and those that it starts, if it is not
    the user's cache folder.
    """
    usual = user_cache()
    return usual if is_writable(usual) else _replacement(usual)


@cache
def _replacement(usual: Path) -> Path | None:
    found = _private_temporary_folder()
    place = f"using {found}" if found else "every process compiles the CPU kernels again"
    advice = "set XDG_CACHE_HOME to use another folder"
    if os.environ.get(_NOTED) != str(usual):
        _logger.warning("note: cannot write the cache folder %s; %s (%s)", usual, place, advice)
        os.environ[_NOTED] = str(usual)
    return found


def _private_temporary_folder() -> Path | None:
    """Return a temporary folder that only this user can read and write, or None.

    Compiled kernels are loaded from it, so a folder or link that another user created there is rejected.
    """
    try:
        folder = Path(tempfile.gettempdir()) / f"vitab-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError:
        return None
    private = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o077
    return folder if private and is_writable(folder) else None
