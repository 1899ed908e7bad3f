"""Made-up results of a study, with known truth, for the tests of everything that reads results."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from ablations.config import (
    FIELDS,
    GRIDS,
    ComputeMatch,
    Grid,
    RunConfig,
    SequentialDesign,
    TuningDesign,
    vit_config,
)
from ablations.config.run_config import ADDED_FIELDS, DEFAULTS
from ablations.storage import TrialRun
from vit import ViT, get_ops

GAIN = {"none": 0.0, "learned": 21.5, "sinusoidal": 21.3, "rope": 22.6}


@dataclass(frozen=True)
class Plan:
    study: str
    grid: str
    question: str
    baseline: str
    axes: dict[str, tuple[Any, ...]]
    seeds: tuple[int, ...]
    keys: list[str]
    configs: list[RunConfig]
    command: str
    design: SequentialDesign | None = None
    match: ComputeMatch | None = None
    tuning: TuningDesign | None = None
    trials: tuple[TrialRun, ...] = ()

    @property
    def runs(self) -> dict[str, RunConfig]:
        return dict(zip(self.keys, self.configs, strict=True))


@dataclass(frozen=True)
class FakeResults:
    plan: Plan
    runs: pd.DataFrame
    epochs: pd.DataFrame
    missing: list[RunConfig] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    environments: dict[str, dict[str, Any]] = field(default_factory=dict)

    images: int = 0
    """Test images of which the runs have predictions; 0: none."""
    trials: pd.DataFrame | None = None
    trial_epochs: pd.DataFrame | None = None

    def checkpoint(self, key: str) -> dict[str, np.ndarray]:
        row = self.runs.set_index("key").loc[key]
        if row["diverged"]:
            return {"pos_embed": np.full((1, (8 // int(row["patch"])) ** 2, 64), np.nan, np.float32)}
        grid = 8 // int(row["patch"])
        rng = np.random.default_rng(int(row["seed"]))
        y, x = np.divmod(np.arange(grid * grid), grid)
        waves = rng.normal(size=(2, 64)) * 0.8
        table = np.cos(np.outer(x, waves[0]) + np.outer(y, waves[1])) + 0.3 * rng.normal(size=(grid**2, 64))
        return {"pos_embed": table[None].astype(np.float32)} if row["position"] == "learned" else {}

    def mistakes(self, key: str) -> dict[str, np.ndarray] | None:
        """None, as of runs of older versions."""
        return None

    def preprocessing(self, key: str) -> None:
        return None

    def predictions(self, key: str) -> dict[str, np.ndarray]:
        """As many correct as the accuracy says; some images are hard for every run."""
        if not self.images:
            return {}
        row = self.runs.set_index("key").loc[key]
        labels = np.arange(self.images) % 10
        hard = np.random.default_rng(0).random(self.images)
        own = np.random.default_rng(int(key[:8], 16)).random(self.images)
        wrong = np.argsort(hard + own)[round(self.images * row["test_accuracy"]) :]
        predicted = labels.copy()
        predicted[wrong] = (labels[wrong] + 1) % 10
        return {"labels": labels, "predicted": predicted, "probabilities": np.full((self.images, 10), 0.1, np.float32)}


class Untrained(FakeResults):
    """Results whose checkpoints are models before training."""

    def checkpoint(self, key: str) -> dict[str, np.ndarray]:
        config = self.plan.runs[key]
        model = vit_config(config, image_size=8, channels=1, classes=10)
        return ViT(model, get_ops("numpy"), [config.seed]).state_dict()


def untrained(results: FakeResults) -> Untrained:
    return Untrained(**vars(results))


def accuracy(config: RunConfig, noise: float = 0.5) -> float:
    """Share of test images correct; position, depth and patch matter, and so does position x patch."""
    shared = np.random.default_rng([config.seed, config.depth, config.patch])
    own = np.random.default_rng(
        [config.seed, config.depth, config.patch, len(config.position), ord(config.position[0])]
    )
    percent = 71 + GAIN.get(config.position, 20.0) + 0.7 * (config.depth / 2 - 1) - 3.0 * (config.patch / 2 - 1)
    if config.position != "none":
        percent -= 4.0 * (config.patch / 2 - 1)
    percent += noise * (shared.normal() + own.normal())
    return round(percent / 100 * 397) / 397


def written(config: RunConfig) -> str:
    """Return a config as it was written when the golden report was made, without younger fields at their defaults."""
    fields = {name: getattr(config, name) for name in FIELDS}
    old = {name: each for name, each in fields.items() if name not in ADDED_FIELDS or each != DEFAULTS[name]}
    return f"RunConfig({', '.join(f'{name}={each!r}' for name, each in old.items())})"


def make(
    axes: dict[str, tuple[Any, ...]] | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    *,
    missing: Callable[[RunConfig], bool] = lambda config: False,
    measure: Callable[[RunConfig], float] = accuracy,
    baseline: str = "none",
    study: str = "rope",
    base: RunConfig | None = None,
    design: SequentialDesign | None = None,
    asked: Callable[[RunConfig], bool] = lambda config: True,
    survives: Callable[[RunConfig], bool] = lambda config: True,
    images: int = 0,
    settle: Callable[[RunConfig], RunConfig] = lambda config: config,
) -> FakeResults:
    """A study as the store would load it, without the runs for which `missing` is true.

    Runs for which `survives` is false have diverged in epoch 3. `settle` gives a run of a tuned study its values.

    With a `design` it is one that grows in rounds, and its plan has the runs for which `asked` is true.
    """
    if axes is None:
        axes = {"position": tuple(GAIN), "depth": (2, 4), "patch": (2, 4)}
    question = GRIDS["rope"].question
    grid = Grid(study, question, base or RunConfig(), axes, tuple(seeds), baseline)
    configs = [settle(config) for config in grid.expand() if asked(config)]
    keys = [hashlib.sha256(written(config).encode()).hexdigest() for config in configs]
    command = f"vitab run --grid {study}"
    plan = Plan(study, study, question, baseline, axes, tuple(seeds), keys, configs, command, design=design)
    rows, epochs, lost, environments = [], [], [], {}
    for key, config in zip(keys, configs, strict=True):
        if missing(config):
            lost.append(config)
            continue
        final = measure(config) if survives(config) else 0.1
        final = round(images * final) / images if images else final
        tokens = (8 // config.patch) ** 2
        flops = 3 * 30 * 1190 * tokens * config.depth * (24 * 64 * 64 + 4 * tokens * 64)
        seconds = round(flops / 4e10 + 0.2 * config.depth, 3)
        rows.append(
            {
                "key": key,
                **asdict(config),
                "test_accuracy": final,
                "test_loss": round(2.0 - 1.5 * final, 4),
                "validation_accuracy": round(final - 0.01, 4),
                "parameters": 50_000 * config.depth + 64 * tokens,
                "flops": flops,
                "train_seconds": seconds,
                "seconds": round(seconds + 0.4, 3),
                "diverged": 0 if survives(config) else 3,
            }
        )
        rng = np.random.default_rng(config.seed)
        for epoch in range(1, 31 if survives(config) else 3):
            wobble = rng.normal() * 0.02 * np.exp(-epoch / 10)
            reached = 0.1 + (final - 0.1) * (1 - np.exp(-epoch / (4 + config.patch))) + wobble
            epochs.append(
                {
                    "key": key,
                    "position": config.position,
                    "depth": config.depth,
                    "patch": config.patch,
                    "seed": config.seed,
                    "epoch": epoch,
                    "learning_rate": 2e-3,
                    "train_loss": 2.3 * np.exp(-epoch / 12),
                    "validation_loss": 2.3 * np.exp(-epoch / 11),
                    "validation_accuracy": reached,
                    "seconds": seconds / 30,
                }
            )
        environments[key] = {
            "git_commit": "0123abc",
            "git_dirty": False,
            "packages": {"numpy": "2.4.0", "scipy": "1.17.0"},
            "cpu": "Example CPU",
            "threads": 2,
            "data_sha256": "f" * 64,
        }
    failed = {keys[configs.index(config)]: "NonFiniteLoss: loss is nan | epoch 3" for config in lost[:1]}
    return FakeResults(plan, pd.DataFrame(rows), pd.DataFrame(epochs), lost, failed, environments, images)
