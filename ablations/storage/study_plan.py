"""StudyPlan: the grid of a study and the keys of its runs."""

from dataclasses import asdict, dataclass, fields
from typing import Any

from ablations.config import ComputeMatch, RunConfig, SequentialDesign


@dataclass(frozen=True)
class StudyPlan:
    """What a study is made of: the grid as it was asked for, and the keys of its runs in order."""

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

    @property
    def runs(self) -> dict[str, RunConfig]:
        """The configs by key, in order."""
        return dict(zip(self.keys, self.configs, strict=True))

    def to_plain(self) -> dict[str, Any]:
        """Plain values for JSON."""
        plain = {item.name: getattr(self, item.name) for item in fields(self)}
        design = {} if self.design is None else asdict(self.design)
        if not self.protocols:  # as in plans that are older than the field
            del plain["protocols"]
        del plain["match"]
        if self.match is not None:
            plain["match"] = self.match.to_plain()
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
        )


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
