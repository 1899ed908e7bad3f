"""What happens to the threads of an engine when a lane fails."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest

from tests.support.small import batch, build, config
from vit.engine import AdamWConfig, Engine, _Turn
from vit.lane import Lane
from vit.model import one_hot
from vit.workspace import Draws


def in_a_thread(work: Callable[..., object], *arguments: object) -> "Future[object]":
    """Runs `work` in a thread that may hang without holding up the end of the tests."""
    future: Future[object] = Future()

    def run() -> None:
        try:
            future.set_result(work(*arguments))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def break_lane(monkeypatch: pytest.MonkeyPatch, broken: int, lanes: int) -> None:
    """The given lane of a step raises, once the lane before it is done."""
    original = Lane.train

    def train(lane: Lane, images: np.ndarray, targets: np.ndarray, scale: float, draws: Draws) -> np.ndarray:
        if draws.lane == broken:
            raise ArithmeticError(f"lane {broken} of {lanes}")
        return original(lane, images, targets, scale, draws)

    monkeypatch.setattr(Lane, "train", train)


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("broken", [0, 1, 2, 3])
def test_a_lane_that_fails_ends_the_step_with_its_own_error(
    broken: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not with that of a lane that waited for it."""
    small = config()
    images, labels = batch(small, 16)
    engine = Engine(build(small), AdamWConfig(), batch_size=16, threads=threads)
    targets = one_hot(labels, small.classes)
    engine.step(images, targets)
    with monkeypatch.context() as patch:
        break_lane(patch, broken, 4)
        with pytest.raises(ArithmeticError, match=f"lane {broken} of 4"):
            in_a_thread(engine.step, images, targets).result(timeout=60)
    assert np.isfinite(engine.step(images, targets)).all()
    engine.close()


def test_a_turn_abandoned_while_another_is_taken_stays_abandoned() -> None:
    """Whoever waits hears of the failure, however the lane that has the turn ends."""
    turn = _Turn()
    with turn.of(0):
        turn.abandon()

    def wait() -> None:
        with turn.of(2):
            pass

    with pytest.raises(RuntimeError, match="failed"):
        in_a_thread(wait).result(timeout=60)


@pytest.mark.slow
def test_a_process_that_compiles_gives_the_bits_of_one_that_finds_the_kernels(tmp_path: Path) -> None:
    program = """
import numpy as np
from vit import ViT, ViTConfig, get_ops, one_hot
from vit.engine import Engine, AdamWConfig
config = ViTConfig(image_size=8, patch_size=2, channels=1, classes=10, width=64, depth=2, heads=2, position="rope")
rng = np.random.default_rng(0)
model = ViT(config, get_ops("numpy"), seeds=[0])
engine = Engine(model, AdamWConfig(), 64)
targets = one_hot(rng.integers(0, 10, (1, 64)), 10, smoothing=0.1)
for _ in range(3):
    engine.step(rng.standard_normal((1, 64, 8, 8, 1)).astype("float32"), targets, 1e-3)
engine.close()
print(model.parameters.flat.tobytes().hex())
"""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    compiled, found = (
        subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
        for _ in range(2)
    )
    assert compiled.stdout == found.stdout
