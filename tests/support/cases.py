"""One call of an operation: its arguments, which of them it may write, and random arrays for it."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vit.backend import Ops


@dataclass
class Case:
    """One call: arrays by argument name in float64, other arguments, and the names of what is written.

    An argument that is only written starts as NaN, so that a gap shows.
    """

    arrays: dict[str, np.ndarray]
    written: set[str]
    other: dict[str, Any] = field(default_factory=dict)

    def run(self, ops: Ops, method: str) -> "Outcome":
        """Calls the method on copies of the arrays in the type of `ops`."""
        arrays = self.cast(ops)
        result = getattr(ops, method)(**arrays, **self.other)
        return Outcome(arrays, result)

    def cast(self, ops: Ops) -> dict[str, np.ndarray]:
        return {name: array if name in KEPT else array.astype(ops.dtype) for name, array in self.copies().items()}

    def copies(self) -> dict[str, np.ndarray]:
        return {name: array.copy() for name, array in self.arrays.items()}

    def rounded(self, dtype: str) -> "Case":
        """The same case with arrays that are exact in `dtype`."""
        arrays = {name: a if name in KEPT else a.astype(dtype).astype(np.float64) for name, a in self.arrays.items()}
        return Case(arrays, self.written, self.other)


KEPT = ("gradient_scale", "rate", "decay")
"""Arguments of the optimiser that are float64 whatever the type of the backend."""


@dataclass
class Outcome:
    arrays: dict[str, np.ndarray]
    result: Any

    def written(self, case: Case) -> dict[str, np.ndarray]:
        """What the call was for: the arrays it may write, and what it returns where that is no argument."""
        out = {name: self.arrays[name] for name in sorted(case.written)}
        if self.result is not None and not any(self.result is array for array in self.arrays.values()):
            out["result"] = np.asarray(self.result)
        return out


class Draw:
    """Normal arrays led by the run axis."""

    def __init__(self, runs: int, seed: int) -> None:
        self.runs, self.rng = runs, np.random.default_rng((7, seed))

    def __call__(self, *shape: int) -> np.ndarray:
        return self.rng.normal(size=(self.runs, *shape))

    def blank(self, *shape: int) -> np.ndarray:
        return np.full((self.runs, *shape), np.nan)

    def softmax(self, *shape: int) -> np.ndarray:
        e = np.exp(self(*shape))
        return e / e.sum(axis=-1, keepdims=True)
