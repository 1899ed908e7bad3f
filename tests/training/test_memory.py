"""Estimates of memory against what is allocated, and what a process really takes."""

from typing import Any

import numpy as np
import pytest

from tests.support.cuda_device import cuda_ops
from tests.support.small import POSITIONS, build, config
from vit import ViT
from vit.engine import AdamWConfig, Engine
from vit.graph_engine import GraphEngine
from vit.memory import device_training_bytes, parameter_bytes, training_bytes
from vit.model import Network, one_hot
from vit.positions import BlockHook, Rotation, ScoreBias, TokenHook

MORE = ("rope-mixed+learned-axial", "relative-bias(shared=true)", "relative-keys", "alibi-2d", "cpe+rope", "lie-rope")


def constants(network: Network) -> list[np.ndarray]:
    """The arrays that the hooks of an encoding hold, other than views of parameters, tables and their gradients."""
    workspace = network.workspace
    views = [getattr(workspace, name).flat for name in ("parameters", "gradients", "tables", "dtables")]
    found: dict[int, np.ndarray] = {}
    left: list[Any] = [network.patch_embed.hook, *(block.hook for block in network.blocks)]
    while left:
        thing = left.pop()
        if isinstance(thing, np.ndarray):
            if not any(np.may_share_memory(thing, view) for view in views):
                found[id(thing)] = thing
        elif isinstance(thing, list):
            left += thing
        elif isinstance(thing, BlockHook | TokenHook | Rotation | ScoreBias):
            left += [value for name, value in vars(thing).items() if name not in ("branch", "x")]  # of a past step
    return [*found.values()]


def allocated(engine: Engine) -> int:
    """Bytes of every array that an engine holds."""
    model, optimizer = engine.model, engine.optimizer
    arrays = [model.parameters.flat, model.tables.flat, engine.gradient, engine._dtables.flat]
    arrays += [optimizer.first, optimizer.second]
    for lane in engine.lanes:
        workspace = lane.network.workspace
        arrays += [workspace.gradients.flat, workspace.dtables.flat, *workspace._memory.values()]
        arrays += constants(lane.network)
    compared = engine.gradient.nbytes + engine._dtables.flat.nbytes  # a copy during the first step
    return sum(array.nbytes for array in arrays) + compared


@pytest.mark.parametrize("position", [*POSITIONS, *MORE])
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
    engine = Engine(build(small, tuple(range(runs)), dtype), AdamWConfig(), batch, threads)
    rng = np.random.default_rng(0)
    images = rng.normal(size=(runs, batch, 8, 8, 2)).astype(dtype)
    targets = one_hot(rng.integers(5, size=(runs, batch)), 5).astype(dtype)
    engine.step(images, targets)
    engine.logits(images)
    estimate = training_bytes(small, runs=runs, batch_size=batch, threads=threads, dtype=dtype)
    assert estimate == allocated(engine)
    assert parameter_bytes(small, runs, dtype) == engine.model.parameters.flat.nbytes
    engine.close()


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize(("runs", "precision", "ema"), [(1, "float32", 0.0), (3, "bf16", 0.9)])
@pytest.mark.parametrize("changes", [{}, {"pool": "cls", "dropout": 0.1}, {"heads": 4}], ids=str)
def test_every_byte_of_a_graph_engine_is_counted(
    position: str, changes: dict[str, Any], runs: int, precision: str, ema: float
) -> None:
    """With 4 heads of width 8, attention is products and a softmax."""
    small, batch = config(**{"width": 32, "position": position} | changes), 5
    engine = GraphEngine(ViT(small, cuda_ops(precision), list(range(runs))), AdamWConfig(), batch, ema=ema)
    images = np.random.default_rng(0).normal(size=(runs, batch, 8, 8, 2)).astype(np.float32)
    engine.step(images, one_hot(np.zeros((runs, batch), dtype=int), 5))
    engine.logits(images)
    optimizer, flat = engine.optimizer, engine.model.parameters.flat
    arrays = [flat, engine.model.tables.flat, engine.gradient, optimizer.first, optimizer.second]
    arrays += [array for array in (optimizer.copy, optimizer.average) if array is not None]
    for network in (engine.network, engine.evaluated):
        arrays += [*constants(network), network.workspace.dtables.flat, *network.workspace._memory.values()]
    scratch = runs * batch * 3 * 32 * 4
    estimate = device_training_bytes(
        small, runs=runs, batch_size=batch, precision=precision, average=optimizer.average is not None
    )
    assert estimate == sum(array.nbytes for array in arrays) + scratch
