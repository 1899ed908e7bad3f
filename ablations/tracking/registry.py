"""The trackers by name."""

from importlib.util import find_spec

from ablations.errors import UsageError, unknown_name

TRACKERS = {
    "tensorboard": "ablations.tracking.tensorboard:TensorBoard",
    "mlflow": "ablations.tracking.mlflow:MLflow",
    "wandb": "ablations.tracking.wandb:WeightsAndBiases",
    "trackio": "ablations.tracking.trackio:Trackio",
}
"""Class of each tracker, as MODULE:NAME; it is imported in the process of the tracker only."""
PACKAGES = {"mlflow": ("mlflow", "sqlalchemy", "alembic")}
"""Packages that a tracker needs, if not one of its own name."""


def find_tracker(option: str, name: str) -> str:
    """Return the name of a tracker that an option names. Raises UsageError if it does not exist or is not installed."""
    if name not in TRACKERS:
        raise unknown_name("tracker", name, TRACKERS)
    missing = [package for package in PACKAGES.get(name, (name,)) if not _installed(package)]
    if missing:
        number = "package" if len(missing) == 1 else "packages"
        raise UsageError(f"{option} {name} needs the {number} {' and '.join(missing)}: pip install 'vitab[{name}]'")
    return name


def _installed(package: str) -> bool:
    spec = find_spec(package)
    return spec is not None and spec.origin is not None  # not a folder, such as the wandb/ that W&B makes
