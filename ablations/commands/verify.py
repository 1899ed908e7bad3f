"""`vitab verify`: check the files of finished runs."""

from pathlib import Path

from ablations.commands.base import FAILED, echo, stop
from ablations.commands.options import Runs, Study


def verify(study: Study = None, runs: Runs = Path("runs")) -> None:
    """Check that the files of finished runs are intact.

    They must match their checksums and be readable.
    """
    from ablations.storage import Store, finished_keys, problems

    store = Store(runs)
    keys, unreadable = finished_keys(store)
    if study is not None:
        planned = set(store.read_study(study).keys)
        folders = {store.folder(key) for key in planned}
        keys, unreadable = [key for key in keys if key in planned], [path for path in unreadable if path in folders]
    bad = {store.folder(key): found for key in keys if (found := problems(store, key))}
    bad |= {path: ["DONE.json is damaged"] for path in unreadable}
    for path, found in bad.items():
        echo(f"{path}: {'; '.join(found)}")
    if bad:
        stop(
            f"{len(bad)} of {len(keys) + len(unreadable)} finished runs are damaged; delete their folders",
            FAILED,
        )
    echo(f"all files of {len(keys)} finished runs are intact")
