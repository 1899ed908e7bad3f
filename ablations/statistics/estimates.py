"""Point estimates: means per arm and cell, effect sizes, probability of improvement."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ablations.config import level_text
from ablations.statistics.intervals import t_interval
from ablations.statistics.outcomes import FloatArray, Outcomes
from ablations.statistics.setting_weights import estimate


def effect_size(differences: FloatArray) -> float:
    """Return Cohen's d_z: the estimate over the standard deviation of the paired differences; NaN if that is zero."""
    values = differences[np.isfinite(differences)]
    spread = values.std(ddof=1) if values.size > 1 else 0.0
    return estimate(differences) / float(spread) if spread > 1e-12 else np.nan


def probability_of_improvement(subject: FloatArray, reference: FloatArray) -> float:
    """Return the probability that a run of `subject` beats one of `reference` in the same setting; ties count half.

    Both are (G, S). Over all pairs of seeds, averaged over settings, as in rliable (Agarwal et al. 2021).
    """
    chances = []
    for a, b in zip(subject, reference, strict=True):
        a, b = a[np.isfinite(a)], b[np.isfinite(b)]
        if a.size and b.size:
            chances.append(float(np.mean((np.sign(a[:, None] - b[None, :]) + 1) / 2)))
    return float(np.mean(chances)) if chances else np.nan


def interquartile_mean(values: FloatArray) -> float:
    """Return the mean without the lowest and highest quarter (rounded down), as in rliable; NaN without values."""
    known = np.sort(values[np.isfinite(values)])
    cut = known.size // 4
    return float(known[cut : known.size - cut].mean()) if known.size else np.nan


def arm_means(outcomes: Outcomes) -> pd.DataFrame:
    """Return each arm's mean (settings weighted equally) and interquartile mean, over complete blocks."""
    whole = np.all(np.isfinite(outcomes.values), axis=0)
    rows = []
    for arm, level in enumerate(outcomes.arms):
        values = outcomes.values[arm][whole]
        mean = estimate(np.where(whole, outcomes.values[arm], np.nan))
        row = {"mean": mean, "interquartile_mean": interquartile_mean(values), "n": values.size}
        rows.append({outcomes.axis: level_text(level)} | row)
    return pd.DataFrame(rows)


def cell_means(outcomes: Outcomes) -> pd.DataFrame:
    """Return what was measured of every arm in every setting: mean, 95 % t interval within what is possible, sd, n."""
    rows = []
    for arm, level in enumerate(outcomes.arms):
        for cell, levels in enumerate(outcomes.cells):
            values = outcomes.values[arm, cell]
            values = values[np.isfinite(values)]
            low, high = t_interval(values)
            rows.append(
                {
                    outcomes.axis: level_text(level),
                    **dict(zip(outcomes.cell_axes, map(level_text, levels), strict=True)),
                    "mean": values.mean() if values.size else np.nan,
                    "low": max(low, outcomes.measure.lowest) if np.isfinite(low) else np.nan,
                    "high": min(high, outcomes.measure.highest) if np.isfinite(high) else np.nan,
                    "sd": values.std(ddof=1) if values.size > 1 else np.nan,
                    "n": values.size,
                }
            )
    return pd.DataFrame(rows)
