"""Estimates and tests for paired runs.

Differences are in percentage points and come as (G cells, S seeds) with NaN for an incomplete block. The
sign-flip tests are vectorised; SciPy and statsmodels are what they are tested against.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd

from ablations.intervals import LEVEL, paired_interval, t_interval
from ablations.outcomes import FloatArray, Outcomes, level_text
from ablations.power import MARGIN, equivalence_p, seeds_needed, smallest_p

ALPHA = round(1 - LEVEL, 10)
EXACT_BLOCKS = 16
_FLIPS = 2**EXACT_BLOCKS


def sign_flip_p(differences: FloatArray, seed: int = 0) -> float:
    """Two-sided p of the paired permutation test: how often do random signs give a mean as far from zero?

    Exact up to 16 blocks, beyond that from 65,535 random sign patterns and the observed one. NaN without blocks.
    """
    values = differences[np.isfinite(differences)]
    n = values.size
    if n == 0:
        return np.nan
    threshold = abs(values.sum()) - 1e-9 * np.abs(values).sum()
    if n <= EXACT_BLOCKS:
        sums = np.zeros(1)
        for value in values:
            sums = np.concatenate([sums + value, sums - value])
        return float(np.mean(np.abs(sums) >= threshold))
    rng = np.random.default_rng(seed)
    extreme, left = 1, _FLIPS - 1
    batch = max(1, 2**22 // n)
    while left:
        rows = min(batch, left)
        bits = np.unpackbits(np.frombuffer(rng.bytes(rows * (-(-n // 8))), np.uint8).reshape(rows, -1), axis=1)
        sums = 2 * (bits[:, :n] @ values) - values.sum()
        extreme += int(np.count_nonzero(np.abs(sums) >= threshold))
        left -= rows
    return extreme / _FLIPS


def joint_sign_flip_p(differences: FloatArray, seed: int = 0) -> FloatArray:
    """p values of k paired means, (k, n blocks) with NaN, adjusted for testing all k at once.

    One sign a block flips all its differences together; a p is the share of flips whose largest mean is at least
    the one observed (the single-step procedure of Westfall and Young). It knows that the k means are correlated,
    so its smallest p is that of one test, where Holm's is k times that. Exact up to 16 blocks. NaN without blocks.
    """
    known = np.isfinite(differences)
    used = known.any(axis=0)
    values = np.where(known, differences, 0.0)[:, used] / np.maximum(known.sum(axis=1, keepdims=True), 1)
    n = values.shape[1]
    observed = np.abs(values.sum(axis=1))
    threshold = observed - 1e-9 * np.abs(values).sum(axis=1)
    if n <= EXACT_BLOCKS:
        sums = np.zeros((len(values), 1))
        for block in values.T:
            sums = np.concatenate([sums + block[:, None], sums - block[:, None]], axis=1)
    else:
        signs = np.random.default_rng(seed).integers(0, 2, (_FLIPS - 1, n), dtype=np.int8) * 2 - 1
        sums = np.column_stack([observed, values @ signs.T])
    largest = np.abs(sums).max(axis=0, initial=0.0)
    p = (largest[None, :] >= threshold[:, None]).mean(axis=1)
    return np.where(known.any(axis=1), p, np.nan)


def holm(p_values: Sequence[float]) -> FloatArray:
    """Holm's adjusted p values of a family; NaN stays NaN and does not count as a member.

    What statsmodels' `multipletests` gives, without the garbage collection that it runs on every call.
    """
    p = np.asarray(p_values, dtype=float)
    adjusted = np.full(p.shape, np.nan)
    known = np.isfinite(p)
    places = np.flatnonzero(known)[np.argsort(p[known], kind="stable")]
    steps = p[places] * np.arange(places.size, 0, -1)
    adjusted[places] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


def effect_size(differences: FloatArray) -> float:
    """Cohen's d_z: mean over standard deviation of the paired differences; NaN where that has no value."""
    values = differences[np.isfinite(differences)]
    spread = values.std(ddof=1) if values.size > 1 else 0.0
    return float(values.mean() / spread) if spread > 1e-12 else np.nan


def probability_of_improvement(subject: FloatArray, reference: FloatArray) -> float:
    """Chance that a run of `subject` beats one of `reference` in the same cell, averaged over cells; ties half.

    Both are (G, S). Every seed meets every seed, as in rliable (Agarwal et al. 2021).
    """
    chances = []
    for a, b in zip(subject, reference, strict=True):
        a, b = a[np.isfinite(a)], b[np.isfinite(b)]
        if a.size and b.size:
            chances.append(float(np.mean((np.sign(a[:, None] - b[None, :]) + 1) / 2)))
    return float(np.mean(chances)) if chances else np.nan


def interquartile_mean(values: FloatArray) -> float:
    """The mean of the middle half, a quarter cut off at each end (rounded down), as in rliable; NaN for no value."""
    known = np.sort(values[np.isfinite(values)])
    cut = known.size // 4
    return float(known[cut : known.size - cut].mean()) if known.size else np.nan


def arm_means(outcomes: Outcomes) -> pd.DataFrame:
    """Mean and interquartile mean in percent of every arm over the blocks in which all arms finished."""
    whole = np.all(np.isfinite(outcomes.accuracy), axis=0)
    rows = []
    for arm, level in enumerate(outcomes.arms):
        values = outcomes.accuracy[arm][whole]
        mean = values.mean() if values.size else np.nan
        row = {"mean": mean, "interquartile_mean": interquartile_mean(values), "n": values.size}
        rows.append({outcomes.axis: level_text(level)} | row)
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class Contrast:
    """One paired comparison: `subject` minus `reference`, in percentage points, over `n` complete blocks.

    `low`, `high`: 95 % interval (`paired_interval`). `p`, `p_adjusted`: sign-flip test, before and after `correction`
    over the family of contrasts ("Holm", or "joint" for `joint_sign_flip_p`); `p_smallest`, `p_adjusted_smallest`:
    the least they could be with so many blocks. `p_equivalence`: two one-sided tests within `MARGIN` points, after
    Holm. `wins`: blocks in which the subject leads. `seeds`: seeds a cell has at most; `seeds_needed`: seeds a cell
    needs for 80 % power, None if over 1,000.
    """

    subject: str
    reference: str
    n: int
    cells: int
    seeds: int
    mean: float
    low: float
    high: float
    p: float
    p_adjusted: float
    correction: str
    p_smallest: float
    p_adjusted_smallest: float
    p_equivalence: float
    effect_size: float
    probability_of_improvement: float
    wins: int
    seeds_needed: int | None
    family: int
    runs: tuple[str, ...]


@dataclass(frozen=True)
class _Pair:
    subject: str
    reference: str
    differences: FloatArray
    improvement: float
    runs: tuple[str, ...]


def _family(pairs: Sequence[_Pair], correction: str = "Holm") -> list[Contrast]:
    ps = [sign_flip_p(pair.differences) for pair in pairs]
    if correction == "Holm" or not pairs:
        adjusted = holm(ps)
    else:
        adjusted = joint_sign_flip_p(np.stack([pair.differences.ravel() for pair in pairs]))
    equivalent = holm([equivalence_p(pair.differences) for pair in pairs])
    family = int(np.isfinite(ps).sum())
    tests = max(family, 1) if correction == "Holm" else 1
    found = []
    for i, pair in enumerate(pairs):
        known = np.isfinite(pair.differences)
        values = pair.differences[known]
        low, high = paired_interval(pair.differences)
        found.append(
            Contrast(
                subject=pair.subject,
                reference=pair.reference,
                n=values.size,
                cells=int(known.any(axis=1).sum()),
                seeds=int(known.sum(axis=1).max(initial=0)),
                mean=float(values.mean()) if values.size else np.nan,
                low=low,
                high=high,
                p=ps[i],
                p_adjusted=float(adjusted[i]),
                correction=correction,
                p_smallest=smallest_p(values.size),
                p_adjusted_smallest=min(1.0, tests * smallest_p(values.size)),
                p_equivalence=float(equivalent[i]),
                effect_size=effect_size(values),
                probability_of_improvement=pair.improvement,
                wins=int((values > 0).sum()),
                seeds_needed=seeds_needed(pair.differences, alpha=ALPHA / tests),
                family=family,
                runs=pair.runs,
            )
        )
    return found


def _pair(outcomes: Outcomes, subject: int, reference: int) -> _Pair:
    return _Pair(
        outcomes.arm_name(subject),
        outcomes.arm_name(reference),
        outcomes.differences(subject, reference),
        probability_of_improvement(outcomes.accuracy[subject], outcomes.accuracy[reference]),
        outcomes.runs(subject, reference),
    )


def baseline_contrasts(outcomes: Outcomes) -> list[Contrast]:
    """Every other arm against the baseline; one Holm family."""
    base = outcomes.baseline
    return _family([_pair(outcomes, arm, base) for arm in range(len(outcomes.arms)) if arm != base])


def all_contrasts(outcomes: Outcomes) -> list[Contrast]:
    """Every pair of arms, the one with the higher mean first; one Holm family."""
    pairs = []
    for first, second in combinations(range(len(outcomes.arms)), 2):
        differences = outcomes.differences(second, first)
        ahead = np.isfinite(differences).any() and np.nanmean(differences) >= 0
        pairs.append(_pair(outcomes, second, first) if ahead else _pair(outcomes, first, second))
    return _family(pairs)


@dataclass(frozen=True)
class Interaction:
    """How a lead over the baseline changes along another axis: a difference of differences, in points.

    `change.mean` is (subject - baseline at `level`) - (subject - baseline at `from_level`), over complete blocks;
    `lead` and `from_lead` are the two leads over the same blocks.
    """

    axis: str
    from_level: str
    level: str
    from_lead: float
    lead: float
    change: Contrast


def interactions(outcomes: Outcomes, axis: str) -> list[Interaction]:
    """Arm x `axis`: each arm's lead over the baseline at every level against that at the first.

    The changes along the axis are one family, tested jointly over the blocks that are complete in all of them.
    """
    at = outcomes.cell_axes.index(axis)
    levels = list(dict.fromkeys(cell[at] for cell in outcomes.cells))
    rows = {level: [i for i, cell in enumerate(outcomes.cells) if cell[at] == level] for level in levels}
    others = [arm for arm in range(len(outcomes.arms)) if arm != outcomes.baseline]
    tests = [(arm, level) for arm in others for level in levels[1:]]
    start = rows[levels[0]]
    changes, leads = [], []
    for arm, level in tests:
        lead = outcomes.differences(arm, outcomes.baseline)
        leads.append((lead[start], lead[rows[level]]))
        changes.append(lead[rows[level]] - lead[start])
    measured = [np.isfinite(change) for change in changes if np.isfinite(change).any()]
    complete = np.logical_and.reduce(measured) if measured else np.zeros((len(start), len(outcomes.seeds)), dtype=bool)
    pairs = []
    for (arm, level), change in zip(tests, changes, strict=True):
        known = complete & np.isfinite(change)
        cells = np.array([start, rows[level]])
        used = outcomes.keys[[arm, outcomes.baseline]][:, cells][:, :, known]
        pairs.append(
            _Pair(
                outcomes.arm_name(arm),
                outcomes.arm_name(outcomes.baseline),
                np.where(known, change, np.nan),
                np.nan,
                tuple(sorted(map(str, used.ravel()))),
            )
        )
    found = []
    for (_, level), lead_pair, contrast in zip(tests, leads, _family(pairs, "joint"), strict=True):
        means = [float(x[complete].mean()) if contrast.n else np.nan for x in lead_pair]
        found.append(Interaction(axis, level_text(levels[0]), level_text(level), means[0], means[1], contrast))
    return found


def cell_means(outcomes: Outcomes) -> pd.DataFrame:
    """Accuracy in percent of every arm in every cell: mean, 95 % t interval cut to 0..100, sd, n."""
    rows = []
    for arm, level in enumerate(outcomes.arms):
        for cell, levels in enumerate(outcomes.cells):
            values = outcomes.accuracy[arm, cell]
            values = values[np.isfinite(values)]
            low, high = t_interval(values)
            rows.append(
                {
                    outcomes.axis: level_text(level),
                    **dict(zip(outcomes.cell_axes, map(level_text, levels), strict=True)),
                    "mean": values.mean() if values.size else np.nan,
                    "low": max(low, 0.0) if np.isfinite(low) else np.nan,
                    "high": min(high, 100.0) if np.isfinite(high) else np.nan,
                    "sd": values.std(ddof=1) if values.size > 1 else np.nan,
                    "n": values.size,
                }
            )
    return pd.DataFrame(rows)


__all__ = [
    "ALPHA",
    "MARGIN",
    "Contrast",
    "Interaction",
    "all_contrasts",
    "arm_means",
    "baseline_contrasts",
    "cell_means",
    "effect_size",
    "holm",
    "interactions",
    "interquartile_mean",
    "joint_sign_flip_p",
    "probability_of_improvement",
    "sign_flip_p",
]
