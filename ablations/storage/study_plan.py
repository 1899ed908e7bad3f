"""StudyPlan: the grid of a study, the keys of its runs, and the trials that precede them."""

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from ablations.config import ComputeMatch, RunConfig, SequentialDesign, TuningDesign


@dataclass(frozen=True)
class TrialRun:
    """A run of a trial: an arm at a setting, trained with values that are tried and a seed of the tuning."""

    key: str
    config: RunConfig
    number: int
    """Of the trial in its group, from 0: of an arm at a setting, or of an arm (`TuningDesign.per`)."""
    round: int
    """From 0."""
    thresholds: tuple[float, ...] = ()
    """Validation accuracy that the run must have reached by each epoch, else it is pruned; empty without pruning."""


@dataclass(frozen=True)
class StudyPlan:
    """What a study is made of: the grid as it was asked for, and the keys of its runs in order.

    The runs of a tuned study, which differ from arm to arm in the tuned fields, are known when its trials have
    finished; until then it has none.
    """

    study: str
    grid: str
    question: str
    baseline: str
    axes: dict[str, tuple[Any, ...]]
    seeds: tuple[int, ...]
    keys: tuple[str, ...]
    configs: tuple[RunConfig, ...]
    command: str
    design: SequentialDesign | None = None
    """Of a study that grows in rounds: the runs are those asked for so far."""
    protocols: tuple[str, ...] = ()
    """Evaluation protocols chosen before the training, in their standard spelling."""
    match: ComputeMatch | None = None
    """How the epochs of the arms were chosen, if not equal."""
    tuning: TuningDesign | None = None
    """Of a study whose arms are tuned before they are compared."""
    trials: tuple[TrialRun, ...] = ()
    """The runs of its trials, as far as they are planned: each round follows from the results of those before it."""

    @property
    def runs(self) -> dict[str, RunConfig]:
        """The configs by key, in order."""
        return dict(zip(self.keys, self.configs, strict=True))

    @property
    def all_configs(self) -> tuple[RunConfig, ...]:
        """The configs of the runs, and of the runs of trials."""
        return (*self.configs, *(trial.config for trial in self.trials))

    @property
    def searching(self) -> bool:
        """Whether the values of the arms are still searched: the study has trials to train, and no runs yet."""
        return self.tuning is not None and not self.keys

    @property
    def cells(self) -> int:
        """Number of arms at settings: of combinations of levels."""
        return math.prod(map(len, self.axes.values()))

    @property
    def all_runs(self) -> int:
        """Number of runs, also before the values of the arms are chosen."""
        return self.cells * len(self.seeds) if self.searching else len(self.keys)

    @property
    def all_trial_runs(self) -> int:
        """Number of runs of all trials, of those too that are not planned yet."""
        return 0 if self.tuning is None else self.cells * self.tuning.trials * self.tuning.seeds

    def to_plain(self) -> dict[str, Any]:
        """Plain values for JSON."""
        plain = {item.name: getattr(self, item.name) for item in fields(self)}
        design = {} if self.design is None else asdict(self.design)
        if not self.protocols:  # as in plans that are older than the field
            del plain["protocols"]
        del plain["match"], plain["tuning"], plain["trials"]
        if self.match is not None:
            plain["match"] = self.match.to_plain()
        if self.tuning is not None:
            plain["tuning"] = self.tuning.to_plain()
            plain["trials"] = [vars(trial) | {"config": trial.config.canonical()} for trial in self.trials]
        return plain | {"configs": [config.canonical() for config in self.configs], "design": design}

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> "StudyPlan":
        """Return the plan from the output of `to_plain`. Raises UsageError, TypeError or KeyError if invalid."""
        return cls(
            study=plain["study"],
            grid=plain["grid"],
            question=plain["question"],
            baseline=plain["baseline"],
            axes={name: tuple(map(_hashable, values)) for name, values in plain["axes"].items()},
            seeds=tuple(plain["seeds"]),
            keys=tuple(plain["keys"]),
            configs=tuple(RunConfig.from_mapping(config) for config in plain["configs"]),
            command=plain["command"],
            design=SequentialDesign(**plain["design"]) if plain.get("design") else None,
            protocols=tuple(plain.get("protocols", ())),
            match=ComputeMatch.from_plain(plain["match"]) if "match" in plain else None,
            tuning=TuningDesign.from_plain(plain["tuning"]) if "tuning" in plain else None,
            trials=tuple(map(_trial, plain.get("trials", ()))),
        )


def _trial(plain: dict[str, Any]) -> TrialRun:
    changed = {"config": RunConfig.from_mapping(plain["config"]), "thresholds": tuple(plain["thresholds"])}
    return TrialRun(**(plain | changed))


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
