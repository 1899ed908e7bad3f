"""Where datasets are on this machine, and the message if one is not found."""

from collections.abc import Iterable
from pathlib import Path

from ablations.errors import UsageError
from vit.caches import user_cache, writable_cache


def cache_folder(name: str) -> Path:
    """Return the cache folder of a dataset, which ``vitab data fetch`` fills; it need not exist."""
    return user_cache() / "data" / name


def decoded_folder() -> Path | None:
    """Return the cache folder of decoded pictures, which need not exist; None if no folder can be written."""
    cache = writable_cache()
    return None if cache is None else cache / "pictures"


def search_folder(name: str, data_dir: Path | None) -> Path:
    """Return the folder to search: ``data_dir``, or the cache if None.

    Raises:
        UsageError: if ``data_dir`` is given and does not exist.
    """
    if data_dir is None:
        return cache_folder(name)
    if not data_dir.exists():
        raise UsageError(f"--data-dir must be the folder or archive of {name}, got {data_dir}, which does not exist")
    return data_dir


def not_found(name: str, searched: Path, wanted: Iterable[str]) -> UsageError:
    """Return the error for a missing dataset: where it was searched, and what to do."""
    return UsageError(
        f"{name}: not found in {searched} (looked for {', '.join(wanted)}); "
        f"run `vitab data fetch {name}` or give --data-dir"
    )
