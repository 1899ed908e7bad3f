"""The median rule: the validation accuracy that a run must have reached by each epoch, from runs of earlier rounds.

It is that of Google Vizier (Golovin et al. 2017, section 3.2) and of Optuna's MedianPruner: a run ends after an epoch
if the best accuracy that it has had is below the median accuracy of earlier runs after that epoch. The thresholds are
known before a run begins, so that it ends at the same epoch wherever and whenever it is trained.
"""

from collections.abc import Sequence

import numpy as np

WARM_UP = 1 / 2
"""Share of the epochs in which no run is ended: with a cosine decay, high learning rates catch up late."""


def median_thresholds(curves: Sequence[Sequence[float]], epochs: int, warmup_epochs: float = 0.0) -> tuple[float, ...]:
    """Return the threshold of each epoch, 0 where a run is not ended: while it warms up, and after the last epoch.

    `curves` are the validation accuracies of earlier runs of the same arm, setting and seed after each epoch; those
    that did not reach the last epoch do not count. Empty if there is none that did.
    """
    whole = [curve for curve in curves if len(curve) == epochs]
    if not whole:
        return ()
    median = np.median(np.array(whole, dtype=np.float64), axis=0)
    first = max(round(WARM_UP * epochs), int(np.ceil(warmup_epochs)))
    median[: max(first - 1, 0)] = 0.0
    median[-1] = 0.0
    return tuple(map(float, median))
