"""Cost of data loading and augmentation: `python -m benchmarks.epoch`.

The program compares an epoch, which loads and augments its batches, with the same number of steps on one fixed batch.
Both are measured alternately, and the median of the paired ratios is printed. The photographs are random, because only
their size affects the time.
"""

import argparse
import sys
import time

import numpy as np

from ablations.config import RunConfig, find_recipe
from ablations.data import Dataset, load
from ablations.training.stack import Stack, StackedRun

CASES = ("digits", "light", "strong")


def photographs(count: int = 1280) -> Dataset:
    """Return random 32 x 32 images in 20 classes."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8), np.arange(count) % 20
    names = tuple(f"class {label}" for label in range(20))
    return Dataset("noise", images, labels, images[:20], labels[:20], names)


def ratio(config: RunConfig, dataset: Dataset, rounds: int) -> tuple[float, float]:
    """Return the time of an epoch divided by the time of its steps, and the milliseconds per step."""
    member = StackedRun(config, dataset)
    run, loader, rate = Stack([member], dataset), member.loader, np.array([1e-4])
    images, targets = (array[None] for array in next(loader.epoch(1)))
    run.step(images, targets, rate)
    ratios, steps = [], []
    for epoch in range(1, rounds + 1):
        start = time.perf_counter()
        run.train_epoch(epoch)
        between = time.perf_counter()
        for _ in range(loader.steps):
            run.step(images, targets, rate)
        steps.append((time.perf_counter() - between) / loader.steps)
        ratios.append((between - start) / (steps[-1] * loader.steps))
    run.close()
    return float(np.median(ratios)), float(np.median(steps)) * 1e3


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.epoch", description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=9, help="number of epochs to measure (default: 9)")
    options = parser.parse_args()
    for case in CASES:
        if case == "digits":
            config, dataset = RunConfig(epochs=options.rounds), load("digits")
        else:
            fields = {**find_recipe(case), "epochs": options.rounds, "warmup_epochs": 1.0, "drop_path": 0.0}
            config, dataset = RunConfig(data="cifar100", patch=4, depth=4, **fields), photographs()
        epoch, step = ratio(config, dataset, options.rounds)
        print(f"{case:<7} epoch / steps: {epoch:.3f}, {step:.2f} ms per step")
    return 0


if __name__ == "__main__":
    sys.exit(main())
