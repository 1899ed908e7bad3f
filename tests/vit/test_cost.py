"""Counted operations against those of the operations that a model executes."""

import numpy as np
import pytest

from tests.support.small import ENCODINGS, POOLS, batch, config
from vit import ViT, ViTConfig, cost
from vit.backend import Array
from vit.backend.ops import Ops


class CountingOps(Ops):
    """The reference operations; adds up the multiply-adds of products, from the shapes of the arrays."""

    def __init__(self) -> None:
        super().__init__(np, "float64")
        self.multiply_adds = 0

    def matmul(self, a: Array, b: Array, *, trans_a: bool = False, **rest: object) -> Array:
        out = super().matmul(a, b, trans_a=trans_a, **rest)
        self.multiply_adds += out.size * a.shape[-2 if trans_a else -1]
        return out

    def add_depthwise_conv(self, x: Array, weight: Array, bias: Array, prefix: int, out: Array) -> None:
        super().add_depthwise_conv(x, weight, bias, prefix, out)
        self.multiply_adds += x[:, :, prefix:].size * weight[0, 0].size

    def _rotate(self, x: Array, cos: Array, sin: Array) -> None:
        super()._rotate(x, cos, sin)
        self.multiply_adds += 2 * x.size  # of both channels of a pair with a cosine and a sine

    def qkv_bias_turn(self, qkv: Array, bias: Array, scale: float, matrices: Array, prefix: int) -> None:
        super().qkv_bias_turn(qkv, bias, scale, matrices, prefix)
        self.multiply_adds += qkv[:, :, prefix:, :2].size * matrices.shape[-1]


def executed(model: ViTConfig, *, images: int, training: bool = False) -> int:
    """Return the operations of the products of a forward pass, or of a training step."""
    ops = CountingOps()
    vit = ViT(model, ops, seeds=[0])
    pixels, labels = batch(model, images)
    if training:
        vit.loss_and_gradients(pixels, labels)
    else:
        vit.forward(pixels)
    return 2 * ops.multiply_adds


@pytest.mark.parametrize("pool", POOLS)
def test_the_operations_of_every_encoding_are_those_that_it_executes(pool: str) -> None:
    counted = {name: cost.forward_flops(config(position=name, pool=pool)) for name in ENCODINGS}
    assert counted == {name: executed(config(position=name, pool=pool), images=3) / 3 for name in ENCODINGS}


@pytest.mark.parametrize("position", ["none", "relative-keys", "relative-keys+learned"])
def test_a_training_step_has_three_times_the_operations_except_the_gradient_of_the_pixels(position: str) -> None:
    model = config(position=position)
    pixels = 2 * model.patches * model.patch_width * model.width
    expected = 2 * (cost.TRAINING_FACTOR * cost.forward_flops(model) - pixels)
    assert executed(model, images=2, training=True) == expected


def test_operations_by_hand() -> None:
    """16 patches, width 16, 2 blocks: what each encoding adds to a model without one."""
    without = cost.forward_flops(config(position="none"))
    added = {name: cost.forward_flops(config(position=name)) - without for name in ENCODINGS}
    assert added["learned"] == added["sinusoidal"] == added["relative-bias"] == added["alibi-2d"] == 0
    assert added["rope"] == added["rope-mixed"] == added["lie-rope(block=2,layers=shared)"] == 2 * (2 * 16 * 16) * 2 * 2
    assert added["lie-rope"] == 2 * (2 * 16 * 16) * 8 * 2
    assert added["relative-keys"] == 2 * (16 * 16) * (2 * 7) * 2
    assert added["cpe"] == 2 * 16 * 16 * 9
    assert added["cpe(where=each)"] == 2 * added["cpe"]
    assert added["cpe+relative-keys+relative-bias+rope-mixed+learned-axial"] == 4608 + 14336 + 4096
