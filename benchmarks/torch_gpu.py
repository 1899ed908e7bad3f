"""The same step in PyTorch on a GPU: bf16 autocast, scaled_dot_product_attention, fused AdamW, eager or compiled."""

import multiprocessing
import time
from multiprocessing.synchronize import Barrier

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.gpu_speed import Way
from benchmarks.shapes import GPU_SHAPES, Shape
from benchmarks.torch_peer import TorchStepper

WARM_UP_STEPS = 10


class TorchGpuStepper(TorchStepper):
    """Full training steps of one model on one batch that stays on the device; nothing is read back."""

    def __init__(self, shape: Shape, position: str, *, compiled: bool) -> None:
        rng, config = np.random.default_rng(0), shape.config(position)
        images = rng.standard_normal((shape.batch, shape.image, shape.image, shape.channels), dtype=np.float32)
        targets = rng.dirichlet(np.ones(shape.classes), shape.batch).astype(np.float32)
        super().__init__(config, images, targets, compiled=False, device="cuda")
        if compiled:
            torch._dynamo.reset()
            self.model = torch.compile(self.model, mode="max-autotune")
        self.compiled = compiled

    def start(self, steps: int) -> None:
        """Starts so many steps."""
        for _ in range(steps):
            if self.compiled:
                torch.compiler.cudagraph_mark_step_begin()
            with torch.autocast("cuda", torch.bfloat16):
                loss = F.cross_entropy(self.model(self.images), self.targets)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(self.parameters, 1.0)
            self.optimizer.step()

    def way(self) -> Way:
        name = "torch compile" if self.compiled else "torch eager"
        return Way(name, len(self.images), self.start, torch.cuda.synchronize)


def side_by_side(shape: str, position: str, processes: int, seconds: float) -> float:
    """Images a second of so many processes, each training a model of its own in eager mode on the one GPU."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(processes), context.SimpleQueue()
    children = [
        context.Process(target=_train, args=(shape, position, barrier, results, seconds), daemon=True)
        for _ in range(processes)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join(60 + 3 * seconds)
    for child in children:
        if child.is_alive() or child.exitcode:
            child.kill()
            raise RuntimeError(f"one of {processes} PyTorch processes failed")
    return sum(results.get() for _ in children)


def _train(
    shape: str, position: str, barrier: Barrier, results: "multiprocessing.SimpleQueue[float]", seconds: float
) -> None:
    stepper = TorchGpuStepper(GPU_SHAPES[shape], position, compiled=False)
    stepper.start(WARM_UP_STEPS)
    torch.cuda.synchronize()
    barrier.wait(60)
    begun, images = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        stepper.start(5)
        torch.cuda.synchronize()
        images += 5 * len(stepper.images)
    results.put(images / (time.perf_counter() - begun))


def release() -> None:
    """Returns memory that nothing holds any more to the device."""
    torch._dynamo.reset()
    torch.cuda.empty_cache()
