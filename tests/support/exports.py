"""Models to export, of any encoding and shape, without training; and timm, which loads them."""

import sys
from functools import cache
from typing import Any

import numpy as np
import pytest

from ablations.config import RunConfig
from ablations.data.preprocessing import Preprocessing
from ablations.models import TrainedModel
from tests.support.small import ENCODINGS, config, scrambled

TIMM = "needs timm, torch and torchvision"

COLOUR = {"pool": "mean", "image_size": 6, "patch_size": 2, "channels": 3}
GREY = {"pool": "cls", "image_size": 10, "patch_size": 2, "channels": 1, "mlp_ratio": 2.5, "classes": 3}
"""Both with an odd grid: 3 x 3 patches without, and 5 x 5 patches with a class token."""
ONE_PATCH = {"pool": "mean", "image_size": 4, "patch_size": 4, "channels": 1}
ALL = (*ENCODINGS, "alibi-2d+relative-bias+learned+sinusoidal")


def made(position: str, **shape: object) -> TrainedModel:
    """A model whose weights are random, far from every symmetry."""
    model = scrambled(config(position=position, **shape), dtype="float32")
    model.derive()
    c = model.config
    names = tuple(f"class {i} ä" for i in range(c.classes))
    mean, std = (0.3, 0.45, 0.6)[: c.channels], (0.2, 0.25, 0.35)[: c.channels]
    run = RunConfig(position=c.position, depth=c.depth, patch=c.patch_size, width=c.width, heads=c.heads, pool=c.pool)
    preprocessing = Preprocessing(c.image_size, c.channels, mean, std, names)
    return TrainedModel(key="0123456789abcdef" * 4, config=run, preprocessing=preprocessing, model=model, batch_size=8)


def pictures(model: TrainedModel, count: int) -> np.ndarray:
    """Random uint8 images (n, h, w, c) of the size of the model."""
    c = model.vit_config
    shape = count, c.image_size, c.image_size, c.channels
    return np.random.default_rng(count).integers(0, 256, shape).astype(np.uint8)


def logits(model: TrainedModel, images: np.ndarray) -> np.ndarray:
    """Logits (n, C) of uint8 images."""
    return model.model.forward(model.preprocessing.normalise(images)[None])[0]


def import_timm() -> Any:
    """The module timm. Skips the test if it, torch or torchvision is not installed."""
    pytest.importorskip("torch", reason=TIMM)
    _import_torchvision()
    return pytest.importorskip("timm", reason=TIMM)


@cache
def _import_torchvision() -> Any:
    """Import torchvision, of which timm uses Python code only, also if its operators are built for another PyTorch.

    Its wheels on PyPI are for CUDA. Beside a PyTorch for CPUs, which is a tenth of the size, they lack operators whose
    shapes torchvision registers when it is imported. Returns what must be kept alive.
    """
    try:
        import torchvision
    except ModuleNotFoundError:
        pytest.skip(TIMM)
    except RuntimeError:
        import torch

        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        declared = torch.library.Library("torchvision", "FRAGMENT")
        for operator in ("nms", "qnms"):
            declared.define(f"{operator}(Tensor boxes, Tensor scores, float threshold) -> Tensor")
        import torchvision

        return declared
    return torchvision
