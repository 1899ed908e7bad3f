"""Recipes: named bundles of training fields, for `vitab run --recipe NAME`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ablations.config.run_config import coerce
from ablations.errors import unknown_name


@dataclass(frozen=True)
class Recipe:
    """Training fields of RunConfig; what the command line sets itself wins over them."""

    name: str
    description: str
    source: str
    expected: str
    fields: Mapping[str, Any]


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="light",
            description="crops and flips, 20 epochs: for small budgets on photographs of 32 x 32",
            source="the augmentation of He et al. 2015 (arXiv 1512.03385, section 4.2) with AdamW and a cosine",
            expected="docs/studies/cifar100-20: 20 classes of CIFAR-100, width 48, 30 epochs, on a CPU",
            fields={
                "epochs": 20,
                "batch_size": 64,
                "learning_rate": 2e-3,
                "weight_decay": 0.05,
                "warmup_epochs": 2.0,
                "label_smoothing": 0.1,
                "clip_norm": 1.0,
                "crop_padding": 4,
                "flip": True,
            },
        ),
        Recipe(
            name="strong",
            description="MixUp, CutMix, TrivialAugment, erasing, drop-path and averaged weights: for long training",
            source="Lee et al. 2021 (arXiv 2112.13492) for small data sets, with TrivialAugment (arXiv 2103.10158) in "
            "place of AutoAugment and an average of the weights",
            expected="not measured here yet; the source reports 73.8 % on CIFAR-100 for a plain ViT of 2.7M parameters "
            "after 300 passes",
            fields={
                "epochs": 200,
                "batch_size": 128,
                "learning_rate": 1e-3,
                "weight_decay": 0.05,
                "warmup_epochs": 10.0,
                "label_smoothing": 0.1,
                "clip_norm": 1.0,
                "crop_padding": 4,
                "flip": True,
                "trivial_augment": True,
                "erase": 0.25,
                "mixup": 0.8,
                "cutmix": 1.0,
                "drop_path": 0.1,
                "ema": 0.999,
            },
        ),
    )
}


def find_recipe(name: str) -> dict[str, Any]:
    """Return the fields of a recipe. Raises UsageError for an unknown name."""
    if name not in RECIPES:
        raise unknown_name("recipe", name, RECIPES)
    return {field: coerce(field, value) for field, value in RECIPES[name].fields.items()}
