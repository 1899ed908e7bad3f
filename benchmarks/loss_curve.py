"""Comparison of the losses of the same 100 training steps in vitab and PyTorch: `python -m benchmarks.loss_curve`.

Both use float32 and the same initial weights, batches, targets, learning rates, clipping and weight decay. The exit
code is 1 if the relative difference between the losses of the last step is more than 1e-3.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from ablations.config import RunConfig, find_recipe, vit_config
from ablations.data import load_for
from ablations.data.loader import Batch, DataLoader
from benchmarks.torch_peer import Model, TorchStepper
from vit import ViT, get_ops
from vit.engine import AdamWConfig, Engine
from vit.optim import warmup_cosine

TOLERANCE = 1e-3
NAMES = {"patch_embed.proj": "proj", "mlp.fc1": "fc1", "mlp.fc2": "fc2"}


def torch_state(state: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """Return a state of vitab as tensors with the parameter names of the PyTorch model."""
    renamed = {}
    for name, array in state.items():
        for ours, theirs in NAMES.items():
            name = name.replace(ours, theirs)
        renamed[name] = torch.from_numpy(array)
    return renamed


def batches(loader: DataLoader, steps: int) -> Iterator[Batch]:
    """Yield `steps` batches, over as many epochs as needed."""
    made, epoch = 0, 0
    while made < steps:
        epoch += 1
        for batch in loader.epoch(epoch):
            if made < steps:
                yield batch
            made += 1


def losses(config: RunConfig, data_dir: Path | None, steps: int) -> np.ndarray:
    """Return the losses of vitab and PyTorch, (steps, 2)."""
    dataset = load_for(config, data_dir)
    loader = DataLoader.of(config, dataset)
    shape = vit_config(config, image_size=dataset.image_size, channels=dataset.channels, classes=dataset.classes)
    model = ViT(shape, get_ops("numpy"), [config.seed])
    engine = Engine(model, AdamWConfig(weight_decay=config.weight_decay, clip_norm=config.clip_norm), loader.batch_size)
    peer: TorchStepper | None = None
    curve = []
    for step, (images, targets) in enumerate(batches(loader, steps)):
        if peer is None:
            peer = TorchStepper(shape, images, targets, compiled=False)
            network: Model = peer.model
            network.load_state_dict(torch_state(model.state_dict()))
            peer.optimizer.param_groups[0]["weight_decay"] = config.weight_decay
        rate = warmup_cosine(step, steps, steps // 10, config.learning_rate)
        for group in peer.optimizer.param_groups:
            group["lr"] = rate
        peer.images = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
        peer.targets = torch.from_numpy(targets)
        curve.append((float(engine.step(images[None], targets[None], rate)[0]), peer.step()))
    return np.array(curve)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loss_curve", description=__doc__.split("\n")[0])
    parser.add_argument("--data", default="digits")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--steps", type=int, default=100)
    options = parser.parse_args()
    plain = {**find_recipe("light"), "crop_padding": 0, "flip": False}
    patch = 2 if options.data == "digits" else 4
    worst = 0.0
    print(f"{options.data}: loss of step {options.steps} in vitab and in PyTorch, and their relative difference")
    for position in ("none", "learned", "rope"):
        curve = losses(
            RunConfig(data=options.data, position=position, patch=patch, **plain), options.data_dir, options.steps
        )
        differences = np.abs(curve[:, 0] / curve[:, 1] - 1)
        worst = max(worst, float(differences[-1]))
        print(
            f"{position:<8} {curve[0, 0]:.6f} -> {curve[-1, 0]:.6f}  {curve[-1, 1]:.6f}  {differences[-1]:.1e} "
            f"(maximum over all steps {differences.max():.1e})"
        )
    return int(worst > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
