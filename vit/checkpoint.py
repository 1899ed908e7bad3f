"""Checkpoints as safetensors files, which timm and PyTorch read."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as serialise

from vit.config import ViTConfig
from vit.errors import ConfigError
from vit.positions import POSITIONS


def to_bytes(state: Mapping[str, np.ndarray], config: ViTConfig, metadata: Mapping[str, str] | None = None) -> bytes:
    """A safetensors file of a `state_dict`, with the constant tables that another implementation needs beside it."""
    arrays = {**POSITIONS[config.position].fixed_state(config), **state}
    return serialise({name: np.ascontiguousarray(a) for name, a in arrays.items()}, dict(metadata or {}))


def load(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays and the metadata of a checkpoint. Raises ConfigError for a file that is none."""
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except SafetensorError as error:
        raise ConfigError(f"checkpoint: {path} is not a readable safetensors file ({error})") from error
