"""Export to timm: a folder that `timm.create_model("local-dir:DIR", pretrained=True)` loads.

The weights have timm's names and layouts already. What is left is to name a registered architecture of timm and the
arguments that turn it into the model: `VisionTransformer` for tables, `Eva` for rotary encodings, and
`VisionTransformerRelPos` for biases of the scores.
"""

import json
from typing import Any

import numpy as np

from ablations.config import position_label
from ablations.data.pictures import CROP, PAD, STRETCH
from ablations.errors import UsageError
from ablations.models.export.encoding import token_table
from ablations.models.trained import TrainedModel
from ablations.storage.model_facts import model_facts
from vit import ViTConfig, checkpoint
from vit.positions import POSITIONS, Position, encoding
from vit.positions.learned import LearnedPosition
from vit.positions.learned_axial import LearnedAxialPosition
from vit.positions.none import NoPosition
from vit.positions.pairs import to_halves
from vit.positions.relative_bias import RelativeBiasPosition, SharedBias
from vit.positions.relative_bias_mlp import RelativeBiasMlpPosition
from vit.positions.rope import RotaryPosition
from vit.positions.rope_dinov3 import Dinov3RotaryPosition
from vit.positions.rope_mixed import MixedRotaryPosition
from vit.positions.sinusoidal import SinusoidalPosition
from vit.positions.sinusoidal_1d import Sinusoidal1dPosition

CONFIG, WEIGHTS = "config.json", "model.safetensors"
TABLES = (LearnedPosition, LearnedAxialPosition, SinusoidalPosition, Sinusoidal1dPosition)
"""Encodings that add a table to the tokens, which is timm's `pos_embed`."""
EXPORTED = (
    "none, learned, learned-axial, sinusoidal, sinusoidal-1d, rope, rope-mixed, rope-dinov3, relative-bias, "
    "relative-bias-mlp, and sums of tables and one rotary encoding"
)
TABLE = "pos_embed"


def timm_files(model: TrainedModel) -> dict[str, bytes]:
    """Return the files of a model for timm, by name: its config and its weights.

    Raises UsageError if timm has no such model.
    """
    config, preprocessing = model.vit_config, model.preprocessing
    architecture, arguments = _architecture(config)
    pretrained = {
        "input_size": [config.channels, config.image_size, config.image_size],
        "fixed_input_size": True,
        "interpolation": "bicubic",
        "crop_pct": 1.0,
        "crop_mode": {CROP: "center", STRETCH: "squash", PAD: "border"}[preprocessing.resize],
        "mean": preprocessing.mean,
        "std": preprocessing.std,
        "num_classes": config.classes,
        "pool_size": None,
        "first_conv": "patch_embed.proj",
        "classifier": "head",
    }
    plain = {
        "architecture": architecture,
        "num_classes": config.classes,
        "num_features": config.width,
        "global_pool": arguments["global_pool"],
        "label_names": model.class_names,
        "model_args": arguments,
        "pretrained_cfg": pretrained,
    }
    facts = model_facts(model.key, model.config, model.preprocessing)
    weights = checkpoint.to_bytes(_state(model), config, {"vitab": json.dumps(facts)})
    return {CONFIG: (json.dumps(plain, indent=2) + "\n").encode(), WEIGHTS: weights}


def _architecture(config: ViTConfig) -> tuple[str, dict[str, Any]]:
    """Return the name of a registered architecture of timm and the arguments that make it the model."""
    shared = {
        "img_size": config.image_size,
        "patch_size": config.patch_size,
        "in_chans": config.channels,
        "num_classes": config.classes,
        "embed_dim": config.width,
        "depth": config.depth,
        "num_heads": config.heads,
        "mlp_ratio": config.mlp_ratio,
        "qkv_bias": True,
        "init_values": None,
        "class_token": bool(config.prefix),
        "global_pool": "token" if config.prefix else "avg",
    }
    name, own = _family(config)
    return name, shared | own


def _family(config: ViTConfig) -> tuple[str, dict[str, Any]]:
    """Return an architecture that has the encoding, and the arguments that are about it."""
    parts = [part for part in encoding(config.position).parts if type(part) is not NoPosition]
    others = [part for part in parts if not isinstance(part, TABLES)]
    has_table = len(others) < len(parts)
    if any(part.name not in POSITIONS for part in parts):
        raise _unknown(config)
    match others:
        case []:
            kind = "learn" if has_table else "none"
            return "vit_tiny_patch16_224", {"pos_embed": kind, "no_embed_class": True, "fc_norm": False}
        case [RotaryPosition() | MixedRotaryPosition() | Dinov3RotaryPosition() as rotary]:
            arguments = {"use_abs_pos_emb": has_table, "no_embed_class": True, "use_fc_norm": False}
            return "vit_small_patch16_rope_224", arguments | _rotary(rotary, config)
        case [RelativeBiasPosition() | RelativeBiasMlpPosition() as bias] if not has_table:
            arguments = {"shared_rel_pos": bias.shared, "fc_norm": False}
            return "vit_relpos_small_patch16_224", arguments | _relative(bias, config)
    raise _unknown(config)


def _unknown(config: ViTConfig) -> UsageError:
    position = position_label(config.position)
    return UsageError(
        f"timm has no model with position {position!r}; --format timm exports {EXPORTED}; --format onnx exports every "
        "built-in encoding"
    )


def _relative(bias: SharedBias, config: ViTConfig) -> dict[str, Any]:
    if not isinstance(bias, RelativeBiasMlpPosition):
        return {"rel_pos_type": "bias"}
    if bias.mode == "swin" and config.grid == 1:
        raise UsageError(
            f"timm cannot compute position {config.position!r} for a single patch (it divides by 0); use --format onnx"
        )
    return {"rel_pos_type": {"swin": "mlp-swin", "cr": "mlp"}[bias.mode], "rel_pos_dim": bias.hidden}


def _rotary(rotary: Position, config: ViTConfig) -> dict[str, Any]:
    match rotary:
        case RotaryPosition():
            offset = -(config.grid - 1) / 2 if rotary.coordinates == "centred" else 0.0
            return {"rope_type": "cat", "rope_temperature": rotary.base, "rope_grid_offset": offset}
        case Dinov3RotaryPosition():
            arguments = {"rope_type": "dinov3", "rope_temperature": rotary.base, "rope_grid_indexing": "ij"}
            return arguments | {"rope_rotate_half": True}
        case _:
            return {"rope_type": "mixed"}


def _state(model: TrainedModel) -> dict[str, np.ndarray]:
    """Return the weights as timm has them.

    The tables that are added to the tokens are summed. Pairs of channels of `rope-dinov3` are always those of DINOv3,
    because timm before 1.0.31 has no others.
    """
    config, state = model.vit_config, model.model.state_dict()
    parts = encoding(config.position).parts
    if tables := [part for part in parts if isinstance(part, TABLES)]:
        learned = {parameter.name for part in tables for parameter in part.declare(config)}
        kept = {name: array for name, array in state.items() if name not in learned}
        state = kept | {TABLE: token_table(model.model)[None]}
    if any(isinstance(part, Dinov3RotaryPosition) and part.pairs == "interleaved" for part in parts):
        state = to_halves(state, config)
    return state
