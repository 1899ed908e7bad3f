"""The test images that the runs of each arm are most confidently wrong about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ablations.models.gallery import STORED, Mistake, most_confident
from ablations.statistics import Outcomes

if TYPE_CHECKING:
    from ablations.storage import Results

FEW_ARMS = 6
"""Arms up to which `MOST` images of each are shown; half as many of more arms."""
MOST = 6
assert MOST <= STORED, "the images of an arm are among those that its runs have stored"


@dataclass(frozen=True)
class ShownMistake:
    """A mistake of the run that is most confident in it."""

    mistake: Mistake
    pixels: np.ndarray
    """The image, uint8 (h, w, c)."""
    wrong: int
    """Runs of the arm that are wrong about the image."""


@dataclass(frozen=True)
class ArmMistakes:
    """The most confident mistakes of the runs of an arm, each image once."""

    arm: str
    runs: int
    shown: Sequence[ShownMistake]


@dataclass(frozen=True)
class Mistakes:
    """The most confident mistakes of every arm that has a trained run."""

    arms: Sequence[ArmMistakes]
    class_names: Sequence[str]

    def frame(self) -> pd.DataFrame:
        """Return a row for each image of each arm, the most confident mistake first."""
        rows = [
            {
                "arm": arm.arm,
                "image": one.mistake.image,
                "label": self.class_names[one.mistake.label],
                "predicted": self.class_names[one.mistake.predicted],
                "probability": one.mistake.predicted_probability,
                "probability_of_label": one.mistake.label_probability,
                "runs_wrong": one.wrong,
                "runs": arm.runs,
            }
            for arm in self.arms
            for one in arm.shown
        ]
        return pd.DataFrame(rows)


def find_mistakes(results: Results, outcomes: Outcomes) -> Mistakes | None:
    """Return the most confident mistakes of the arms over all their runs that did not diverge.

    None if a run has stored no images, as those of older versions, if the runs have different data, or if there is no
    mistake.
    """
    arms = [[str(key) for key in keys.ravel() if key and key not in outcomes.diverged] for keys in outcomes.keys]
    keys = [key for of_arm in arms for key in of_arm]
    stored = {key: results.mistakes(key) for key in keys}
    data = {results.environments.get(key, {}).get("data_sha256") for key in keys}
    if not keys or len(data) > 1 or any(found is None for found in stored.values()):
        return None
    preprocessing = results.preprocessing(keys[0])
    if preprocessing is None:
        return None
    count = MOST if sum(map(bool, arms)) <= FEW_ARMS else MOST // 2
    found = [
        _of_arm(results, outcomes.arm_name(arm), of_arm, [stored[key] or {} for key in of_arm], count)
        for arm, of_arm in enumerate(arms)
        if of_arm
    ]
    return Mistakes(found, preprocessing.class_names) if any(arm.shown for arm in found) else None


def _of_arm(
    results: Results, name: str, keys: Sequence[str], stored: Sequence[dict[str, np.ndarray]], count: int
) -> ArmMistakes:
    predictions = [results.predictions(key) for key in keys]
    pixels = {int(i): image for run in stored for i, image in zip(run["image"], run["pixels"], strict=True)}
    shown = [
        ShownMistake(
            one,
            pixels[one.image],
            sum(int(run["predicted"][one.image] != run["labels"][one.image]) for run in predictions),
        )
        for one in most_confident(predictions, count)
    ]
    return ArmMistakes(name, len(keys), shown)
