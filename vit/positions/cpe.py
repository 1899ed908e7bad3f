"""Conditional positional encoding by a convolution, "PEG" (Chu et al. 2021, arXiv 2102.10882)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from vit.backend import Array
from vit.dropout import Branch
from vit.errors import ConfigError
from vit.parameters import Parameter, zeros
from vit.positions.base import BlockHook, Geometry, Position, choice
from vit.workspace import Workspace


@dataclass(frozen=True)
class ConvolutionPosition(Position):
    """x + conv(x) on the patch tokens: a depthwise 3 x 3 convolution with zero padding, which tells where the edge is.

    After the first block, as in CPVT, or before each block. The class token is not changed.
    """

    where: str = choice("after-first", ("after-first", "each"), "after the first block, or before each block")

    description: ClassVar[str] = "depthwise convolution of the patch tokens, added to them"
    acts_on: ClassVar[str] = "block input"
    source: ClassVar[str] = "Chu et al. 2021, arXiv 2102.10882"

    def check(self, config: Geometry) -> None:
        if self.where == "after-first" and config.depth < 2:
            raise ConfigError(
                f"depth must be at least 2 with position 'cpe', got {config.depth}; or use cpe(where=each)"
            )

    def _blocks(self, config: Geometry) -> dict[int, str]:
        """Return the names of the convolutions by the block before which they act."""
        if self.where == "after-first":
            return {1: "pos_block.0.proj.0"}
        return {i: f"pos_block.{i}.proj.0" for i in range(config.depth)}

    def declare(self, config: Geometry) -> list[Parameter]:
        declared = []
        for name in self._blocks(config).values():
            declared += [
                Parameter(f"{name}.weight", (config.width, 1, 3, 3), _initial, decay=True),
                Parameter(f"{name}.bias", (config.width,), zeros),
            ]
        return declared

    def flops(self, config: Geometry) -> int:
        return 2 * 9 * config.patches * config.width * len(self._blocks(config))

    def block_hooks(self, config: Geometry, workspace: Workspace) -> Sequence[BlockHook]:
        names = self._blocks(config)
        return [
            _ConvolutionHook(workspace, config, names[i], f"blocks.{i}.cpe")
            if i in names
            else BlockHook(workspace, config)
            for i in range(config.depth)
        ]


def _initial(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Draw normal weights with the variance 2 / (taps of a kernel), as Twins does."""
    return generator.normal(0, np.sqrt(2 / 9), shape)


class _ConvolutionHook(BlockHook):
    """Convolution of the input of one block."""

    def __init__(self, workspace: Workspace, config: Geometry, name: str, site: str) -> None:
        super().__init__(workspace, config)
        self.site = site
        self.weight, self.bias = (workspace.parameters[f"{name}.{part}"] for part in ("weight", "bias"))
        self.dweight, self.dbias = (workspace.gradients[f"{name}.{part}"] for part in ("weight", "bias"))

    def block_input(self, stream: Array, branch: Branch | None) -> tuple[Array, Branch | None]:
        self.branch, self.x = branch, stream
        if branch is not None:
            self.x = self.workspace.saved(f"{self.site}.input", "stream", *stream.shape[1:])
            self.ops.add_branch(stream, branch.value, branch.bias, out=self.x)
        out = self.workspace.saved(f"{self.site}.output", "stream", *stream.shape[1:])
        self.ops.add_depthwise_conv(self.x, self.weight, self.bias, self.config.prefix, out=out)
        return out, None

    def block_input_backward(self, dstream: Array, operand: Array) -> Array:
        dx = self.workspace.scratch(self.site, "dstream", *dstream.shape[1:])
        arrays = dstream, self.x, self.weight, self.config.prefix
        self.ops.add_depthwise_conv_backward(*arrays, out=dx, dweight=self.dweight, dbias=self.dbias)
        self.ops.copy_tokens(dx, out=dstream)
        if self.branch is not None:
            self.ops.sum_tokens(dstream, out=self.branch.dbias)
        if self.ops.rounds_operands:
            self.ops.round_operand(dstream, operand)
        return operand
