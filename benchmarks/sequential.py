"""Error rates of `--until-decided`, measured on simulated studies with known true differences.

    python -m benchmarks.sequential                  # 1,000 studies per case, on all cores
    python -m benchmarks.sequential --studies 200    # a quick check

The studies are those of `benchmarks.statistics`: four arms, 2 or 4 cells, three kinds of noise. A study has 3 or 5
seeds in the first round and at most four times as many in total. There is an interim analysis after every round, and
decided arms get no more seeds. The tests are those of the reports, with 2^12 sign patterns instead of 2^16; both are
exact. The program reports:

- false: share of studies in which any of the three contrasts with the baseline becomes significant although no arm
  differs;
- covered: share of 95 % intervals that contain the true difference when the study stops;
- false_equivalent: share of studies in which any of three arms that differ by the margin becomes equivalent, with a
  quarter of the noise;
- power: power for one arm with a true lead;
- fixed: power of a single test of that arm with the maximum number of seeds;
- seeds: mean number of seeds of that arm;
- power_twice, seeds_twice: the same for a lead twice as large.

The lead is the one for which a fixed study has a predicted power of 80 %.

`--procedures` compares five procedures on the same studies. Three spend alpha as the first, second and third power of
the share of seeds. One uses the second power with a Bonferroni correction for the interim analyses instead of their
joint distribution. The last is an e-value, the mean over bets b of prod exp(b d) / cosh(b d), which needs no plan.

`--plain` compares the studentised test of the reports with the test of the plain mean on the same studies: false
positives, power for an even lead, for an uneven one (all of it in every second cell), and the share of significant
differences for leads that cancel.
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
    """Kind of simulated study: number of cells, seeds in the first round, maximum number of seeds, kind of noise."""

    cells: int
    first: int
    maximum: int
    noise: str


@dataclass(frozen=True)
class Rates:
    """Rates of a case, and mean number of seeds of the arm with the true lead."""

    studies: int
    false: float
    covered: float
    false_equivalent: float
    power: float
    fixed: float
    seeds: float
    power_twice: float
    seeds_twice: float


SOME = (Growing(2, 3, 12, "normal"), Growing(4, 3, 12, "normal"), Growing(2, 5, 20, "skewed"))
"""Cases in which procedures and tests are compared."""


def cases() -> list[Growing]:
    """Return the cases: 2 cells with 3 and 5 seeds in the first round, and the 4 cells of the default grid with 3."""
    shapes = ((2, 3, 12), (2, 5, 20), (4, 3, 12))
    return [Growing(*shape, noise) for noise in NOISE for shape in shapes]


def first_looks(
    differences: Sequence[FloatArray], tests: GroupSequential
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the first analyses in which each contrast is significant, and in which it is equivalent.

    Both arrays are (contrasts, steps of Holm).
    """
    different, equal = [], []
    for each in differences:
        orbit, (above, below) = tests.orbit(each), tests.margin_orbits(each)
        different.append([orbit.rejected(level)[0] for level in LEVELS])
        equal.append([max(above.rejected(level)[0], below.rejected(level)[0]) for level in LEVELS])
    return np.array(different), np.array(equal)


def holm_at(looks: NDArray[np.int64], last: NDArray[np.int64], look: int) -> NDArray[np.bool_]:
    """Return which contrasts Holm's procedure rejects up to an analysis. Contrast i is last analysed in `last[i]`."""
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
    """Return the last analysis of each contrast, and whether it is then significant, and equivalent; (contrasts,)."""
    last = np.full(len(different), rounds - 1)
    for look in range(rounds):
        decided = holm_at(different, last, look) | holm_at(equal, last, look)
        last = np.where(decided & (last > look), look, last)
    return last, holm_at(different, last, rounds), holm_at(equal, last, rounds)


def simulate(case: Growing, studies: int, seed: int = 0) -> Rates:
    """Return the rates of a case, from `studies` studies each under the null, at the margin, and with two leads."""
    plan = SequentialDesign(case.first, case.maximum)
    tests = GroupSequential(plan, CONTRASTS, BITS)
    kind = Case(case.cells, case.maximum, case.noise, False)
    lead, looks = lead_for(kind), plan.looks
    rng = np.random.default_rng([seed, case.cells, case.first, NOISE.index(case.noise)])

    def study_of(leads: Sequence[float], scale: float = 1.0) -> list[FloatArray]:
        """Return the paired differences of a study with all seeds. The noise is multiplied by `scale`."""
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
    """Return which contrasts are significant in a single test with all seeds."""
    looks = [tests.statistics(each)[-1] for each in differences]
    return holm([float(np.mean(np.abs(each) >= abs(each[0]) * (1 - 1e-9))) for each in looks]) <= ALPHA


Procedure = Callable[[FloatArray, SequentialDesign, int], list[int]]


def spending(power: float, *, bonferroni: bool = False) -> Procedure:
    """Return a procedure that spends alpha as a power of the share of seeds.

    With `bonferroni`, the correlations between the analyses are ignored.
    """

    def looks_at(differences: FloatArray, plan: SequentialDesign, rounds: int) -> list[int]:
        kept, designs.SPENDING = designs.SPENDING, power
        try:
            tests = GroupSequential(plan, CONTRASTS, BITS)
            if not bonferroni:
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
    """Return the first analysis that rejects by the e-value, at each step of Holm.

    The bets are 0.2 to 3, of both signs, on differences divided by the root mean square of the differences so far.
    """
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
    "Bonferroni": spending(2.0, bonferroni=True),
    "e-value": e_value,
}


def compare(case: Growing, studies: int, seed: int = 0) -> list[dict[str, object]]:
    """Compare the procedures on the same studies: false positives, power and seeds for the lead and twice the lead."""
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


class Plain(GroupSequential):
    """The sequential test of the plain mean, as in earlier versions. Differences between cells count as noise."""

    @staticmethod
    def statistic(
        sums: Sequence[FloatArray], counts: NDArray[np.integer], squares: Sequence[FloatArray | float]
    ) -> FloatArray:
        return np.asarray(np.mean([own / count for own, count in zip(sums, counts, strict=True)], axis=0))


def beside_plain(case: Growing, studies: int, seed: int = 0) -> dict[str, object]:
    """Return the share of studies in which each test finds a difference, by the kind of leads of the last arm."""
    plan = SequentialDesign(case.first, case.maximum)
    kind = Case(case.cells, case.maximum, case.noise, False)
    lead, second = lead_for(kind), np.arange(case.cells) % 2
    kinds = {
        "false": np.zeros(case.cells),
        "even": np.full(case.cells, lead),
        "uneven": 2 * lead * second,
        "cancelling": 2 * lead * (1 - 2 * second),
    }
    rng = np.random.default_rng([seed, case.cells, case.first, NOISE.index(case.noise)])
    never = np.full((CONTRASTS, CONTRASTS), len(plan.looks))
    counts: dict[str, int] = {}
    for _ in range(studies):
        for name, leads in kinds.items():
            means = np.concatenate([np.zeros((CONTRASTS, case.cells)), leads[None]])
            outcomes = study(kind, means, rng)
            differences = [outcomes.differences(arm, 0) for arm in range(1, ARMS)]
            for test, suffix in ((GroupSequential, ""), (Plain, "_plain")):
                tests = test(plan, CONTRASTS, BITS)
                looks = np.array([[tests.orbit(each).rejected(level)[0] for level in LEVELS] for each in differences])
                different = grow(looks, never, len(plan.looks))[1]
                found = different.any() if name == "false" else different[-1]
                counts[name + suffix] = counts.get(name + suffix, 0) + bool(found)
    return asdict(case) | {"studies": studies} | {name: round(n / studies, 4) for name, n in counts.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description="Error rates and seeds of studies with --until-decided.")
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument(
        "--procedures", action="store_true", help="compare alpha-spending functions and alternatives, in three cases"
    )
    parser.add_argument("--plain", action="store_true", help="compare with the test of the plain mean, in three cases")
    parser.add_argument("--json", type=Path, help="output file (default: in benchmarks/results)")
    options = parser.parse_args()
    rows: list[dict[str, object]] = []
    if options.plain:
        with ProcessPoolExecutor() as pool:
            for row in pool.map(partial(beside_plain, studies=options.studies), SOME):
                rows.append(row)
                print(" ".join(f"{value:>11}" for value in row.values()), flush=True)
        (options.json or RESULTS / "sequential_plain.json").write_text(json.dumps(rows, indent=1) + "\n")
        return
    if options.procedures:
        with ProcessPoolExecutor() as pool:  # each case has its own random stream
            for found in pool.map(partial(compare, studies=options.studies), SOME):
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
