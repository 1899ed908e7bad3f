"""Description of the method in words, from the configs of the runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pandas as pd

from ablations.config import count, level_text, position_description
from ablations.config.safe_text import markdown
from ablations.reporting.compute import compute_sentence, epochs_range
from ablations.reporting.dataset_text import details, first_value, images, percent, varying_subset
from ablations.reporting.tuning.text import fields_text, pairs_differ, protocol
from ablations.statistics import varying_axes

if TYPE_CHECKING:
    from ablations.storage import Results

VARIES = "(varies)"
TUNED = "(tuned)"
MOST_DESCRIBED = 5
"""Most positions that are described in one sentence; the report lists the descriptions of more."""


def _epochs(number: str) -> str:
    return f"{number} epoch{'s' * (number != '1')}"


def method(results: Results) -> list[str]:
    """Return sentences on data, seeds, model, training and tuning.

    A field that is an axis is given as `(varies)`, a tuned one as `(tuned)`.
    """
    runs, varying = results.runs, set(varying_axes(results))
    tuned = {*results.plan.tuning.space} if results.plan.tuning else set()

    def value(name: str, form: str = "") -> str:
        if name in tuned:
            return TUNED
        if name in varying or name not in runs:
            return VARIES
        return format(runs[name].iloc[0], form)

    def given(name: str) -> bool:
        """Return whether an optional field is on in any run."""
        return name in varying or name in tuned or bool(first_value(runs, name))

    match, first = results.plan.match, results.plan.configs[0]
    epochs = value("epochs") if match is None else epochs_range(match)
    warm_up = f"{_epochs(value('warmup_epochs', 'g'))} of linear warm-up"
    if match is not None and "warmup_epochs" not in varying:
        warm_up = f"linear warm-up over {percent(first.warmup_epochs / first.epochs)} of the epochs"
    share = "share" if "validation" in varying else percent(runs["validation"].iloc[0])
    products = value("precision") if "precision" in runs else "float32"
    return [
        _varied(results),
        f"**Data.** The dataset is {'; '.join(filter(None, (images(results), varying_subset(results))))}."
        + "".join(f" {markdown(text)}." for text in details(results)),
        f"**Seeds.** {_validation(results, share)}the initial weights, and the order and augmentation of the images. "
        f"Runs with the same seed that differ only in position{' and the tuned fields' * bool(tuned)} share all of "
        f"these{', as far as the tuned fields allow' * pairs_differ(results.plan.tuning)}; such runs form a pair. The "
        "test set is used once, after the last epoch.",
        _model(runs, varying, tuned),
        f"**Training.** {_epochs(epochs)}, batch size {value('batch_size')}, AdamW with learning rate "
        f"{value('learning_rate', 'g')} after {warm_up}, then cosine decay; weight decay {value('weight_decay', 'g')}"
        + (f", gradients clipped at norm {value('clip_norm', 'g')}" if given("clip_norm") else "")
        + (f", label smoothing {value('label_smoothing', 'g')}" if given("label_smoothing") else "")
        + (f", dropout {value('dropout', 'g')}" if given("dropout") else "")
        + (f", drop-path {value('drop_path', 'g')}" if given("drop_path") else "")
        + (f", averaged weights with decay {value('ema', 'g')}" if given("ema") else "")
        + (f", matrix products in {products}" if products != "float32" else "")
        + ".",
        *filter(None, [compute_sentence(results.plan)]),
        _augmentation(value, given),
        *([protocol(results)] if tuned else []),
    ]


def _validation(results: Results, share: str) -> str:
    """Return the beginning of the sentence on what the seed of a run determines."""
    recorded = [results.environments.get(key, {}).get("dataset", {}) for key in results.runs["key"]]
    own = [record["validation_images"] for record in recorded if record.get("validation_images")]
    if own and len(own) == len(recorded):
        images = count(own[0], "image") if len(set(own)) == 1 else "images"
        return f"Runs are validated on the validation part of the data ({images}). The seed of a run determines "
    grouped = any(record.get("groups") for record in recorded)
    together = "Images of a group are all in the same part of the data. " if grouped else ""
    return f"{together}The seed of a run determines which {share} of the training set is held out for validation, "


def _varied(results: Results) -> str:
    axes = varying_axes(results)
    rest = "Everything else"
    if results.plan.tuning:
        be = "is" if len(results.plan.tuning.space) == 1 else "are"
        rest = f"The {fields_text(results.plan.tuning)} of an arm {be} tuned. Everything else"
    if not axes:
        return "**What varies.** Only the seed." + f" {rest} is the same in all runs." * bool(results.plan.tuning)
    text = "; ".join(_levels(name.replace("_", " "), levels) for name, levels in axes.items())
    matched = ", except the epochs" if results.plan.match else ""
    return f"**What varies.** {text[:1].upper()}{text[1:]}. {rest} is the same in all runs{matched}."


def described_positions(results: Results) -> list[tuple[str, str]]:
    """Return the names and descriptions of positions that are too many to be described by `method`."""
    positions = varying_axes(results).get("position", ())
    if len(positions) <= MOST_DESCRIBED:
        return []
    described = [(level_text(position), position_description(str(position))) for position in positions]
    return [(name, text) for name, text in described if text]


def _levels(axis: str, levels: tuple[object, ...]) -> str:
    """Return an axis with its levels; a few positions with a description."""
    if axis == "position" and len(levels) <= MOST_DESCRIBED:
        described = [
            f"{markdown(level_text(level))} ({markdown(text)})"
            if (text := position_description(str(level)))
            else markdown(level_text(level))
            for level in levels
        ]
        return f"position: {', '.join(described)}"
    return f"{axis} ({', '.join(markdown(level_text(level)) for level in levels)})"


def _model(runs: pd.DataFrame, varying: set[str], tuned: set[str]) -> str:
    forms = {
        "position": "position {}",
        "depth": "depth {}",
        "patch": "patches of {0} × {0} pixels",
        "width": "width {}",
        "heads": "{} heads",
        "mlp_ratio": "hidden layer {:g} times the width",
        "init_std": "initial weights with a standard deviation of {:g}",
    }
    pools = {"mean": "mean over the patches before a linear head", "cls": "class token before a linear head"}
    parts = [markdown(form.format(runs[name].iloc[0])) for name, form in forms.items() if name not in varying | tuned]
    parts += [f"initial weights with a standard deviation {TUNED}"] if "init_std" in tuned else []
    parts += [pools.get(str(runs["pool"].iloc[0]), "")] if "pool" not in varying else []
    return f"**Model.** A pre-norm Vision Transformer: {', '.join(filter(None, parts))}."


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
        text.format(value(name)) + (f" {value(name)}" if "{}" not in text and value(name) in (VARIES, TUNED) else "")
        for name, text in kinds.items()
        if given(name)
    ]
    text = ", ".join(used) or "the images are not augmented"
    return f"**Augmentation.** {text[0].upper()}{text[1:]}."
