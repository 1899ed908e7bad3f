"""The built-in grids."""

from dataclasses import replace

from ablations.config.grid import Grid
from ablations.config.recipes import find_recipe
from ablations.config.run_config import RunConfig
from ablations.config.tuning import Range, TuningDesign

POSITIONS = ("none", "learned", "sinusoidal", "rope")
ENCODINGS = (
    "none",
    "learned",
    "learned-axial",
    "sinusoidal",
    "sinusoidal-1d",
    "rope",
    "rope-mixed",
    "rope-dinov3",
    "lie-rope",
    "relative-bias",
    "relative-bias-mlp",
    "relative-keys",
    "alibi-2d",
    "cpe",
    "rope+learned",
)
"""Every built-in encoding, and a sum of two."""

PUBLISHED = (
    "none",
    "learned",
    "sinusoidal",
    "rope",
    "rope-mixed",
    "relative-bias",
    "relative-keys",
    "cpe",
    "rope+learned",
)
"""Encodings of which there are published results on CIFAR-100 or ImageNet; docs/results.md compares them."""
PROTOCOLS = ("resolution", "shift", "shuffle", "occlusion", "corruption", "calibration", "per-class", "attention")

ROPE = Grid(
    name="rope",
    question="Which positional encoding improves accuracy, and does the improvement depend on depth and patch size?",
    base=RunConfig(),
    axes={"position": POSITIONS, "depth": (2, 4), "patch": (2, 4)},
    seeds=(0, 1, 2),
)

CIFAR100_20 = Grid(
    name="cifar100-20",
    question="Which positional encodings improve accuracy on photographs, and which also at other resolutions?",
    base=RunConfig(
        **(find_recipe("light") | {"epochs": 30, "warmup_epochs": 3.0}), data="cifar100", classes=20, patch=4, width=48
    ),
    axes={"position": PUBLISHED},
    seeds=tuple(range(9)),  # the fewest with which one of 8 contrasts can be significant
    protocols=PROTOCOLS,
    tuning=TuningDesign({"learning_rate": (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2)}, trials=5, epochs=10),
)

GRIDS: dict[str, Grid] = {
    grid.name: grid
    for grid in (
        ROPE,
        replace(
            ROPE,
            name="rope-tuned",
            question="Which positional encoding improves accuracy when every arm has its own learning rate and weight "
            "decay?",
            tuning=TuningDesign(
                {  # a decade to each side of the values of the grid rope
                    "learning_rate": Range(2e-4, 2e-2, log=True),
                    "weight_decay": Range(0.005, 0.5, log=True),
                },
                trials=12,
                prune="median",
            ),
        ),
        Grid(
            name="encodings",
            question="Which positional encodings are more accurate than the learned table of the original Vision "
            "Transformer?",
            base=RunConfig(epochs=20),
            axes={"position": ENCODINGS},
            seeds=tuple(range(10)),  # the fewest with which one of 14 contrasts can be significant
            baseline="learned",
        ),
        Grid(
            name="depth",
            question="How many blocks does a small Vision Transformer need?",
            base=RunConfig(position="rope"),
            axes={"depth": (1, 2, 4, 8)},
            seeds=(0, 1, 2),
            baseline="1",
        ),
        Grid(
            name="patch",
            question="How small should the patches be?",
            base=RunConfig(position="rope"),
            axes={"patch": (1, 2, 4)},
            seeds=(0, 1, 2),
            baseline="4",
        ),
        Grid(
            name="data-fraction",
            question="How much does a positional encoding improve accuracy when there is less training data?",
            base=RunConfig(),
            axes={"position": POSITIONS, "data_fraction": (0.1, 0.25, 0.5, 1.0)},
            seeds=(0, 1, 2),
        ),
        CIFAR100_20,
        replace(
            CIFAR100_20,
            name="cifar100-20-fraction",
            question="How much does a positional encoding improve accuracy on photographs when there is less training "
            "data?",
            axes={"position": ("none", "learned", "rope"), "data_fraction": (0.1, 0.25, 0.5, 1.0)},
            seeds=tuple(range(6)),  # the fewest with which a change from one fraction to another can be significant
            protocols=(),
        ),
        replace(
            CIFAR100_20,
            name="cifar100",
            question="Which positional encodings improve accuracy on CIFAR-100, and which also at other resolutions?",
            base=RunConfig(  # close to s-chh/2D-Positional-Encoding-Vision-Transformer
                data="cifar100",
                patch=4,
                width=128,
                depth=6,
                heads=4,
                mlp_ratio=2.0,
                dropout=0.1,
                init_std=0.05,
                epochs=200,
                batch_size=128,
                learning_rate=5e-4,
                weight_decay=1e-3,
                warmup_epochs=10.0,
                label_smoothing=0.0,
                clip_norm=0.0,
                crop_padding=4,
                flip=True,
                trivial_augment=True,
            ),
            tuning=TuningDesign({"learning_rate": (2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3)}, trials=5, epochs=20),
        ),
        Grid(
            name="smoke",
            question="Does everything work from data to report?",
            base=RunConfig(depth=1, patch=4, width=16, epochs=2, warmup_epochs=0.2, per_class=20),
            axes={"position": ("none", "rope")},
            seeds=(0, 1),
        ),
    )
}
