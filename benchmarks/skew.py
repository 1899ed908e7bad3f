"""Comparison of the sign-flip test with alternatives for skewed noise, and comparison of predictions of power.

    python -m benchmarks.skew                  # 1,000 studies per case, about ten minutes on one core
    python -m benchmarks.skew --studies 200    # a quick check

The studies and the noise are those of `benchmarks.statistics`, without missing runs. A difference is significant if its
p-value, adjusted by Holm, is at most 5 %. The tests are:

- sign-flip: the test of the reports;
- bootstrap: the studentised bootstrap over the seeds within each cell;
- both: the larger p-value of these two;
- Johnson: the larger p-value of the sign-flip test and of Johnson's t with a correction for skew (1978).

The program reports the share of studies in which at least one of three contrasts is falsely significant, and the power.

It also compares predictions of power, given the true lead and standard deviation, with the measured power:

- power: power of the sign-flip test at the strictest step of Holm, with all runs and with a tenth of them missing;
- normal: prediction for normal differences;
- promised: prediction of `ablations.statistics.power`, the mean of the predictions for normal and Laplace differences;
- Geary: these two predictions, weighted by the likelihood of the deviations from the cell means (`laplace_share`);
- residuals: mean prediction over 100 studies, each from 200 resamples of its deviations from the cell means.
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from scipy import special
from scipy import stats as scipy_stats

from ablations.statistics import ALPHA, FloatArray, estimate, holm
from ablations.statistics.intervals import estimate_error, studentised_bootstrap
from ablations.statistics.permutation import sign_flip_p
from ablations.statistics.power import power_under, sign_flip_power
from benchmarks.statistics import ARMS, NOISE, Case, lead_for, spread, study

SHAPES = ((2, 5), (2, 8), (4, 3))
PROMISES, RESAMPLES = 100, 200
TESTS = ("sign-flip", "bootstrap", "both", "Johnson")
RESULTS = Path(__file__).parent / "results" / "skew.json"


def bootstrap_p(differences: FloatArray, seed: int = 0) -> float:
    """Return the two-sided p-value of the studentised estimate in its bootstrap distribution."""
    pivots, pivot = (
        studentised_bootstrap(differences, seed=seed),
        estimate(differences) / estimate_error(differences)[0],
    )
    tails = [1 + np.count_nonzero(side) for side in (pivots >= pivot, pivots <= pivot)]
    return float(min(1.0, 2 * min(tails) / (1 + pivots.size)))


def johnson_p(differences: FloatArray) -> float:
    """Return the two-sided p-value of Student's t with a first-order correction for skew."""
    values = differences.ravel()
    n, mean, variance = values.size, values.mean(), values.var(ddof=1)
    third = ((values - mean) ** 3).mean()
    t = (mean + third / (6 * variance * n) + third * mean**2 / (3 * variance**2)) / np.sqrt(variance / n)
    return float(2 * scipy_stats.t.sf(abs(t), n - 1))


def found(case: Case, lead: float, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Return which of three contrasts are significant in each test, for one study whose last arm has a lead."""
    outcomes = study(case, np.array([0.0] * (ARMS - 1) + [lead]), rng)
    differences = [outcomes.differences(arm, 0) for arm in range(1, ARMS)]
    flip, boot, johnson = (
        np.array([test(each) for each in differences]) for test in (sign_flip_p, bootstrap_p, johnson_p)
    )
    ps = (flip, boot, np.maximum(flip, boot), np.maximum(flip, johnson))
    return {name: holm(list(p)) <= ALPHA for name, p in zip(TESTS, ps, strict=True)}


def simulate(case: Case, studies: int, seed: int = 0) -> list[dict[str, object]]:
    """Return one row per test, with the shares of studies with false positives and with a detected lead."""
    rng = np.random.default_rng([seed, case.cells, case.seeds, NOISE.index(case.noise)])
    lead = lead_for(case)
    false, power = dict.fromkeys(TESTS, 0), dict.fromkeys(TESTS, 0)
    for _ in range(studies):
        for name, each in found(case, 0.0, rng).items():
            false[name] += bool(each.any())
        for name, each in found(case, lead, rng).items():
            power[name] += bool(each[-1])
    kind = {"cells": case.cells, "seeds": case.seeds, "noise": case.noise, "studies": studies}
    return [
        kind | {"test": name, "false": round(false[name] / studies, 4), "power": round(power[name] / studies, 4)}
        for name in TESTS
    ]


def deviations(differences: FloatArray) -> FloatArray:
    """Return the deviations from the cell means in cells with several pairs, scaled for an unbiased variance."""
    cells = [row[np.isfinite(row)] for row in differences]
    return np.concatenate([(c - c.mean()) * np.sqrt(c.size / (c.size - 1)) for c in cells if c.size > 1])


def laplace_share(differences: FloatArray) -> float:
    """Return the probability of Laplace instead of normal differences; 0.5 if no cell has two pairs.

    The prior probabilities are equal. With fitted scales, the likelihood ratio is a function of Geary's ratio, which is
    the root mean square of the deviations divided by their mean absolute value. The logarithm of this ratio is 0.226
    for normal and 0.347 for Laplace differences. There are n - G degrees of freedom, for n pairs in G cells.
    """
    freedom = np.isfinite(differences).sum() - np.isfinite(differences).any(axis=1).sum()
    if not freedom:
        return 0.5
    pool = deviations(differences)
    even = np.log(2) + 0.5 - 0.5 * np.log(2 * np.pi)
    return float(special.expit(freedom * (np.log(np.sqrt((pool**2).mean()) / np.abs(pool).mean()) - even)))


def promises(case: Case, studies: int, seed: int = 0) -> dict[str, object]:
    """Return the power and its predictions, given the true lead and spread and the finished pairs."""
    rng = np.random.default_rng([seed, case.cells, case.seeds, NOISE.index(case.noise), case.missing])
    lead, level, true_spread = lead_for(case), ALPHA / (ARMS - 1), spread(case)
    power, promised, resampled = 0, [], []
    for number in range(studies):
        differences = study(case, np.array([0.0] * (ARMS - 1) + [lead]), rng).differences(ARMS - 1, 0)
        known = np.isfinite(differences)
        power += bool(sign_flip_p(differences) <= level)
        effect, counts, share = lead / true_spread, known.sum(axis=1), laplace_share(differences)
        normal, laplace = (power_under(noise, effect, counts, level) for noise in ("normal", "laplace"))
        mixed = (1 - share) * normal + share * laplace
        promised.append((normal, sign_flip_power(effect, counts, level), mixed))
        if number < PROMISES:
            pool = deviations(differences)
            pool *= true_spread / np.sqrt((pool**2).mean())
            again = np.where(known, rng.choice(pool, (RESAMPLES, *known.shape)) + lead, np.nan)
            resampled.append(np.mean([sign_flip_p(each) <= level for each in again]))
    rates = dict(zip(("normal", "promised", "geary"), np.mean(promised, axis=0), strict=True))
    rates = {"power": power / studies, **rates, "residuals": np.mean(resampled)}
    kind = {"cells": case.cells, "seeds": case.seeds, "noise": case.noise, "missing": case.missing, "studies": studies}
    return kind | {name: round(float(rate), 4) for name, rate in rates.items()}


def compare(shape: tuple[str, int, int], studies: int) -> tuple[list[dict[str, object]], list[dict[str, object]]]:
    """Return the rows of the tests and of the predicted power for a kind of noise and numbers of cells and seeds."""
    noise, cells, seeds = shape
    tests = simulate(Case(cells, seeds, noise, False), studies)
    return tests, [promises(Case(cells, seeds, noise, missing), studies) for missing in (False, True)]


def main() -> None:
    parser = argparse.ArgumentParser(description="Tests for skewed noise: false positives and power.")
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--json", type=Path, default=RESULTS, help="output file")
    options = parser.parse_args()
    tests: list[dict[str, object]] = []
    power: list[dict[str, object]] = []
    shapes = [(noise, cells, seeds) for noise in NOISE for cells, seeds in SHAPES]
    with ProcessPoolExecutor() as pool:  # each case has its own random stream
        for rows, more in pool.map(partial(compare, studies=options.studies), shapes):
            tests += rows
            power += more
            for row in rows + more:
                print(" ".join(f"{value:>10}" for value in row.values()), flush=True)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps({"tests": tests, "power": power}, indent=1) + "\n")


if __name__ == "__main__":
    main()
