"""`vitab verify`: check the files of finished runs, trials and evaluations."""

from pathlib import Path

from ablations.commands.base import FAILED, echo, stop
from ablations.commands.options import Runs, Study


def verify(study: Study = None, runs: Runs = Path("runs")) -> None:
    """Check that the files of finished runs, trials and evaluations are intact.

    They must match their checksums and be readable.
    """
    from ablations.config import count
    from ablations.reporting.formatting import listed
    from ablations.storage import EvaluationStore, Store, TrialStore, evaluations_of, finished_keys, problems

    store = Store(runs)
    evaluations = EvaluationStore.beside(store)
    keys, unreadable = finished_keys(store)
    plan = None if study is None else store.read_study(study)
    planned = None if plan is None else set(plan.keys)
    if planned is not None:
        folders = {store.folder(key) for key in planned}
        keys, unreadable = [key for key in keys if key in planned], [path for path in unreadable if path in folders]
    evaluated, unreadable_evaluations = evaluations_of(evaluations, planned)
    trials = TrialStore.beside(store)
    tried, unreadable_trials = finished_keys(trials)
    if plan is not None:
        tried = [run.key for run in plan.trials if trials.done(run.key)]
        own = {trials.folder(run.key) for run in plan.trials}
        unreadable_trials = [path for path in unreadable_trials if path in own]
    totals, damaged = [], []
    for place, what, intact, lost in (
        (store, "finished run", keys, unreadable),
        (trials, "trial run", tried, unreadable_trials),
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
        stop(f"{listed(damaged)} are damaged; delete their folders", FAILED)
    echo(f"all files of {listed(totals)} are intact")
