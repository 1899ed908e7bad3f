"""Do the statistics hold? Studies with known truth, put through the same code as real ones.

    python -m benchmarks.statistics                  # 2,000 studies a case, about 25 minutes on one core
    python -m benchmarks.statistics --studies 200    # a quick look

A study has four arms (the first is the baseline) in 2 cells (depths), or in the 4 cells of the grid `rope` (depths and
patches), and 3, 5 or 8 seeds. A run's accuracy is a mean of its arm and cell, a part it shares with the other arms of
its block, and noise of unit spread. Kinds of noise:

- normal;
- skewed: now and then a bad seed (minus an exponential variable), in all arms alike;
- one-sided: the same, but in the compared arms only; the baseline's noise is normal with half the spread. The paired
  differences are then themselves skewed, which no assumption-free procedure can handle from a handful of seeds;
- spread by setting: normal, with a spread of its own in each cell, in the ratios of `docs/studies/rope`.

Missing: each run is lost with a chance of 10 %. What is counted, over studies in which nothing differs:

- false: at least one of the three contrasts with the baseline is called a difference (Holm at 5 %);
- false_joint: at least one of the changes between depths is, by the joint test;
- false_main: the effect of depth is, averaged over arms and patches;
- false_any: anything is, among the contrasts, all pairs of arms, and the changes and main effects along every axis;
- covered_main: the 95 % interval of the effect of depth holds zero (studies that have an interval);

and over studies in which something does:

- false_equivalent: at least one of three arms that differ by the margin, two down and one up, is called equivalent
  (noise a quarter);
- covered: the 95 % interval of a contrast holds the true difference, which is 22 points in one cell and 0.8 in the
  next, as in `docs/studies/rope`; the truth is its mean over the cells in which a pair finished (10,000 studies);
- power, promised: how often one arm with a true lead is found, and how often `ablations.statistics.power` said it would
  be, given the true lead and spread, the pairs that finished, and the strictest step of Holm. The lead is the one
  promised about 80 %, or where no lead can be found, 3 units;
- uneven: how often the same lead is found when all of it is in every second cell, twice as large there;
- cancelling: how often a difference is called when twice the lead and its negative alternate, so that the mean is zero;
- false_plain, power_plain, uneven_plain, cancelling_plain: the same by sign flips of the plain mean (earlier versions).
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain, product
from pathlib import Path

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

contrasts.seeds_needed = lambda differences, alpha: None  # not measured here, and most of the time

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
"""Studies for the coverage of contrasts, for each of the others: its bounds are narrow."""
RESAMPLES = 1_000
"""Of the bootstrap there; a quarter of those in a report."""
RESULTS = Path(__file__).parent / "results" / "statistics.json"


@dataclass(frozen=True)
class Case:
    """A kind of study."""

    cells: int
    seeds: int
    noise: str
    missing: bool


@dataclass(frozen=True)
class Rates:
    """Shares of the studies of a case; `lead` is the true difference in the study of power, in units of noise."""

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
    """The tests of the reports without the intervals, which take most of the time."""

    def equivalence(self, differences: FloatArray) -> float:
        return np.nan

    def interval(self, differences: FloatArray) -> tuple[float, float]:
        return np.nan, np.nan


class Plain(OnlyP):
    """Sign flips of the plain mean, as in earlier versions: differences between cells count as noise.

    Blocks are weighted so that cells count equally. A sign-flip test of one setting is one of its mean.
    """

    def p(self, differences: FloatArray) -> float:
        counts = np.isfinite(differences).sum(axis=1, keepdims=True)
        weights = counts.sum() / (np.count_nonzero(counts) or 1) / np.maximum(counts, 1)
        return sign_flip_p((differences * weights).ravel())


ONLY_P, PLAIN = OnlyP(), Plain()


def cases() -> list[Case]:
    """2 cells with 3, 5 and 8 seeds, and the default grid: 4 cells with 3 seeds."""
    shapes = [(2, seeds) for seeds in SEEDS] + [(4, 3)]
    return [Case(*shape, noise, missing) for noise in KINDS for missing in (False, True) for shape in shapes]


def study(case: Case, leads: FloatArray, rng: np.random.Generator, between: float = 5.0) -> Outcomes:
    """One study; `leads` (arms,) or (arms, cells) are true means, `between` is the spread of the cells' means."""
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
    """Standard deviation of a paired difference."""
    return float(np.sqrt(1.25 if case.noise == "one-sided" else 2.0))


def lead_for(case: Case) -> float:
    """A true lead that the power tool promises to find in about 80 of 100 studies; 3 where none can be."""
    blocks, alpha = [case.seeds] * case.cells, ALPHA / (ARMS - 1)
    if smallest_p(sum(blocks)) > alpha:
        return 3.0
    found = next(d for d in np.arange(0.05, 10, 0.05) if sign_flip_power(d, blocks, alpha) >= 0.8)
    return round(float(found * spread(case)), 3)


def covered(case: Case, studies: int, rng: np.random.Generator) -> float:
    """The share of intervals that hold the truth, with leads that differ by cell."""
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
    """Whether anything is called a difference."""
    return any(p <= ALPHA for p in p_values)


def simulate(case: Case, studies: int, seed: int = 0) -> Rates:
    """The rates of a case over this many studies under the null, and as many with one arm ahead."""
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
    parser.add_argument("--json", type=Path, default=RESULTS, help="where to write the rates")
    options = parser.parse_args()
    rows = []
    print(" ".join(f"{name:>17}" for name in (*Case.__annotations__, *Rates.__annotations__)))
    with ProcessPoolExecutor() as pool:  # a case has random numbers of its own
        for case, rates in zip(cases(), pool.map(partial(simulate, studies=options.studies), cases()), strict=True):
            rows.append(asdict(case) | asdict(rates))
            print(" ".join(f"{value:>17}" for value in rows[-1].values()), flush=True)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
