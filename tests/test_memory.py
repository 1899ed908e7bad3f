"""Estimates of memory against what is allocated, and what a process really takes."""

from typing import Any

import numpy as np
import pytest
from small import POSITIONS, build, config

from vit.engine import Engine, Training
from vit.memory import parameter_bytes, training_bytes
from vit.model import one_hot


def allocated(engine: Engine) -> int:
    """Bytes of every array that an engine holds."""
    arrays = [engine.model.parameters.flat, engine.gradient, engine.optimizer.first, engine.optimizer.second]
    for lane in engine.lanes:
        workspace, position = lane.network.workspace, lane.network.position
        arrays += [workspace.gradients.flat, *workspace._memory.values()]
        tables = [vars(position)[name] for name in ("cos", "sin", "table") if name in vars(position)]
        arrays += [table for table in tables if not np.may_share_memory(table, engine.model.parameters.flat)]
    return sum(array.nbytes for array in arrays)


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize(
    "changes",
    [{}, {"pool": "cls", "depth": 3}, {"dropout": 0.1, "drop_path": 0.2}, {"mlp_ratio": 1.5, "patch_size": 4}],
    ids=str,
)
@pytest.mark.parametrize(
    ("runs", "batch", "threads", "dtype"), [(1, 33, 1, "float32"), (3, 33, 2, "float64"), (2, 3, 4, "float32")]
)
def test_every_byte_of_an_engine_is_counted(
    position: str, changes: dict[str, Any], runs: int, batch: int, threads: int, dtype: str
) -> None:
    small = config(position=position, **changes)
    engine = Engine(build(small, tuple(range(runs)), dtype), Training(), batch, threads)
    rng = np.random.default_rng(0)
    images = rng.normal(size=(runs, batch, 8, 8, 2)).astype(dtype)
    targets = one_hot(rng.integers(5, size=(runs, batch)), 5).astype(dtype)
    engine.step(images, targets)
    engine.logits(images)
    estimate = training_bytes(small, runs=runs, batch_size=batch, threads=threads, dtype=dtype)
    dropped = small.dropout and 2 * small.depth * small.width * runs * engine.threads * np.dtype(dtype).itemsize
    assert estimate == allocated(engine) + dropped  # a dropped branch has a bias of zeros until the next pass
    assert parameter_bytes(small, runs, dtype) == engine.model.parameters.flat.nbytes
    engine.close()
