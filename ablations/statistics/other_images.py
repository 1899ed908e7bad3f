"""Intervals of differences over other test images as well as other seeds.

The other intervals are about other seeds on this test set. Here the n test images are a sample, too. All runs share
them, so seeds and images are crossed. With the differences d_gsi = correct - correct of the reference (setting g,
seed s, image i), the variance of the estimate is

    V = V_seeds + V_images - V_both,

as in the analysis of variance of two crossed random effects (Searle, Casella and McCulloch 1992; Owen 2007). V_seeds is
the variance of seeds within settings (`intervals.estimate_error`), V_images = var_i(mean over g and s of d_gsi) / n.
Both contain V_both, that of the interaction of seed and image, so it is subtracted once.

The interval over seeds follows skew and has few degrees of freedom. It is combined with the further variance of the
images by the square-and-add method (Zou and Donner 2008): a half-width h becomes

    sqrt(h^2 + t^2 max(V_images - V_both, 0)).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from ablations.statistics.intervals import LEVEL
from ablations.statistics.outcomes import FloatArray, Outcomes

if TYPE_CHECKING:
    from ablations.statistics.contrasts import Contrast

Predictions = Callable[[str], Mapping[str, NDArray[Any]]]


@dataclass(frozen=True)
class OtherImages:
    """The 95 % interval `low`, `high` of a contrast over other seeds and other test images, in points.

    `seeds_low`, `seeds_high`: that over other seeds alone. `error`: the standard error from the choice of the `images`
    test images alone.
    """

    subject: str
    reference: str
    mean: float
    seeds_low: float
    seeds_high: float
    low: float
    high: float
    error: float
    images: int


def image_variance(settings: Sequence[FloatArray]) -> float:
    """Return V_images - V_both, at least 0, from differences (seeds, images) in each setting; NaN for one image."""
    images = settings[0].shape[1]
    if images < 2:
        return np.nan
    cells = len(settings)
    means = np.mean([own.mean(axis=0) for own in settings], axis=0)
    both = 0.0
    for own in settings:
        seeds = own.shape[0]
        if seeds > 1:
            residual = own - own.mean(axis=0) - own.mean(axis=1, keepdims=True) + own.mean()
            both += float((residual**2).sum()) / ((seeds - 1) * (images - 1)) / (cells**2 * seeds * images)
    return max(float(means.var(ddof=1)) / images - both, 0.0)


def image_interval(
    mean: float, low: float, high: float, settings: Sequence[FloatArray], level: float = LEVEL
) -> tuple[float, float]:
    """Return the interval over other seeds and images, from that over other seeds and the differences by image."""
    images = settings[0].shape[1]
    further = float(special.stdtrit(images - 1, (1 + level) / 2)) ** 2 * image_variance(settings)
    return mean - float(np.hypot(mean - low, further**0.5)), mean + float(np.hypot(high - mean, further**0.5))


def other_images(outcomes: Outcomes, contrasts: Sequence[Contrast], predictions: Predictions) -> list[OtherImages]:
    """Return the interval of each contrast with the baseline that has one; empty if the runs have several test sets.

    `predictions` returns the labels (n,), predicted classes (n,) and probabilities (n, C) of a run, or nothing. A
    diverged run counts as correct in 1 / number of classes of every image.
    """
    correct = _correct(outcomes, predictions)
    if not correct:
        return []
    found = []
    for arm, contrast in zip(outcomes.others, contrasts, strict=True):
        known = np.isfinite(outcomes.differences(arm, outcomes.baseline))
        settings = [
            np.array([100 * (correct[str(a)] - correct[str(b)]) for a, b in zip(*pair, strict=True)])
            for row, pair in enumerate(zip(outcomes.keys[arm], outcomes.keys[outcomes.baseline], strict=True))
            if known[row].any()
            for pair in [tuple(keys[known[row]] for keys in pair)]
        ]
        if not np.isfinite(contrast.low):
            continue
        low, high = image_interval(contrast.mean, contrast.low, contrast.high, settings)
        found.append(
            OtherImages(
                subject=contrast.subject,
                reference=contrast.reference,
                mean=contrast.mean,
                seeds_low=contrast.low,
                seeds_high=contrast.high,
                low=max(low, -100.0),
                high=min(high, 100.0),
                error=image_variance(settings) ** 0.5,
                images=settings[0].shape[1],
            )
        )
    return found


def _correct(outcomes: Outcomes, predictions: Predictions) -> dict[str, FloatArray]:
    """Return whether each run classifies each test image correctly, by key; empty if their test sets differ."""
    labels, correct = None, {}
    for key in sorted({str(key) for key in outcomes.keys.ravel()} - {""}):
        found = predictions(key)
        if not found or (labels is not None and not np.array_equal(labels, found["labels"])):
            return {}
        labels = found["labels"]
        if key in outcomes.diverged:
            correct[key] = np.full(labels.size, 1 / found["probabilities"].shape[1])
        else:
            correct[key] = (found["predicted"] == labels).astype(float)
    return correct
