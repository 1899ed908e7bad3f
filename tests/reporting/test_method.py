"""How runs were made, in words: what is the same in all with its value, what varies never with that of one run."""

import pytest

from ablations.config import GRIDS
from ablations.reporting.method import described_positions, method
from ablations.reporting.report import compose
from tests.support import synthetic_results

RunConfig = synthetic_results.RunConfig


def sentences(axes=None, **base) -> dict[str, str]:
    """The sentences of a study by their headings."""
    results = synthetic_results.make(axes or {"position": ("none", "rope")}, (0, 1), base=RunConfig(**base))
    return {sentence.split(".**")[0].lstrip("*"): sentence for sentence in method(results)}


def test_a_subset_of_the_classes_and_images_is_named():
    said = sentences(data="cifar100", classes=20, per_class=500, data_fraction=0.25)["Data"]
    assert said.endswith(", only the first 20 of 100 classes, 500 training images per class, 25 % of the training set.")
    assert sentences(data="cifar100", labels="coarse", classes=5)["Data"].endswith(
        ", with its coarse labels, only the first 5 classes."
    )
    assert sentences(data="cifar100", classes=("apple", "bear"))["Data"].endswith(", only classes apple, bear.")
    assert (
        sentences()["Data"]
        == "**Data.** The dataset is digits (1,400 training and 397 test scans of handwritten digits)."
    )


@pytest.mark.parametrize(
    ("field", "levels", "words"),
    [
        ("data_fraction", (0.1, 1.0), "the fraction of the training set that is used varies"),
        ("classes", (None, 5), "the number of classes varies"),
        ("per_class", (10, 20), "the number of training images per class varies"),
    ],
)
def test_choices_that_vary_are_not_described_by_the_first_run(field, levels, words):
    said = sentences({"position": ("none", "rope"), field: levels})
    assert (
        said["Data"]
        == f"**Data.** The dataset is digits (1,400 training and 397 test scans of handwritten digits); {words}."
    )
    assert f"{field.replace('_', ' ')} (" in said["What varies"]


def test_many_positions_are_described_in_a_list(tmp_path):
    arms = GRIDS["encodings"].levels
    results = synthetic_results.make({"position": arms, "depth": (2, 4)}, (0, 1))
    said = method(results)[0]
    assert said == (
        f"**What varies.** Position ({', '.join(arms)}); depth (2, 4). Everything else is the same in all runs."
    )
    text = compose(results).text
    lines = text[text.index(said) :].splitlines()
    assert lines[1] == "  - none: no positional encoding: the model ignores the order of the patches"
    assert [line.split(": ")[0] for line in lines[1:16]] == [f"  - {arm}" for arm in arms]
    assert lines[16].startswith("- **Data.**")
    few = synthetic_results.make({"position": arms[:5]}, (0, 1))
    assert described_positions(few) == []
    assert "learned-axial (learned tables for rows" in method(few)[0]


def test_the_grid_on_less_data_does_not_say_that_all_runs_have_a_tenth():
    grid = GRIDS["data-fraction"]
    results = synthetic_results.make(grid.axes, grid.seeds, study=grid.name)
    assert "10 %" not in method(results)[1]
    assert "data fraction (0.1, 0.25, 0.5, 1)" in method(results)[0]


def test_training_that_varies_has_no_value_of_one_run():
    said = sentences({"position": ("none", "rope"), "learning_rate": (1e-3, 2e-3), "flip": (False, True)})
    assert "learning rate (varies) after 3 epochs" in said["Training"]
    assert said["Augmentation"] == "**Augmentation.** Horizontal flips (varies)."
    split = sentences({"position": ("none", "rope"), "validation": (0.1, 0.2)})["Seeds"]
    assert split.startswith("**Seeds.** The seed of a run determines which share of the training set is held out")


def test_a_share_has_all_its_digits():
    said = sentences(data_fraction=0.025, validation=0.125)
    assert said["Data"].endswith(", 2.5 % of the training set.")
    assert "which 12.5 % of the training set is held out" in said["Seeds"]


def test_names_keep_their_capitals():
    assert sentences(mixup=0.8, cutmix=1.0, flip=True)["Augmentation"] == (
        "**Augmentation.** Horizontal flips, MixUp with alpha 0.8, CutMix with alpha 1.0."
    )
    assert sentences(trivial_augment=True)["Augmentation"] == "**Augmentation.** TrivialAugment."


def test_what_decides_a_result_is_said():
    said = sentences(init_std=0.02, precision="bf16")
    assert "initial weights with a standard deviation of 0.02" in said["Model"]
    assert said["Training"].endswith("label smoothing 0.1, matrix products in bf16.")


def test_a_validation_part_of_the_data_is_said():
    results = synthetic_results.make({"position": ("none", "rope")}, (0, 1), base=RunConfig(data="csv"))
    for key in results.runs["key"]:
        results.environments[key] = {"dataset": {"validation_images": 90}}
    assert method(results)[2].startswith(
        "**Seeds.** Runs are validated on the validation part of the data (90 images). The seed of a run determines "
        "the initial weights, and the order"
    )
    for key in results.runs["key"]:
        results.environments[key] = {"dataset": {"groups": 12}}
    assert method(results)[2].startswith(
        "**Seeds.** Images of a group are all in the same part of the data. The seed of a run determines which 15 % of "
        "the training set is held out for validation, the initial weights"
    )
