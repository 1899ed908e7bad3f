"""The built-in grids."""

from dataclasses import replace

from ablations.config.grid import Grid
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

ROPE = Grid(
    name="rope",
    question="Which positional encoding improves accuracy, and does the improvement depend on depth and patch size?",
    base=RunConfig(),
    axes={"position": POSITIONS, "depth": (2, 4), "patch": (2, 4)},
    seeds=(0, 1, 2),
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
        Grid(
            name="smoke",
            question="Does everything work from data to report?",
            base=RunConfig(depth=1, patch=4, width=16, epochs=2, warmup_epochs=0.2, per_class=20),
            axes={"position": ("none", "rope")},
            seeds=(0, 1),
        ),
    )
}
