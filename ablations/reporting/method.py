"""How the runs of a study were made, in words, from their configs alone."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from numbers import Real
from typing import TYPE_CHECKING

import pandas as pd

from ablations.config import level_text
from ablations.config.safe_text import markdown
from ablations.statistics import varying_axes

if TYPE_CHECKING:
    from ablations.storage import Results

VARIES = "(varies)"
CHOICES = {
    "labels": "whether labels are fine or coarse",
    "classes": "how many of the classes are used",
    "per_class": "how many training images there are of each class",
    "data_fraction": "the share of the training part that is used",
}
"""Fields that choose among the images of a data set."""


def method(results: Results) -> list[str]:
    """Sentences on the data, the split, the model and the training. A setting that is an axis says that it varies."""
    runs, varying = results.runs, set(varying_axes(results))

    def value(name: str, form: str = "") -> str:
        if name in varying or name not in runs:
            return VARIES
        return format(runs[name].iloc[0], form)

    def given(name: str) -> bool:
        """Whether an optional setting is on in any run."""
        return name in varying or bool(_raw(runs, name))

    share = "a share" if "validation" in varying else _percent(runs["validation"].iloc[0])
    products = value("precision") if "precision" in runs else "float32"
    return [
        _varied(results),
        f"**Data.** The images are {images(results)}.",
        f"**Seeds.** The seed of a run cuts {share} of the training part off for validation, sets the initial "
        "weights, and orders and augments the images. Runs with the same seed that differ in position only share all "
        "of these, which is what makes them a pair. The test set is used once, after the last epoch.",
        _model(runs, varying),
        f"**Training.** It takes {value('epochs')} epochs with batches of {value('batch_size')}: AdamW, learning rate "
        f"{value('learning_rate', 'g')} after {value('warmup_epochs', 'g')} epochs of linear warm-up, then cosine "
        f"decay; weight decay {value('weight_decay', 'g')}"
        + (f", gradients clipped at norm {value('clip_norm', 'g')}" if given("clip_norm") else "")
        + (f", label smoothing {value('label_smoothing', 'g')}" if given("label_smoothing") else "")
        + (f", dropout {value('dropout', 'g')}" if given("dropout") else "")
        + (f", drop-path {value('drop_path', 'g')}" if given("drop_path") else "")
        + (f", averaged weights with decay {value('ema', 'g')}" if given("ema") else "")
        + (f", matrix products in {products}" if products != "float32" else "")
        + ".",
        _augmentation(value, given),
    ]


def _varied(results: Results) -> str:
    axes = varying_axes(results)
    if not axes:
        return "**What varies.** Nothing but the seed."
    text = "; ".join(_levels(name.replace("_", " "), levels) for name, levels in axes.items())
    return f"**What varies.** {text[:1].upper()}{text[1:]}. All else is the same in every run."


def _levels(axis: str, levels: tuple[object, ...]) -> str:
    """The levels of an axis; positions with what they are."""
    names = [markdown(level_text(level)) for level in levels]
    if axis != "position":
        return f"{axis} ({', '.join(names)})"
    from vit.positions import POSITIONS

    described = (
        f"{name} ({markdown(POSITIONS[str(level)].description)})" if str(level) in POSITIONS else name
        for name, level in zip(names, levels, strict=True)
    )
    return f"position: {', '.join(described)}"


def _model(runs: pd.DataFrame, varying: set[str]) -> str:
    forms = {
        "position": "position {}",
        "depth": "depth {} blocks",
        "patch": "patches of {0} × {0} pixels",
        "width": "width {}",
        "heads": "{} heads",
        "mlp_ratio": "hidden layer {:g} times the width",
        "init_std": "initial weights with a standard deviation of {:g}",
    }
    pools = {"mean": "mean over the patches before a linear head", "cls": "class token before a linear head"}
    parts = [markdown(form.format(runs[name].iloc[0])) for name, form in forms.items() if name not in varying]
    parts += [pools.get(str(runs["pool"].iloc[0]), "")] if "pool" not in varying else []
    return f"**Model.** A pre-norm Vision Transformer: {', '.join(filter(None, parts))}."


def _raw(runs: pd.DataFrame, name: str) -> object:
    return runs[name].iloc[0] if name in runs else None


def images(results: Results) -> str:
    """The images, and which of them; what is an axis is said to vary, with no value of one run."""
    from ablations.data import DATASETS

    runs, varying = results.runs, set(varying_axes(results))
    names = list(dict.fromkeys(runs["data"]))
    parts = []
    for name in names:
        info = DATASETS.get(name)
        described = re.sub(r" \(--.*?\)", "", info.description) if info else ""  # without hints at options
        parts.append(markdown(f"{name} ({described})" if described else name))
    text = " or ".join(parts)
    known = {name: None if name in varying else _raw(runs, name) for name in CHOICES}
    if known["labels"] == "coarse":
        text += ", with its coarse labels"
    classes, per_class, share = known["classes"], known["per_class"], known["data_fraction"]
    if isinstance(classes, list | tuple):
        text += f", classes {markdown(', '.join(classes))} only"
    elif _number(classes):
        info = DATASETS.get(str(names[0]))
        whole = f" of {info.classes}" if info and info.classes and len(names) == 1 and known["labels"] == "fine" else ""
        text += f", the first {classes:g}{whole} classes only"
    if _number(per_class):
        text += f", {per_class:g} training images of each class"
    if _number(share) and share != 1:
        text += f", {_percent(share)} of the training part"
    changing = [words for name, words in CHOICES.items() if name in varying]
    return text + (f"; {' and '.join(changing)} varies" if changing else "")


def _percent(share: object) -> str:
    """A share between 0 and 1 in percent, with no more digits than it has."""
    return f"{100 * float(str(share)):.6g} %"


def _number(value: object) -> bool:
    """Whether a value is a known number, be it Python's or NumPy's."""
    return isinstance(value, Real) and not math.isnan(value)


def _augmentation(value: Callable[[str], str], given: Callable[[str], bool]) -> str:
    kinds = {
        "crop_padding": "random crops after padding by {} pixels",
        "flip": "horizontal flips",
        "erase": "random erasing with probability {}",
        "mixup": "MixUp with alpha {}",
        "cutmix": "CutMix with alpha {}",
        "trivial_augment": "TrivialAugment",
    }
    used = [
        text.format(value(name)) + (f" {VARIES}" if "{}" not in text and value(name) == VARIES else "")
        for name, text in kinds.items()
        if given(name)
    ]
    text = ", ".join(used) or "the images are used as they are"
    return f"**Augmentation.** {text[0].upper()}{text[1:]}."
