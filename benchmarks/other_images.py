"""Coverage of intervals over other seeds and other test images, in simulated studies with known truth.

    python -m benchmarks.other_images                 # 2,000 studies of each kind
    python -m benchmarks.other_images --studies 200   # a quick check

Two arms are compared in G settings with S seeds on n test images, all drawn anew in every study. A model classifies an
image correctly if

    m + u + v + w + e > 0,

with m the arm's level in the setting, u ~ N(0, 0.1^2) of the arm's seed, v ~ N(0, 1.5^2) the easiness of the image, w ~
N(0, 0.5^2) its easiness for the arm, and e ~ N(0, 1) of seed and image. The true accuracy is
Phi(m / sqrt(1 + 0.1^2 + 1.5^2 + 0.5^2)). The program reports, in percent:

- over_seeds: intervals over other seeds (those of the report's main table) that contain the true difference over all
  seeds and images;
- over_both: the same for intervals over other seeds and images;
- wider: mean ratio of the widths of the two intervals;
- share: mean share of the variance that is due to the images.
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from scipy import special

from ablations.statistics.intervals import estimate_error, paired_interval
from ablations.statistics.other_images import image_interval, image_variance
from ablations.statistics.outcomes import FloatArray

RESULTS = Path(__file__).parent / "results" / "other_images.json"
OF_SEED, OF_IMAGE, OF_ARM = 0.1, 1.5, 0.5
SPREAD = float(np.sqrt(1 + OF_SEED**2 + OF_IMAGE**2 + OF_ARM**2))
ACCURACIES = {"alike": (0.95, 0.95), "near": (0.97, 0.96), "far": (0.95, 0.80)}


@dataclass(frozen=True)
class Case:
    """Kind of simulated study: number of settings, seeds and test images, and the true accuracies of the arms."""

    settings: int
    seeds: int
    images: int
    arms: str


def cases() -> list[Case]:
    shapes = [(1, 10), (2, 5), (2, 8), (4, 3)]
    return [Case(*shape, images, arms) for arms in ACCURACIES for images in (397, 2_000) for shape in shapes]


def truth(case: Case) -> tuple[float, FloatArray]:
    """Return the true difference in points, and the levels m (2 arms, settings); settings differ by up to 0.4."""
    levels = special.ndtri(np.array(ACCURACIES[case.arms]))[:, None] * SPREAD + np.linspace(-0.2, 0.2, case.settings)
    first, second = special.ndtr(levels / SPREAD)
    return 100 * float((first - second).mean()), levels


def study(case: Case, rng: np.random.Generator) -> list[FloatArray]:
    """Return the differences of one simulated study in points, (seeds, images) in each setting."""
    image = rng.normal(0, OF_IMAGE, case.images) + rng.normal(0, OF_ARM, (2, 1, case.images))
    found = []
    for levels in truth(case)[1].T:
        seed = rng.normal(0, OF_SEED, (2, case.seeds, 1))
        score = levels[:, None, None] + seed + image + rng.normal(size=(2, case.seeds, case.images))
        first, second = (score > 0).astype(float)
        found.append(100 * (first - second))
    return found


def one(case: Case, seed: int) -> tuple[bool, bool, float, float]:
    """Return whether each interval contains the truth, the ratio of their widths, and the images' share of variance."""
    settings = study(case, np.random.default_rng([seed, *case_numbers(case)]))
    differences = np.array([own.mean(axis=1) for own in settings])
    true, mean = truth(case)[0], float(differences.mean())
    low, high = paired_interval(differences)
    wide_low, wide_high = image_interval(mean, low, high, settings)
    images, seeds = image_variance(settings), estimate_error(differences)[0] ** 2
    ratio = (wide_high - wide_low) / (high - low) if high > low else np.nan
    share = images / (images + seeds) if images + seeds else np.nan
    return low <= true <= high, wide_low <= true <= wide_high, ratio, share


def case_numbers(case: Case) -> tuple[int, ...]:
    return case.settings, case.seeds, case.images, list(ACCURACIES).index(case.arms)


def rates(case: Case, studies: int) -> dict[str, object]:
    """Return the results of a case."""
    found = np.array([one(case, seed) for seed in range(studies)], dtype=float)
    seeds, both, ratio, share = np.nanmean(found, axis=0)
    numbers = {"over_seeds": 100 * seeds, "over_both": 100 * both, "wider": ratio, "share": 100 * share}
    return {**asdict(case), "studies": studies} | {name: round(float(value), 2) for name, value in numbers.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description="Coverage of intervals over other seeds and other test images.")
    parser.add_argument("--studies", type=int, default=2000)
    parser.add_argument("--json", type=Path, default=RESULTS, help="output file")
    options = parser.parse_args()
    rows = []
    with ProcessPoolExecutor() as pool:
        for row in pool.map(partial(rates, studies=options.studies), cases()):
            rows.append(row)
            if len(rows) == 1:
                print(*(f"{name:>11}" for name in row))
            print(*(f"{value!s:>11}" for value in row.values()), flush=True)
    options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
