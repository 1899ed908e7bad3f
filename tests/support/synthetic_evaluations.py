"""Made-up evaluations of made-up results, with known truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ablations.config import RunConfig
from ablations.evaluation import PROTOCOLS, Evaluations, protocol
from tests.support.synthetic_results import FakeResults

ALL = tuple(PROTOCOLS)
CLASSES = 10
IMAGES = 397
LEVEL = {"%": 0.5, "nats": 0.3, "pixels": 3.0, "": 0.2}
GAIN = {"none": 0.0, "learned": 0.03, "sinusoidal": 0.0, "rope": 0.06}
"""Added to every metric of an arm, as a share of its level."""


def noise(config: RunConfig, name: str) -> float:
    seed = [config.seed, config.depth, config.patch, *map(ord, f"{config.position} {name}")]
    return float(np.random.default_rng(seed).normal())


def value(config: RunConfig, text: str, name: str, unit: str) -> float:
    gain = GAIN.get(config.position, 0.01)
    return LEVEL[unit] * (1 + gain + 0.002 * noise(config, name))


def confusion(config: RunConfig) -> np.ndarray:
    """3 and 8 are confused in 8 images of a run, with rope in 2; 1 and 7 in 1 or 2 images."""
    matrix = np.diag(np.full(CLASSES, IMAGES // CLASSES))
    matrix[3, 8], matrix[8, 3] = (1, 1) if config.position == "rope" else (5, 3)
    matrix[1, 7] = 1 + config.seed % 2
    return matrix


def arrays(config: RunConfig, text: str) -> dict[str, np.ndarray]:
    name = protocol(text).name
    rng = np.random.default_rng(config.seed)
    if name == "calibration":
        confidence = np.linspace(0.3, 0.99, 15)
        accuracy = np.clip(confidence - 0.1, 0, 1)
        return {"count": np.array([27] * 7 + [26] * 8), "confidence": confidence, "accuracy": accuracy}
    if name == "per-class":
        return {"confusion": confusion(config)}
    if name == "attention":
        return {"distance": 3 + 0.2 * rng.normal(size=(config.depth, config.heads))}
    if name == "position-probe":
        return {"r2": np.linspace(0.9, 0.3, config.depth + 1)}
    return {}


def make(
    results: FakeResults,
    protocols: Sequence[str] = ALL,
    beforehand: Sequence[str] = (),
    *,
    measure: Callable[[RunConfig, str, str, str], float | None] = value,
    reasons: dict[str, Callable[[RunConfig], str | None]] | None = None,
    outdated: Sequence[str] = (),
) -> Evaluations:
    """Evaluations of every finished run; `measure` returns a value of (config, protocol, metric, unit), or None."""
    texts = [str(protocol(text)) for text in protocols]
    configs = {key: results.plan.runs[key] for key in results.runs["key"]}
    rows: list[dict[str, Any]] = []
    for key, config in configs.items():
        for text in texts:
            for metric in protocol(text).metrics():
                found = measure(config, text, metric.name, metric.unit)
                if found is not None:
                    rows.append({"key": key, "protocol": text, "metric": metric.name, "value": found})
    missing = {
        (key, text): (line,)
        for text, why in (reasons or {}).items()
        for key, config in configs.items()
        if (line := why(config)) is not None
    }
    first = [text for text in texts if text in beforehand]
    return Evaluations(
        pd.DataFrame(rows, columns=["key", "protocol", "metric", "value"]),
        (*first, *sorted({*texts} - {*first})),
        frozenset(first),
        missing,
        len(outdated),
        lambda key, text: arrays(configs[key], text),
        tuple(outdated),
    )
