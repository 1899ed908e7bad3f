"""Do the statistics hold? Studies with known truth, put through the same code as real ones.

    python -m benchmarks.statistics                  # 2,000 studies a case, about ten minutes on one core
    python -m benchmarks.statistics --studies 200    # a quick look

A study has four arms (the first is the baseline) in 2 cells, or in the 4 cells of the grid `rope`, and 3, 5 or 8
seeds. A run's accuracy is a mean of its arm and cell, a part it shares with the other arms of its block, and noise of
unit spread. Kinds of noise:

- normal;
- skewed: now and then a bad seed (minus an exponential variable), in all arms alike;
- one-sided: the same, but in the compared arms only; the baseline's noise is normal with half the spread. The paired
  differences are then themselves skewed, which no assumption-free procedure can handle from a handful of seeds.

Missing: each run is lost with a chance of 10 %. What is counted, over studies:

- false: at least one of the three contrasts with the baseline is called a difference though none is (Holm at 5 %);
- false_joint: at least one of the changes between cells is, by the joint test;
- covered: the 95 % interval of a contrast holds the true difference (studies that have an interval);
- power, promised: how often one arm with a true lead is found, and how often `ablations.power` said it would be, given
  the true lead and spread, the pairs that finished, and the strictest step of Holm. The lead is the one promised
  about 80 %, or where no lead can be found, 3 units.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ablations.outcomes import FloatArray, Outcomes
from ablations.power import sign_flip_power, smallest_p
from ablations.stats import ALPHA, baseline_contrasts, interactions

ARMS = 4
SEEDS = (3, 5, 8)
NOISE = ("normal", "skewed", "one-sided")
LOST = 0.1
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
    covered: float
    lead: float
    power: float
    promised: float


def cases() -> list[Case]:
    """2 cells with 3, 5 and 8 seeds, and the default grid: 4 cells with 3 seeds."""
    shapes = [(2, seeds) for seeds in SEEDS] + [(4, 3)]
    return [Case(*shape, noise, missing) for noise in NOISE for missing in (False, True) for shape in shapes]


def study(case: Case, leads: FloatArray, rng: np.random.Generator) -> Outcomes:
    """One study; `leads` (arms,) are the true means of the arms."""
    shape = (ARMS, case.cells, case.seeds)
    noise = rng.normal(size=shape)
    if case.noise != "normal":
        bad = 1 - rng.exponential(size=shape)
        noise = bad if case.noise == "skewed" else np.concatenate([noise[:1] / 2, bad[1:]])
    cells = rng.normal(0, 5, (case.cells, 1))
    shared = rng.normal(0, 1, shape[1:])
    accuracy = 70 + cells + shared + leads[:, None, None] + noise
    if case.missing:
        accuracy[rng.random(shape) < LOST] = np.nan
    arms = ("none", "learned", "sinusoidal", "rope")
    depths = tuple((depth,) for depth in range(1, case.cells + 1))
    keys = np.where(np.isfinite(accuracy), "run", "").astype("<U64")
    return Outcomes("position", arms, ("depth",), depths, tuple(range(case.seeds)), 0, accuracy, keys)


def spread(case: Case) -> float:
    """Standard deviation of a paired difference."""
    return float(np.sqrt(1.25 if case.noise == "one-sided" else 2.0))


def lead_for(case: Case) -> float:
    """A true lead that the power tool promises to find in about 80 of 100 studies; 3 where none can be."""
    blocks, alpha = case.cells * case.seeds, ALPHA / (ARMS - 1)
    if smallest_p(blocks) > alpha:
        return 3.0
    found = next(d for d in np.arange(0.05, 10, 0.05) if sign_flip_power(d, blocks, alpha) >= 0.8)
    return round(float(found * spread(case)), 3)


def simulate(case: Case, studies: int, seed: int = 0) -> Rates:
    """The rates of a case over this many studies under the null, and as many with one arm ahead."""
    rng = np.random.default_rng([seed, case.cells, case.seeds, NOISE.index(case.noise), case.missing])
    lead = lead_for(case)
    false, joint, covered, found, promised = 0, 0, [], 0, 0.0
    for _ in range(studies):
        null = study(case, np.zeros(ARMS), rng)
        contrasts = baseline_contrasts(null)
        false += any(c.p_adjusted <= ALPHA for c in contrasts)
        joint += any(i.change.p_adjusted <= ALPHA for i in interactions(null, "depth"))
        covered += [c.low <= 0 <= c.high for c in contrasts if np.isfinite(c.low)]
        ahead = baseline_contrasts(study(case, np.array([0, 0, 0, lead]), rng))[-1]
        found += bool(ahead.p_adjusted <= ALPHA)
        promised += sign_flip_power(lead / spread(case), ahead.n, ALPHA / (ARMS - 1))
    rates = (false / studies, joint / studies, float(np.mean(covered)), lead, found / studies, promised / studies)
    return Rates(studies, *(round(rate, 4) for rate in rates))


def main() -> None:
    parser = argparse.ArgumentParser(description="False positives, coverage and power in studies with known truth.")
    parser.add_argument("--studies", type=int, default=2000)
    parser.add_argument("--json", type=Path, default=RESULTS, help="where to write the rates")
    options = parser.parse_args()
    rows = []
    print("cells seeds noise      missing  false  joint  covered  power  promised")
    for case in cases():
        rates = simulate(case, options.studies)
        rows.append(asdict(case) | asdict(rates))
        kind = f"{case.cells:5d} {case.seeds:5d} {case.noise:10s} {'10 %' if case.missing else 'none':7s}"
        found = f"{rates.false:6.3f} {rates.false_joint:6.3f} {rates.covered:8.3f} {rates.power:6.3f}"
        print(f"{kind} {found} {rates.promised:9.3f}", flush=True)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
