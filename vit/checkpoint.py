"""Model weights as safetensors files, which timm and PyTorch can read."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as serialise

from vit.config import ViTConfig
from vit.errors import ConfigError
from vit.positions import encoding


def to_bytes(state: Mapping[str, np.ndarray], config: ViTConfig, metadata: Mapping[str, str] | None = None) -> bytes:
    """Return the content of a safetensors file with a `state_dict` and string metadata.

    The file also contains the constant tables that other implementations store as parameters, such as timm's
    `pos_embed` for sinusoidal positions.
    """
    arrays = {**encoding(config.position).fixed_state(config), **state}
    return serialise({name: np.ascontiguousarray(a) for name, a in arrays.items()}, dict(metadata or {}))


def load(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return the arrays and the metadata of a safetensors file.

    Raises ConfigError if the file is not a valid safetensors file, and OSError if it cannot be opened.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except SafetensorError as error:
        raise ConfigError(f"cannot read {path}: not a valid safetensors file ({error})") from error
