"""Completion of names in the shell. `vitab --install-completion` switches it on.

A parameter is completed by its name, the same in every command. Where nothing matches, the shell completes files.
Modules are imported only when their names are asked for: a shell waits for them at every press of the key.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, get_type_hints

import typer


def grids() -> Iterable[str]:
    from ablations.config import GRIDS

    return GRIDS


def datasets() -> Iterable[str]:
    from ablations.config import DATASETS

    return DATASETS


def labels() -> Iterable[str]:
    from ablations.config import LABELS

    return LABELS


def recipes() -> Iterable[str]:
    from ablations.config import RECIPES

    return RECIPES


def positions() -> Iterable[str]:
    from vit.positions import names

    return names()


def protocols() -> Iterable[str]:
    from ablations.evaluation import names

    return names()


def metrics() -> Iterable[str]:
    from ablations.evaluation import protocol

    return ("accuracy", *(f"{name}:{metric.name}" for name in protocols() for metric in protocol(name).metrics()))


def backends() -> Iterable[str]:
    from vit.backend import BACKENDS

    return ("auto", *BACKENDS)


def precisions() -> Iterable[str]:
    from ablations.config import PRECISIONS

    return PRECISIONS


def matches() -> Iterable[str]:
    from ablations.config import MATCHES

    return MATCHES


def trackers() -> Iterable[str]:
    from ablations.tracking.registry import TRACKERS

    return TRACKERS


def assignments() -> Iterable[str]:
    from ablations.config import FIELDS

    return (f"{field}=" for field in FIELDS)


def tunable() -> Iterable[str]:
    from ablations.config.tuning import TUNABLE

    return (f"{field}=" for field in TUNABLE)


def samplers() -> Iterable[str]:
    from ablations.config.tuning import SAMPLERS

    return SAMPLERS


def datasets_and_paths() -> Iterable[str]:
    return [*datasets(), *sorted(path.name for path in Path().iterdir() if not path.name.startswith("."))]


def studies(context: typer.Context) -> Iterable[str]:
    from ablations.storage import Store

    return Store(Path(context.params.get("runs") or "runs")).studies()


def arms_and_studies(context: typer.Context) -> Iterable[str]:
    return [*positions(), *studies(context)]


def keys(context: typer.Context) -> Iterable[str]:
    runs = Path(context.params.get("runs") or "runs")
    return sorted(
        path.parent.name
        for place in (runs, runs / "trials", runs / "evaluations")
        for path in place.glob("*/DONE.json")
    )


def runs_and_arms(context: typer.Context) -> Iterable[str]:
    runs = Path(context.params.get("runs") or "runs")
    return [*positions(), *sorted(path.parent.name for path in runs.glob("*/DONE.json"))]


NAMES: dict[str, Callable[..., Iterable[str]]] = {
    "grid": grids,
    "data": datasets,
    "name": datasets,
    "source": datasets_and_paths,
    "encoding": positions,
    "labels": labels,
    "recipe": recipes,
    "backend": backends,
    "precision": precisions,
    "match": matches,
    "track": trackers,
    "to": trackers,
    "settings": assignments,
    "tune": tunable,
    "tune_sampler": samplers,
    "tune_per": lambda: ("setting", "arm"),
    "metric": metrics,
    "format": lambda: ("markdown", "html"),
    "target": lambda: ("timm", "onnx"),
}
LISTS = {"position": positions, "protocol": protocols}
"""Names separated by commas."""
FROM_RUNS = {"study": studies, "first": arms_and_studies, "second": arms_and_studies, "key": keys, "run": runs_and_arms}
"""Names that depend on the folder given as --runs."""
FILES = ("runs", "data_dir", "out")


def add_completion(command: Callable[..., Any]) -> None:
    """Add completion to the parameters of a command whose names are in the tables above."""
    for name, hint in get_type_hints(command, include_extras=True).items():
        if (completer := _completer(name)) is not None:
            hint.__metadata__[0].autocompletion = completer


def _completer(name: str) -> Callable[..., list[str]] | None:
    if name in NAMES:
        return lambda incomplete: [text for text in NAMES[name]() if text.startswith(incomplete)]
    if name in LISTS:
        return lambda incomplete: complete_list(LISTS[name](), incomplete)
    if name in FROM_RUNS:
        return lambda ctx, incomplete: [text for text in FROM_RUNS[name](ctx) if text.startswith(incomplete)]
    return (lambda: []) if name in FILES else None


def complete_list(names: Iterable[str], incomplete: str) -> list[str]:
    """Return a list with each of the names that may be its last item: those not in it that start as it does."""
    before, comma, last = incomplete.rpartition(",")
    return [before + comma + name for name in names if name.startswith(last) and name not in before.split(",")]
