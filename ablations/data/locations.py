"""Where data sets lie on this machine, and what is said when one does not."""

from collections.abc import Iterable
from pathlib import Path

from ablations.errors import UsageError
from vit.caches import user_cache


def cache_folder(name: str) -> Path:
    """The folder of the user's cache that ``vitab data fetch`` fills for one data set; it need not exist."""
    return user_cache() / "data" / name


def search_folder(name: str, data_dir: Path | None) -> Path:
    """Where to look: ``data_dir``, or the cache when none is given.

    Raises:
        UsageError: if ``data_dir`` is given and does not exist.
    """
    if data_dir is None:
        return cache_folder(name)
    if not data_dir.exists():
        raise UsageError(f"--data-dir: {data_dir} does not exist; valid: the folder or archive of {name}")
    return data_dir


def not_found(name: str, searched: Path, wanted: Iterable[str]) -> UsageError:
    """The line for a data set that is not there: where it was looked for, and what to do."""
    return UsageError(
        f"{name}: not found in {searched} (looked for {', '.join(wanted)}); "
        f"run `vitab data fetch {name}` or give --data-dir"
    )
