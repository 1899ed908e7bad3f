"""Load what finished runs have left: tables for pandas, and trained models."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ablations.models import TrainedModel, find_run
from ablations.storage import Results, Store, load_results

if TYPE_CHECKING:
    import pandas as pd


def load_runs(runs: str | Path = "runs", study: str | None = None) -> "pd.DataFrame":
    """Return the finished runs of a study.

    `runs` is the folder of the runs, and `study` the name of the study: by default the last one planned of those that
    have a finished run. Columns:

    - key: 64 hexadecimal digits; the first 16 are the name of the folder of the run
    - every field of the configuration: position, depth, patch, ..., seed
    - test_accuracy, test_loss, validation_accuracy: shares from 0 to 1, and mean cross-entropy
    - parameters, flops: of the model, and of the whole training
    - train_seconds, seconds: of the training steps, and of the whole run
    - diverged: the epoch in which the loss was not finite, 0 for a run that was trained to the end

    Raises UsageError if there is no such study, or none of its runs has finished, and VitabError if a file is damaged.
    """
    return results_of(runs, study).runs


def load_epochs(runs: str | Path = "runs", study: str | None = None) -> "pd.DataFrame":
    """Return the epochs of the finished runs of a study, with arguments and errors as `load_runs`.

    Columns: key, position, depth, patch and seed of the run, epoch (counted from 1), learning_rate (of its last step),
    train_loss (with label smoothing, dropout and augmentation), validation_loss, validation_accuracy (0 to 1), seconds
    and images_per_s.
    """
    return results_of(runs, study).epochs


def load_predictions(runs: str | Path = "runs", study: str | None = None) -> "pd.DataFrame":
    """Return what each finished run of a study predicts for each test image, with arguments and errors as `load_runs`.

    Columns:

    - key of the run, position, the other axes of the study that vary, seed
    - image: index of the test image
    - label, predicted: index of its class, and of the most probable one
    - probability, probability_of_label: of the predicted class, and of its own (float32)
    """
    import pandas as pd

    results = results_of(runs, study)
    parts = []
    for key in results.runs["key"]:
        found = results.predictions(key)
        labels, predicted, probabilities = found["labels"], found["predicted"], found["probabilities"]
        image = np.arange(len(labels))
        columns = {
            "key": key,
            "image": image,
            "label": labels,
            "predicted": predicted,
            "probability": probabilities[image, predicted],
            "probability_of_label": probabilities[image, labels],
        }
        parts.append(pd.DataFrame(columns))
    return _with_arms(results, pd.concat(parts))


def load_evaluations(runs: str | Path = "runs", study: str | None = None) -> "pd.DataFrame":
    """Return what evaluation protocols have measured on the runs of a study, with arguments and errors as `load_runs`.

    There are no rows for runs that diverged, nor for measurements by other code than the present. Columns: key of the
    run, position, the other axes of the study that vary, seed, protocol, metric, value. `vitab protocols` describes the
    metrics.
    """
    from ablations.evaluation import load_evaluations as measured

    results = results_of(runs, study)
    return _with_arms(results, measured(Store(Path(runs)), results.plan).values)


def load_model(
    run: str, runs: str | Path = "runs", study: str | None = None, data_dir: str | Path | None = None
) -> TrainedModel:
    """Return the model of a finished run, on the CPU in float32, with its preprocessing.

    `run` is the key of the run or its first characters, or an arm of the study, such as "rope,depth=4,seed=0": a
    positional encoding and fields of the configuration. The default of the seed is the smallest; other fields that
    vary must be given. The default of `study` is the last one planned. `data_dir` is the folder of the dataset's files,
    which only runs of older versions need, because they have not stored their normalisation. Raises UsageError if no
    run, or more than one, is meant, and VitabError if the run diverged or its files are damaged.
    """
    store = Store(Path(runs))
    return TrainedModel.load(store, find_run(store, run, study), None if data_dir is None else Path(data_dir))


def results_of(runs: str | Path, study: str | None = None) -> Results:
    """Return the results of a study, as a report has them."""
    from ablations.commands.report import last_study

    store = Store(Path(runs))
    return load_results(store, last_study(store) if study is None else study)


def _with_arms(results: Results, rows: "pd.DataFrame") -> "pd.DataFrame":
    """Return rows about runs with the axes that vary and the seed of each run, in the order of the runs."""
    from ablations.execution.plan import shown_axes

    arms = results.runs[["key", *dict.fromkeys([*shown_axes(results.plan), "seed"])]]
    return arms.merge(rows, on="key")
