"""What an exported file says of its run."""

from typing import Any

from ablations.machine import versions
from ablations.models.trained import TrainedModel


def about(model: TrainedModel) -> dict[str, Any]:
    """Return the key, the configuration and the preprocessing of a run, and the version of vitab, for JSON.

    The same entries as in the metadata of a checkpoint.
    """
    return {
        "key": model.key,
        "config": model.config.canonical(),
        "version": versions(("vitab",)).get("vitab", ""),
        "preprocessing": model.preprocessing.to_plain(),
    }
