"""How long runs take, from a few of their steps."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import numpy as np

from ablations.config import RunConfig
from ablations.data import Dataset
from ablations.machine.bench import alternate
from ablations.training.stack import StackedRun
from ablations.training.trainer import make_stack
from vit import cost

CALIBRATION_STEPS = 6


def calibrate(
    config: RunConfig, dataset: Dataset, *, backend: str = "numpy", threads: int | None = None, stack: int = 1
) -> float:
    """Estimate the seconds per epoch of this run from a few steps; its share of them in a stack."""
    times = []
    with _trial(config, dataset, backend, threads, stack) as (trial, steps):
        for _ in range(CALIBRATION_STEPS):
            begun = time.perf_counter()
            trial()
            times.append(time.perf_counter() - begun)
    return float(np.median(times[2:])) * steps


def epoch_times(
    configs: Sequence[RunConfig],
    datasets: Sequence[Dataset],
    *,
    seconds: float,
    backend: str = "numpy",
    threads: int | None = None,
    stack: int = 1,
) -> np.ndarray:
    """Measure the seconds per epoch of runs in turn, (rounds, runs), for so long but at least five rounds.

    A round times a few steps of each run, directly after untimed steps of the same run.
    """
    with ExitStack() as contexts:
        trials, steps = zip(
            *(
                contexts.enter_context(_trial(config, dataset, backend, threads, stack))
                for config, dataset in zip(configs, datasets, strict=True)
            ),
            strict=True,
        )
        return alternate(trials, seconds) * np.array(steps)


@contextmanager
def _trial(
    config: RunConfig, dataset: Dataset, backend: str, threads: int | None, stack: int
) -> Iterator[tuple[Callable[[], object], float]]:
    """Return a context with a function that executes a training step, and the number of such steps in an epoch.

    The number includes the validation, and is the share of one run in a stack.
    """
    members = [StackedRun(replace(config, seed=config.seed + r), dataset) for r in range(stack)]
    together = make_stack(members, dataset, backend, threads)
    try:
        forward_only = len(members[0].loader.validation) / together.batch_size / cost.TRAINING_FACTOR
        yield together.trial(), (together.steps + forward_only) / stack
    finally:
        together.close()
