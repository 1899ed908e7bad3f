"""Does `--until-decided` hold its level however often it looks? Studies with known truth, grown round by round.

    python -m benchmarks.sequential                  # 2,000 studies a case, about half an hour on one core
    python -m benchmarks.sequential --studies 200    # a quick look

Studies are those of `benchmarks.statistics`: four arms, 2 or 4 cells, three kinds of noise. Each has 3 or 5 seeds in
the first round and four times as many at most; every round is looked at, and arms that are decided grow no more. The
tests are those of the reports, with a group of 2^12 sign patterns in place of 2^16, which is as exact. What is counted:

- false: at least one of the three contrasts with the baseline is ever called a difference though none is;
- covered: the 95 % interval of a contrast holds the true difference where the study stopped;
- false_equivalent: at least one arm is ever called equivalent, of three that differ by the margin (noise a quarter);
- power, fixed: how often a true lead is found, and how often by the same test once, with the maximum of seeds;
- seeds: the mean seeds of that arm. `*_twice`: the same for a lead twice as large.

The lead is the one that a fixed study is promised to find in 80 of 100. `--procedures` compares ways to look: the level
spent with the first, second and third power of the share of seeds; its second power with looks taken as if they were
apart (Bonferroni); and an e-value, the mean over bets b of prod exp(b d) / cosh(b d), needing no plan at all.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ablations.config import SequentialDesign
from ablations.config import sequential_design as designs
from ablations.statistics import ALPHA, MARGIN, FloatArray, GroupSequential, holm
from benchmarks.statistics import ARMS, NOISE, Case, lead_for, study

BITS = 12
CONTRASTS = ARMS - 1
LEVELS = tuple(ALPHA / tests for tests in range(CONTRASTS, 0, -1))
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Growing:
    """A kind of study: cells, seeds of the first round and at most, noise."""

    cells: int
    first: int
    maximum: int
    noise: str


@dataclass(frozen=True)
class Rates:
    """Shares of the studies of a case, and mean seeds of the arm with the lead."""

    studies: int
    false: float
    covered: float
    false_equivalent: float
    power: float
    fixed: float
    seeds: float
    power_twice: float
    seeds_twice: float


def cases() -> list[Growing]:
    """2 cells from 3 and from 5 seeds, and the 4 cells of the default grid from 3."""
    shapes = ((2, 3, 12), (2, 5, 20), (4, 3, 12))
    return [Growing(*shape, noise) for noise in NOISE for shape in shapes]


def first_looks(
    differences: Sequence[FloatArray], tests: GroupSequential
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The look at which each contrast is rejected, and found equivalent, at each step of Holm; (contrasts, steps)."""
    different, equal = [], []
    for each in differences:
        orbit, (above, below) = tests.orbit(each), tests.margin_orbits(each)
        different.append([orbit.rejected(level)[0] for level in LEVELS])
        equal.append([max(above.rejected(level)[0], below.rejected(level)[0]) for level in LEVELS])
    return np.array(different), np.array(equal)


def holm_at(looks: NDArray[np.int64], last: NDArray[np.int64], look: int) -> NDArray[np.bool_]:
    """Which contrasts Holm rejects by a look, where contrast i was last looked at in look `last[i]`."""
    rejected = np.zeros(len(looks), dtype=bool)
    while not rejected.all():
        more = ~rejected & (looks[:, rejected.sum()] <= np.minimum(last, look))
        if not more.any():
            break
        rejected |= more
    return rejected


def grow(
    different: NDArray[np.int64], equal: NDArray[np.int64], rounds: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.bool_]]:
    """The last look at each contrast, and whether it ends as a difference, and as equivalent; each (contrasts,)."""
    last = np.full(len(different), rounds - 1)
    for look in range(rounds):
        decided = holm_at(different, last, look) | holm_at(equal, last, look)
        last = np.where(decided & (last > look), look, last)
    return last, holm_at(different, last, rounds), holm_at(equal, last, rounds)


def simulate(case: Growing, studies: int, seed: int = 0) -> Rates:
    """The rates of a case: this many studies under the null, at the margin, with a lead and with twice the lead."""
    plan = SequentialDesign(case.first, case.maximum)
    tests = GroupSequential(plan, CONTRASTS, BITS)
    kind = Case(case.cells, case.maximum, case.noise, False)
    lead, looks = lead_for(kind), plan.looks
    rng = np.random.default_rng([seed, case.cells, case.first, NOISE.index(case.noise)])

    def study_of(leads: Sequence[float], scale: float = 1.0) -> list[FloatArray]:
        """Paired differences of a study with all seeds; `scale` is that of the noise."""
        outcomes = study(kind, np.asarray(leads) / scale, rng)
        return [scale * outcomes.differences(arm, 0) for arm in range(1, ARMS)]

    false, equivalent, covered = 0, 0, []
    found = {1: [0, 0.0], 2: [0, 0.0]}
    fixed = 0
    for _ in range(studies):
        null = study_of([0.0] * ARMS)
        last, different, _ = grow(*first_looks(null, tests), len(looks))
        false += bool(different.any())
        for each, end in zip(null, last, strict=True):
            low, high = tests.interval(each[:, : looks[end]])
            covered.append(low <= 0 <= high)
        margin = study_of([0.0] + [MARGIN] * CONTRASTS, scale=0.25)
        equivalent += bool(grow(*first_looks(margin, tests), len(looks))[2].any())
        for times, sums in found.items():
            ahead = study_of([0.0] * CONTRASTS + [times * lead])
            last, different, _ = grow(*first_looks(ahead, tests), len(looks))
            sums[0] += bool(different[-1])
            sums[1] += looks[last[-1]]
            if times == 1:
                fixed += bool(once(ahead, tests)[-1])
    numbers = [
        false / studies,
        float(np.mean(covered)),
        equivalent / studies,
        found[1][0] / studies,
        fixed / studies,
        found[1][1] / studies,
        found[2][0] / studies,
        found[2][1] / studies,
    ]
    return Rates(studies, *(round(number, 4) for number in numbers))


def once(differences: Sequence[FloatArray], tests: GroupSequential) -> NDArray[np.bool_]:
    """Which contrasts the same test finds when it looks once, at the end."""
    looks = [tests.statistics(each)[-1] for each in differences]
    return holm([float(np.mean(np.abs(each) >= abs(each[0]) * (1 - 1e-9))) for each in looks]) <= ALPHA


Procedure = Callable[[FloatArray, SequentialDesign, int], list[int]]


def spending(power: float, *, apart: bool = False) -> Procedure:
    """Looks that spend the level with this power of the share of seeds."""

    def looks_at(differences: FloatArray, plan: SequentialDesign, rounds: int) -> list[int]:
        kept, designs.SPENDING = designs.SPENDING, power
        try:
            tests = GroupSequential(plan, CONTRASTS, BITS)
            if not apart:
                orbit = tests.orbit(differences)
                return [orbit.rejected(level)[0] for level in LEVELS]
            shares = plan.shares(len(differences), CONTRASTS)
        finally:
            designs.SPENDING = kept
        looks = np.abs(tests.statistics(differences))
        p = np.mean(looks >= looks[:, :1] * (1 - 1e-9), axis=1)
        return [int(np.argmax(np.append(p <= level * shares, True))) for level in LEVELS]

    return looks_at


def e_value(differences: FloatArray, plan: SequentialDesign, rounds: int) -> list[int]:
    """Bets of 0.2 to 3 spreads either way; the spread is the root mean square so far, on which signs do not depend."""
    values = differences.T.ravel()
    values = values / np.sqrt(np.cumsum(values**2) / np.arange(1, values.size + 1))
    bets = np.concatenate([-np.geomspace(0.2, 3, 12), np.geomspace(0.2, 3, 12)])[:, None]
    wealth = np.exp(np.cumsum(bets * values - np.log(np.cosh(bets * values)), axis=1)).mean(axis=0)
    best = np.maximum.accumulate(wealth)[np.array(plan.looks) * len(differences) - 1]
    return [int(np.argmax(np.append(best >= 1 / level, True))) for level in LEVELS]


PROCEDURES: dict[str, Procedure] = {
    "spending 1": spending(1.0),
    "spending 2": spending(2.0),
    "spending 3": spending(3.0),
    "Bonferroni": spending(2.0, apart=True),
    "e-value": e_value,
}


def compare(case: Growing, studies: int, seed: int = 0) -> list[dict[str, object]]:
    """Every procedure on the same studies: false, power and seeds for the lead and twice the lead."""
    plan = SequentialDesign(case.first, case.maximum)
    kind = Case(case.cells, case.maximum, case.noise, False)
    lead, looks = lead_for(kind), np.array([*plan.looks, plan.maximum])
    rng = np.random.default_rng([seed, case.cells, case.first, NOISE.index(case.noise)])
    counts = {name: np.zeros(5) for name in PROCEDURES}
    never = np.full((CONTRASTS, CONTRASTS), len(plan.looks))
    for _ in range(studies):
        for times in (0, 1, 2):
            outcomes = study(kind, np.array([0.0] * CONTRASTS + [times * lead]), rng)
            differences = [outcomes.differences(arm, 0) for arm in range(1, ARMS)]
            for name, procedure in PROCEDURES.items():
                found = np.array([procedure(each, plan, len(plan.looks)) for each in differences])
                last, different, _ = grow(found, never, len(plan.looks))
                counts[name] += np.array(
                    [
                        times == 0 and different.any(),
                        times == 1 and different[-1],
                        (times == 1) * looks[last[-1]],
                        times == 2 and different[-1],
                        (times == 2) * looks[last[-1]],
                    ]
                )
    names = ("false", "power", "seeds", "power_twice", "seeds_twice")
    return [
        asdict(case)
        | {"procedure": name, "studies": studies}
        | dict(zip(names, (sums / studies).round(4), strict=True))
        for name, sums in counts.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Error rates and seeds of studies that grow until decided.")
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--procedures", action="store_true", help="compare ways to look, in three cases")
    parser.add_argument("--json", type=Path, help="where to write the rates; default: benchmarks/results")
    options = parser.parse_args()
    rows: list[dict[str, object]] = []
    if options.procedures:
        kinds = (Growing(2, 3, 12, "normal"), Growing(4, 3, 12, "normal"), Growing(2, 5, 20, "skewed"))
        with ProcessPoolExecutor() as pool:  # each case has its own random numbers
            for found in pool.map(partial(compare, studies=options.studies), kinds):
                rows += found
                for row in found:
                    print(" ".join(f"{value:>11}" for value in row.values()), flush=True)
    else:
        print(" ".join(f"{name:>11}" for name in (*Growing.__annotations__, *Rates.__annotations__)))
        with ProcessPoolExecutor() as pool:
            for case, rates in zip(cases(), pool.map(partial(simulate, studies=options.studies), cases()), strict=True):
                rows.append(asdict(case) | asdict(rates))
                print(" ".join(f"{value:>11}" for value in rows[-1].values()), flush=True)
    name = "sequential_procedures.json" if options.procedures else "sequential.json"
    path = options.json or RESULTS / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
