"""What the chapters share: source code and shapes for display, trained models, and the style of figures."""

import inspect
from pathlib import Path
from textwrap import dedent
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import HTML, Markdown

import vit
from ablations.config import RunConfig, run_key
from ablations.data.loading import dataset_for
from ablations.evaluation.finished_run import FinishedRun
from ablations.execution.tasks import ExecutionSettings, RunHooks, Task
from ablations.execution.worker import train_and_store
from ablations.reporting.figures.palette import POSITION_MARKS, style
from ablations.storage import Store

RUNS = Path(__file__).parent / "runs"
"""Models that the chapters train. They are trained once, and kept."""
ROOT = Path(vit.__file__).parent.parent

COLOURS = {name: mark.colour for name, mark in POSITION_MARKS.items()}
"""The colour of each positional encoding, as in reports."""


def use_style() -> None:
    """Draw the figures of a chapter in the style of the reports."""
    with style():
        current = plt.rcParams.copy()
    plt.rcParams.update(current)
    resolution = {"figure.dpi": 80, "savefig.dpi": 80}
    plt.rcParams.update({**resolution, "figure.constrained_layout.use": True, "text.parse_math": True})


def source(thing: Any) -> Markdown:
    """Return the source code of a function, method or class of the product, with its file."""
    file = Path(inspect.getsourcefile(inspect.unwrap(thing)) or "").resolve()
    place = file.relative_to(ROOT) if file.is_relative_to(ROOT) else file.name
    return Markdown(f"`{place}`\n\n```python\n{dedent(inspect.getsource(thing))}```")


def shapes(**arrays: np.ndarray) -> HTML:
    """Return a table of arrays with their shapes and types."""
    rows = "".join(
        f"<tr><td><code>{name}</code></td><td>{' × '.join(map(str, np.shape(array))) or 'a number'}</td>"
        f"<td>{np.asarray(array).dtype}</td></tr>"
        for name, array in arrays.items()
    )
    return HTML(f"<table><tr><th>array</th><th>shape</th><th>type</th></tr>{rows}</table>")


def trained(**fields: Any) -> FinishedRun:
    """Return a finished run with these fields of a configuration; train it first if that has not been done.

    Without fields: digits, patch size 2, depth 2, width 64, `rope`, seed 0.
    """
    config = RunConfig.from_mapping({"patch": 2, "depth": 2} | fields)
    key = run_key(config, dataset_for(config, None).fingerprint)
    if not Store(RUNS).done(key):
        hooks = RunHooks(epoch=lambda metrics: None)
        train_and_store(Task(key, config, "a run of the walkthrough"), ExecutionSettings(RUNS), hooks)
    return FinishedRun(Store(RUNS), key)
