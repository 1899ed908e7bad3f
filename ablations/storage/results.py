"""Load the results of a study for statistics and reports."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ablations.config import FIELDS, RunConfig, remember_descriptions
from ablations.errors import UsageError
from ablations.storage.store import METRICS, RESULT, Store
from ablations.storage.study_plan import StudyPlan
from ablations.storage.trials import TrialStore, load_trials

if TYPE_CHECKING:
    import pandas as pd

    from ablations.data.preprocessing import Preprocessing

EPOCH_KEYS = ("position", "depth", "patch", "seed")


@dataclass(frozen=True)
class Results:
    """What a study found, as far as it has got."""

    plan: StudyPlan
    runs: "pd.DataFrame"  # one row a finished run: key, the fields of RunConfig, RESULT, diverged (the epoch, or 0)
    epochs: "pd.DataFrame"  # one row an epoch of each: key, position, depth, patch, seed, METRICS
    missing: list[RunConfig] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)  # reasons by key
    environments: dict[str, dict[str, Any]] = field(default_factory=dict)  # by key
    checkpoint: Callable[[str], dict[str, np.ndarray]] = lambda key: {}  # the weights of the run of this key
    predictions: Callable[[str], dict[str, np.ndarray]] = lambda key: {}
    mistakes: Callable[[str], dict[str, np.ndarray] | None] = lambda key: None
    preprocessing: Callable[[str], "Preprocessing | None"] = lambda key: None
    trials: "pd.DataFrame | None" = None  # of a tuned study: one row a finished run of a trial, as `load_trials`


def load_results(store: Store, study: str) -> Results:
    """Everything a report needs, checksums verified; UsageError for a study with no finished run."""
    import pandas as pd

    plan = store.read_study(study)
    finished = {key: config for key, config in plan.runs.items() if store.done(key)}
    if not finished and plan.searching:
        trials = TrialStore.beside(store)
        done = sum(trials.done(run.key) for run in plan.trials)
        raise UsageError(
            f"study {study!r} has no finished run yet: its arms are being tuned, {done} of {plan.all_trial_runs} trial "
            f"runs have finished; resume it with: {plan.command}"
        )
    if not finished:
        raise UsageError(f"study {study!r} has no finished run yet; {store.describe_studies()}")
    runs: list[dict[str, Any]] = []
    epochs: list[dict[str, Any]] = []
    for key, config in finished.items():
        described = {name: getattr(config, name) for name in FIELDS}
        result = store.result(key)
        numbers = {name: result[name] for name in RESULT} | {"diverged": result.get("diverged") or 0}
        runs.append({"key": key} | described | numbers)
        arm = {"key": key} | {name: described[name] for name in EPOCH_KEYS}
        epochs.extend(arm | epoch for epoch in store.metrics(key))
    environments = {key: store.environment(key) for key in finished}
    for environment in environments.values():
        if encodings := environment.get("encodings"):
            remember_descriptions(encodings)
    failed = {key: reason for key in plan.keys if (reason := store.failure(key)) is not None}
    return Results(
        plan=plan,
        runs=pd.DataFrame(runs),
        epochs=pd.DataFrame(epochs, columns=["key", *EPOCH_KEYS, *METRICS]).astype({"epoch": int}),
        missing=[config for key, config in plan.runs.items() if key not in finished],
        failed=failed,
        environments=environments,
        checkpoint=store.checkpoint,
        predictions=store.predictions,
        mistakes=store.mistakes,
        preprocessing=store.preprocessing,
        trials=None if plan.tuning is None else load_trials(TrialStore.beside(store), plan.trials),
    )
