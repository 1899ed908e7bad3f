"""Error rates, coverage and power of the statistics, measured on simulated studies with known true differences.

    python -m benchmarks.statistics                  # 2,000 studies per case, about 25 minutes on one core
    python -m benchmarks.statistics --studies 200    # a quick check

The code that analyses the studies is the same as for real ones. A study has four arms (the first is the baseline) in 2
cells (depths), or in the 4 cells of the grid `rope` (depths and patches), and 3, 5 or 8 seeds. The accuracy of a run is
the sum of a mean of its arm and cell, an effect shared by the arms of its block, and noise with unit standard
deviation. The kinds of noise are:

- normal;
- skewed: minus an exponential variable, that is, an occasional bad seed, in all arms;
- one-sided: the same, except in the baseline, whose noise is normal with half the standard deviation. The paired
  differences are then skewed too. No assumption-free procedure can handle this with few seeds;
- spread by setting: normal, with a different standard deviation in each cell, in the ratios of `docs/studies/rope`.

In cases with missing runs, each run is lost with a probability of 10 %. Rates over studies without any difference:

- false: at least one of the three contrasts with the baseline is significant (Holm at 5 %);
- false_joint: at least one of the interactions with depth is significant, by the joint test;
- false_main: the main effect of depth, averaged over arms and patches, is significant;
- false_any: any of the contrasts, pairs of arms, interactions and main effects along every axis is significant;
- covered_main: the 95 % interval of the main effect of depth contains zero (over studies that have an interval).

Rates over studies with differences:

- false_equivalent: at least one of three arms that differ by the margin, two downwards and one upwards, is found
  equivalent, with a quarter of the noise;
- covered: the 95 % interval of a contrast contains the true difference (over 10,000 studies). The difference is 22
  points in one cell and 0.8 in the next, as in `docs/studies/rope`; its true value is the mean over the cells with a
  finished pair;
- power: measured power for one arm with a true lead. The lead is the one with a predicted power of about 80 %, or 3
  units if no lead can be detected;
- promised: power that `ablations.statistics.power` predicts, given the true lead and standard deviation, the finished
  pairs, and the strictest step of Holm;
- uneven: power for the same mean lead if every second cell has twice the lead and the other cells have none;
- cancelling: share of significant differences if twice the lead and its negative alternate, so that the mean is zero;
- false_plain, power_plain, uneven_plain, cancelling_plain: the same rates for sign flips of the plain mean, the test of
  earlier versions.
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain, product
from pathlib import Path
from unittest.mock import patch

import numpy as np

from ablations.statistics import (
    ALPHA,
    MARGIN,
    FloatArray,
    Outcomes,
    all_contrasts,
    baseline_contrasts,
    contrasts,
    holm,
    interactions,
    main_effects,
    smallest_p,
)
from ablations.statistics.intervals import paired_interval
from ablations.statistics.permutation import sign_flip_p
from ablations.statistics.power import equivalence_p, sign_flip_power
from ablations.statistics.sequential.procedures import FixedDesign

ARMS = 4
SEEDS = (3, 5, 8)
NOISE = ("normal", "skewed", "one-sided")
BY_SETTING = "spread by setting"
KINDS = (*NOISE, BY_SETTING)
LOST = 0.1
SPREADS = {2: (0.77, 3.86), 4: (0.76, 0.77, 3.86, 0.25)}
"""Spreads of paired differences in the cells of `docs/studies/rope`, in points, by the number of cells."""
LEADS = {2: (22.0, 0.8), 4: (22.0, 0.8, 20.0, 0.25)}
"""Leads in the cells of `docs/studies/rope`, in points."""
QUARTER = 0.25
COVERED = 5
"""Factor by which the coverage of contrasts uses more studies, because its tolerance is narrow."""
RESAMPLES = 1_000
"""Bootstrap resamples for the coverage of contrasts; a quarter of those in a report."""
RESULTS = Path(__file__).parent / "results" / "statistics.json"


@dataclass(frozen=True)
class Case:
    """Kind of simulated study."""

    cells: int
    seeds: int
    noise: str
    missing: bool


@dataclass(frozen=True)
class Rates:
    """Rates of a case, as shares of its studies. `lead` is the true lead for the power, in units of the noise."""

    studies: int
    false: float
    false_joint: float
    false_main: float
    false_any: float
    false_equivalent: float
    covered: float
    covered_main: float
    lead: float
    power: float
    promised: float
    false_plain: float
    power_plain: float
    uneven: float
    uneven_plain: float
    cancelling: float
    cancelling_plain: float


class OnlyP(FixedDesign):
    """Tests of the reports without equivalence tests and without intervals, which would take most of the time."""

    def equivalence(self, differences: FloatArray) -> float:
        return np.nan

    def interval(self, differences: FloatArray) -> tuple[float, float]:
        return np.nan, np.nan


class Plain(OnlyP):
    """Sign-flip test of the plain mean, as in earlier versions. Differences between cells count as noise.

    Blocks are weighted so that all cells have the same weight.
    """

    def p(self, differences: FloatArray) -> float:
        counts = np.isfinite(differences).sum(axis=1, keepdims=True)
        weights = counts.sum() / (np.count_nonzero(counts) or 1) / np.maximum(counts, 1)
        return sign_flip_p((differences * weights).ravel())


ONLY_P, PLAIN = OnlyP(), Plain()


def cases() -> list[Case]:
    """Return the cases: 2 cells with 3, 5 and 8 seeds, and 4 cells with 3 seeds, as in the default grid."""
    shapes = [(2, seeds) for seeds in SEEDS] + [(4, 3)]
    return [Case(*shape, noise, missing) for noise in KINDS for missing in (False, True) for shape in shapes]


def study(case: Case, leads: FloatArray, rng: np.random.Generator, between: float = 5.0) -> Outcomes:
    """Simulate a study with true means `leads`, (arms,) or (arms, cells). `between` is the spread of the cell means."""
    shape = (ARMS, case.cells, case.seeds)
    noise = rng.normal(size=shape)
    if case.noise == BY_SETTING:
        spreads = np.array(SPREADS[case.cells])
        noise *= (spreads / np.sqrt((spreads**2).mean()))[:, None]
    elif case.noise != "normal":
        bad = 1 - rng.exponential(size=shape)
        noise = bad if case.noise == "skewed" else np.concatenate([noise[:1] / 2, bad[1:]])
    cells = rng.normal(0, between, (case.cells, 1))
    shared = rng.normal(0, 1, shape[1:])
    accuracy = 70 + cells + shared + leads.reshape(ARMS, -1, 1) + noise
    if case.missing:
        accuracy[rng.random(shape) < LOST] = np.nan
    arms = ("none", "learned", "sinusoidal", "rope")
    axes = {"depth": (2, 4), "patch": (2, 4)} if case.cells == 4 else {"depth": tuple(range(1, case.cells + 1))}
    keys = np.where(np.isfinite(accuracy), "run", "").astype("<U64")
    seeds = tuple(range(case.seeds))
    return Outcomes("position", arms, tuple(axes), tuple(product(*axes.values())), seeds, 0, accuracy, keys)


def spread(case: Case) -> float:
    """Return the standard deviation of a paired difference."""
    return float(np.sqrt(1.25 if case.noise == "one-sided" else 2.0))


def lead_for(case: Case) -> float:
    """Return the lead with a predicted power of about 80 %, or 3 if no lead can be detected."""
    blocks, alpha = [case.seeds] * case.cells, ALPHA / (ARMS - 1)
    if smallest_p(sum(blocks)) > alpha:
        return 3.0
    found = next(d for d in np.arange(0.05, 10, 0.05) if sign_flip_power(d, blocks, alpha) >= 0.8)
    return round(float(found * spread(case)), 3)


def covered(case: Case, studies: int, rng: np.random.Generator) -> float:
    """Return the share of intervals that contain the true difference, with leads that differ by cell."""
    leads = np.array(LEADS[case.cells])
    found = []
    for _ in range(studies):
        null = study(case, np.zeros(ARMS), rng)
        for arm in range(1, ARMS):
            differences = null.differences(arm, 0) + leads[:, None]
            low, high = paired_interval(differences, resamples=RESAMPLES)
            if np.isfinite(low):
                found.append(low <= leads[np.isfinite(differences).any(axis=1)].mean() <= high)
    return float(np.mean(found))


def differs(p_values: list[float]) -> bool:
    """Return whether any p-value is significant."""
    return any(p <= ALPHA for p in p_values)


@patch.object(contrasts, "seeds_needed", lambda differences, alpha: None)  # slow, and not measured here
def simulate(case: Case, studies: int, seed: int = 0) -> Rates:
    """Return the rates of a case, from `studies` studies under the null and as many for each kind of true lead."""
    stream = [seed, case.cells, case.seeds, KINDS.index(case.noise), case.missing]
    within, rng = covered(case, COVERED * studies, np.random.default_rng([*stream, 1])), np.random.default_rng(stream)
    lead = lead_for(case)
    false, within_main = np.zeros(5), []
    found, promised, beside = 0, 0.0, np.zeros(6)
    for _ in range(studies):
        null = study(case, np.zeros(ARMS), rng, between=0)
        leads = [c.p_adjusted for c in baseline_contrasts(null, ONLY_P)]
        pairs = [c.p_adjusted for c in all_contrasts(null, ONLY_P)]
        changes = {axis: [i.change.p_adjusted for i in interactions(null, axis, ONLY_P)] for axis in null.cell_axes}
        effects = {axis: [c.p_adjusted for c in main_effects(null, axis, ONLY_P)] for axis in null.cell_axes}
        everything = [*leads, *pairs, *chain(*changes.values()), *chain(*effects.values())]
        near = [equivalence_p(QUARTER * null.differences(arm, 0) + MARGIN * (-1) ** arm) for arm in range(1, ARMS)]
        tested = (leads, changes["depth"], effects["depth"], everything, list(holm(near)))
        false += [differs(ps) for ps in tested]
        within_main += [c.low <= 0 <= c.high for c in main_effects(null, "depth") if np.isfinite(c.low)]
        led = study(case, np.array([0, 0, 0, lead]), rng)
        found += bool(baseline_contrasts(led, ONLY_P)[-1].p_adjusted <= ALPHA)
        pairs_left = np.isfinite(led.differences(ARMS - 1, 0)).sum(axis=1)
        promised += sign_flip_power(lead / spread(case), pairs_left, ALPHA / (ARMS - 1))
        by_cell = np.zeros((2, ARMS, case.cells))
        by_cell[0, -1, ::2] = 2 * lead
        by_cell[1, -1] = 2 * lead * (-1) ** np.arange(case.cells)
        uneven, cancelling = (study(case, means, rng) for means in by_cell)
        beside += [
            differs([c.p_adjusted for c in baseline_contrasts(null, PLAIN)]),
            *(
                baseline_contrasts(each, procedure)[-1].p_adjusted <= ALPHA
                for each, procedure in (
                    (led, PLAIN),
                    (uneven, ONLY_P),
                    (uneven, PLAIN),
                    (cancelling, ONLY_P),
                    (cancelling, PLAIN),
                )
            ),
        ]
    rates = (*false / studies, within, np.mean(within_main), lead, found / studies, promised / studies)
    rates += tuple(beside / studies)
    return Rates(studies, *(round(float(rate), 4) for rate in rates))


def main() -> None:
    parser = argparse.ArgumentParser(description="False positives, coverage and power in studies with known truth.")
    parser.add_argument("--studies", type=int, default=2000)
    parser.add_argument("--json", type=Path, default=RESULTS, help="output file")
    options = parser.parse_args()
    rows = []
    print(" ".join(f"{name:>17}" for name in (*Case.__annotations__, *Rates.__annotations__)))
    with ProcessPoolExecutor() as pool:  # each case has its own random stream
        for case, rates in zip(cases(), pool.map(partial(simulate, studies=options.studies), cases()), strict=True):
            rows.append(asdict(case) | asdict(rates))
            print(" ".join(f"{value:>17}" for value in rows[-1].values()), flush=True)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
