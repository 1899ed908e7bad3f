"""Runs and studies on disk: written atomically, verified by checksum, with the environment they were made in."""

from ablations.storage.consistency import (
    require_one_version,
    stale_runs,
    stale_runs_warning,
    stale_trials,
    version_conflicts,
)
from ablations.storage.evaluations import EvaluationStore
from ablations.storage.files import (
    file_sha256,
    read_json,
    remove_leftovers,
    storage_errors,
    sync_folder,
    to_json,
    write_file,
)
from ablations.storage.records import EpochMetrics, RunRecord, TrainingRecord, TrialRecord
from ablations.storage.results import Results, load_results
from ablations.storage.store import FILES, LATER_FILES, METRICS, RESULT, Store
from ablations.storage.study_plan import StudyPlan, TrialRun
from ablations.storage.trials import TrialStore, load_trials, trial_key
from ablations.storage.verification import config_of, evaluations_of, find_key, finished_keys, problems, readable_config

__all__ = [
    "FILES",
    "LATER_FILES",
    "METRICS",
    "RESULT",
    "EpochMetrics",
    "EvaluationStore",
    "Results",
    "RunRecord",
    "Store",
    "StudyPlan",
    "TrainingRecord",
    "TrialRecord",
    "TrialRun",
    "TrialStore",
    "config_of",
    "evaluations_of",
    "file_sha256",
    "find_key",
    "finished_keys",
    "load_results",
    "load_trials",
    "problems",
    "read_json",
    "readable_config",
    "remove_leftovers",
    "require_one_version",
    "stale_runs",
    "stale_runs_warning",
    "stale_trials",
    "storage_errors",
    "sync_folder",
    "to_json",
    "trial_key",
    "version_conflicts",
    "write_file",
]
