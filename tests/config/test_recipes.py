"""Recipes are bundles of training fields that the command line can still change."""

import pytest

from ablations.config import RunConfig, override, recipes
from ablations.config import grid_files as grids
from ablations.errors import UsageError

TRAINING = {
    "dropout",
    "drop_path",
    "epochs",
    "batch_size",
    "learning_rate",
    "weight_decay",
    "warmup_epochs",
    "label_smoothing",
    "clip_norm",
    "crop_padding",
    "flip",
    "erase",
    "mixup",
    "cutmix",
    "trivial_augment",
    "ema",
}


@pytest.mark.parametrize("name", list(recipes.RECIPES))
def test_a_recipe_sets_training_fields_only_and_they_are_valid(name: str) -> None:
    fields = recipes.find_recipe(name)
    assert fields.keys() <= TRAINING
    RunConfig(data="cifar100", patch=4, **fields).validate()


@pytest.mark.parametrize("name", list(recipes.RECIPES))
def test_a_recipe_says_where_it_is_from_and_what_to_expect(name: str) -> None:
    recipe = recipes.RECIPES[name]
    assert recipe.name == name
    assert "arXiv" in recipe.source
    assert recipe.expected


def test_strong_turns_on_what_light_leaves_out() -> None:
    light, strong = RunConfig(**recipes.find_recipe("light")), RunConfig(**recipes.find_recipe("strong"))
    assert light.crop_padding == strong.crop_padding == 4
    assert light.flip
    assert strong.flip
    assert (light.mixup, light.cutmix, light.erase, light.ema, light.drop_path) == (0, 0, 0, 0, 0)
    assert min(strong.mixup, strong.cutmix, strong.erase, strong.ema, strong.drop_path) > 0
    assert strong.trivial_augment


def test_settings_win_over_a_recipe() -> None:
    grid = override(grids.find_grid("rope"), settings=recipes.find_recipe("light"))
    assert grid.base.epochs == 20
    assert override(grid, settings={"epochs": 5}).base.epochs == 5
    assert override(grid, settings={"epochs": 5}).base.flip


def test_an_unknown_recipe_names_the_valid_ones() -> None:
    with pytest.raises(UsageError, match=r"unknown recipe 'ligth' \(did you mean 'light'\?\); valid: light, strong"):
        recipes.find_recipe("ligth")
