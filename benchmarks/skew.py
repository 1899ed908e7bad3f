"""Would another test handle skewed noise better? The sign-flip test against three that demand more.

    python -m benchmarks.skew                  # 1,000 studies a case, about ten minutes on one core
    python -m benchmarks.skew --studies 200    # a quick look

Studies and noise are those of `benchmarks.statistics`, whole. A difference is found when p after Holm is at most 5 %:

- sign-flip: the test of the reports;
- bootstrap: the studentised bootstrap of the deviations from the cells' means alone;
- both: the larger p of these two;
- Johnson: the larger of the sign-flip's and that of Johnson's t corrected for skew (1978).

A sign-flip test of Student's t in place of the mean is the same test: flips do not change the sum of squares, so t and
mean order the flips alike. Counted are studies with a false difference among three, and those that find a true lead.

Would power be promised better from the differences of a study than from a normal distribution of the same spread?

- power: how often the sign-flip test finds the lead at the strictest step of Holm, with every run or without a tenth;
- normal: what `ablations.power` promises;
- residuals: the mean promise of 100 studies, each from 200 resamples of its deviations from the cells' means.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from scipy import stats as scipy_stats

from ablations.intervals import studentised_bootstrap
from ablations.outcomes import FloatArray
from ablations.permutation import holm, sign_flip_p
from ablations.power import sign_flip_power
from ablations.stats import ALPHA
from benchmarks.statistics import ARMS, NOISE, Case, lead_for, spread, study

SHAPES = ((2, 5), (2, 8), (4, 3))
PROMISES, RESAMPLES = 100, 200
TESTS = ("sign-flip", "bootstrap", "both", "Johnson")
RESULTS = Path(__file__).parent / "results" / "skew.json"


def bootstrap_p(differences: FloatArray, seed: int = 0) -> float:
    """Twice the smaller tail that the studentised mean cuts off its bootstrap distribution."""
    mean, spread, pivots = studentised_bootstrap(list(differences), seed=seed)
    tails = [1 + np.count_nonzero(side) for side in (pivots >= mean / spread, pivots <= mean / spread)]
    return float(min(1.0, 2 * min(tails) / (1 + pivots.size)))


def johnson_p(differences: FloatArray) -> float:
    """Student's t with the terms that skew adds to it to first order."""
    values = differences.ravel()
    n, mean, variance = values.size, values.mean(), values.var(ddof=1)
    third = ((values - mean) ** 3).mean()
    t = (mean + third / (6 * variance * n) + third * mean**2 / (3 * variance**2)) / np.sqrt(variance / n)
    return float(2 * scipy_stats.t.sf(abs(t), n - 1))


def found(case: Case, lead: float, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Which of three contrasts each test finds in one study whose last arm leads."""
    outcomes = study(case, np.array([0.0] * (ARMS - 1) + [lead]), rng)
    differences = [outcomes.differences(arm, 0) for arm in range(1, ARMS)]
    flip, boot, johnson = (
        np.array([test(each) for each in differences]) for test in (sign_flip_p, bootstrap_p, johnson_p)
    )
    ps = (flip, boot, np.maximum(flip, boot), np.maximum(flip, johnson))
    return {name: holm(list(p)) <= ALPHA for name, p in zip(TESTS, ps, strict=True)}


def simulate(case: Case, studies: int, seed: int = 0) -> list[dict[str, object]]:
    """A row a test: shares of the studies."""
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


def promises(case: Case, studies: int, seed: int = 0) -> dict[str, object]:
    """Power and the two promises of it; the tool is given the true lead and spread."""
    rng = np.random.default_rng([seed, case.cells, case.seeds, NOISE.index(case.noise), case.missing])
    lead, level, true_spread = lead_for(case), ALPHA / (ARMS - 1), spread(case)
    found, normal, resampled = 0, [], []
    for number in range(studies):
        differences = study(case, np.array([0.0] * (ARMS - 1) + [lead]), rng).differences(ARMS - 1, 0)
        values = differences[np.isfinite(differences)]
        found += bool(sign_flip_p(values) <= level)
        normal.append(sign_flip_power(lead / true_spread, values.size, level))
        if number < PROMISES:
            cells = [row[np.isfinite(row)] for row in differences]
            pool = np.concatenate([(c - c.mean()) * np.sqrt(c.size / (c.size - 1)) for c in cells if c.size > 1])
            pool *= true_spread / np.sqrt((pool**2).mean())
            again = rng.choice(pool, (RESAMPLES, values.size)) + lead
            resampled.append(np.mean([sign_flip_p(each) <= level for each in again]))
    rates = {"power": found / studies, "normal": np.mean(normal), "residuals": np.mean(resampled)}
    kind = {"cells": case.cells, "seeds": case.seeds, "noise": case.noise, "missing": case.missing, "studies": studies}
    return kind | {name: round(float(rate), 4) for name, rate in rates.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description="Tests for skewed noise: false positives and power.")
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--json", type=Path, default=RESULTS, help="where to write the rates")
    options = parser.parse_args()
    tests: list[dict[str, object]] = []
    power: list[dict[str, object]] = []
    for noise in NOISE:
        for cells, seeds in SHAPES:
            tests += (rows := simulate(Case(cells, seeds, noise, False), options.studies))
            more = [promises(Case(cells, seeds, noise, missing), options.studies) for missing in (False, True)]
            power += more
            for row in rows + more:
                print(" ".join(f"{value:>10}" for value in row.values()), flush=True)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps({"tests": tests, "power": power}, indent=1) + "\n")


if __name__ == "__main__":
    main()
