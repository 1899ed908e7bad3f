"""PyTorch training step on a GPU: bf16 autocast, scaled_dot_product_attention, fused AdamW, eager or compiled."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.shapes import Shape
from benchmarks.torch_peer import TorchStepper


class TorchGpuStepper(TorchStepper):
    """Full training steps of one model on one batch that stays on the device. No result is copied to the host."""

    def __init__(self, shape: Shape, position: str, *, compiled: bool) -> None:
        rng, config = np.random.default_rng(0), shape.config(position)
        images = rng.standard_normal((shape.batch, shape.image, shape.image, shape.channels), dtype=np.float32)
        targets = rng.dirichlet(np.ones(shape.classes), shape.batch).astype(np.float32)
        super().__init__(config, images, targets, compiled=False, device="cuda")
        if compiled:
            self.model = torch.compile(self.model, mode="max-autotune")
        self.batch, self.compiled = shape.batch, compiled

    def start(self, steps: int) -> None:
        """Start `steps` training steps without waiting for them."""
        for _ in range(steps):
            if self.compiled:
                torch.compiler.cudagraph_mark_step_begin()
            with torch.autocast("cuda", torch.bfloat16):
                loss = F.cross_entropy(self.model(self.images), self.targets)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(self.parameters, 1.0)
            self.optimizer.step()

    def wait(self) -> None:
        torch.cuda.synchronize()
