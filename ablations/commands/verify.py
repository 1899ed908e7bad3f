"""`vitab verify`: check the files of finished runs and evaluations."""

from pathlib import Path

from ablations.commands.base import FAILED, echo, stop
from ablations.commands.options import Runs, Study


def verify(study: Study = None, runs: Runs = Path("runs")) -> None:
    """Check that the files of finished runs and evaluations are intact.

    They must match their checksums and be readable.
    """
    from ablations.config import count
    from ablations.storage import EvaluationStore, Store, evaluations_of, finished_keys, problems

    store = Store(runs)
    evaluations = EvaluationStore.beside(store)
    keys, unreadable = finished_keys(store)
    planned = None if study is None else set(store.read_study(study).keys)
    if planned is not None:
        folders = {store.folder(key) for key in planned}
        keys, unreadable = [key for key in keys if key in planned], [path for path in unreadable if path in folders]
    evaluated, unreadable_evaluations = evaluations_of(evaluations, planned)
    totals, damaged = [], []
    for place, what, intact, lost in (
        (store, "finished run", keys, unreadable),
        (evaluations, "evaluation", evaluated, unreadable_evaluations),
    ):
        bad = {place.folder(key): found for key in intact if (found := problems(place, key))}
        bad |= {path: ["DONE.json is damaged"] for path in lost}
        for path, found in bad.items():
            echo(f"{path}: {'; '.join(found)}")
        total = len(intact) + len(lost)
        totals += [count(total, what)] * (place is store or total > 0)
        damaged += [f"{len(bad)} of {count(total, what)}"] * bool(bad)
    if damaged:
        stop(f"{' and '.join(damaged)} are damaged; delete their folders", FAILED)
    echo(f"all files of {' and '.join(totals)} are intact")
