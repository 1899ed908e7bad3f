"""What a file with a trained model says of it."""

from typing import TYPE_CHECKING, Any

from ablations.config import RunConfig
from ablations.machine import versions

if TYPE_CHECKING:
    from ablations.data.preprocessing import Preprocessing


def model_facts(key: str, config: RunConfig, preprocessing: "Preprocessing | None") -> dict[str, Any]:
    """Return the key, the configuration and the preprocessing of a run, and the version of vitab, for JSON."""
    facts = {"key": key, "config": config.canonical(), "version": versions(("vitab",)).get("vitab", "")}
    return facts if preprocessing is None else facts | {"preprocessing": preprocessing.to_plain()}
