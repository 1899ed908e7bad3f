"""Bias of attention scores by a network of the displacement, as in Swin v2 (Liu et al. 2021, arXiv 2111.09883)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import ClassVar

import numpy as np

from vit.backend import Array
from vit.parameters import Initializer, Parameter, truncated_normal, zeros
from vit.positions.base import Geometry, choice, normalising_grid, option, served
from vit.positions.displacement import spread, sum_back
from vit.positions.relative_bias import SharedBias

GAIN = 16.0
"""Largest bias in mode swin."""
REACH = 8.0
"""Largest displacement after normalisation in mode swin."""


@dataclass(frozen=True)
class RelativeBiasMlpPosition(SharedBias):
    """Bias of the score of two patches: W2 relu(W1 d + b1), d their displacement (rows, columns) on a log scale.

    In mode swin, d = sign(t) log2(1 + |t|) / log2(8), where t is the displacement scaled to [-8, 8], and the bias is
    16 sigmoid of the output. In mode cr (timm), d = sign(t) log(1 + |t|), t in patches, and the output has a bias b2.
    The class token gets no bias. timm also drops hidden units in training; Swin v2 and this encoding do not.
    """

    hidden: int = option(512, "an integer of at least 1", lambda value: value >= 1, "hidden units")
    mode: str = choice("swin", ("swin", "cr"), "as in Swin v2, or timm's variant")

    description: ClassVar[str] = "bias of the scores by a small network of the displacement"
    other_grids: ClassVar[tuple[str, ...]] = ("interpolate", "extend")
    source: ClassVar[str] = "Liu et al. 2021, arXiv 2111.09883"

    def declare(self, config: Geometry) -> list[Parameter]:
        declared = []
        for site in self.sites(config):
            declared += [
                Parameter(f"{site}.mlp.fc1.weight", (self.hidden, 2), _uniform(2), decay=True),
                Parameter(f"{site}.mlp.fc1.bias", (self.hidden,), _uniform(2)),
                Parameter(f"{site}.mlp.fc2.weight", (config.heads, self.hidden), truncated_normal(0.02), decay=True),
            ]
            if self.mode == "cr":
                declared.append(Parameter(f"{site}.mlp.fc2.bias", (config.heads,), zeros))
        return declared

    def derive(
        self,
        config: Geometry,
        xp: ModuleType,
        parameters: Mapping[str, Array],
        tables: Mapping[str, Array],
        generators: Sequence[np.random.Generator] | None,
    ) -> None:
        for i, site in enumerate(self.sites(config)):
            _, bias = self._forward(config, xp, parameters, site)
            spread(xp, self._square(bias, config), tables["bias"][:, i], config.prefix)

    def derive_backward(
        self,
        config: Geometry,
        xp: ModuleType,
        parameters: Mapping[str, Array],
        tables: Mapping[str, Array],
        dtables: Mapping[str, Array],
        gradients: Mapping[str, Array],
    ) -> None:
        dbias = self.summed(dtables)
        for i, site in enumerate(self.sites(config)):
            hidden, bias = self._forward(config, xp, parameters, site)
            doutput = sum_back(xp, dbias[:, i], config.prefix, config.grid)
            doutput = doutput.reshape(*doutput.shape[:2], -1).swapaxes(1, 2)  # (R, displacements, H)
            if self.mode == "swin":
                doutput = doutput * bias * (1 - bias / GAIN)
            else:
                xp.sum(doutput, axis=1, out=gradients[f"{site}.mlp.fc2.bias"])
            xp.matmul(doutput.swapaxes(1, 2), hidden, out=gradients[f"{site}.mlp.fc2.weight"])
            dhidden = xp.matmul(doutput, parameters[f"{site}.mlp.fc2.weight"]) * (hidden > 0)
            displacements = self._displacements(config, xp, hidden.dtype)
            xp.matmul(dhidden.swapaxes(1, 2), displacements, out=gradients[f"{site}.mlp.fc1.weight"])
            xp.sum(dhidden, axis=1, out=gradients[f"{site}.mlp.fc1.bias"])

    def _forward(
        self, config: Geometry, xp: ModuleType, parameters: Mapping[str, Array], site: str
    ) -> tuple[Array, Array]:
        """Return the hidden units (R, displacements, hidden) and the bias (R, displacements, H)."""
        weight, shift = parameters[f"{site}.mlp.fc1.weight"], parameters[f"{site}.mlp.fc1.bias"]
        displacements = self._displacements(config, xp, weight.dtype)
        hidden = xp.maximum(xp.matmul(displacements, weight.swapaxes(1, 2)) + shift[:, None], 0)
        output = xp.matmul(hidden, parameters[f"{site}.mlp.fc2.weight"].swapaxes(1, 2))
        if self.mode == "cr":
            return hidden, output + parameters[f"{site}.mlp.fc2.bias"][:, None]
        return hidden, GAIN / (1 + xp.exp(-output))

    def _displacements(self, config: Geometry, xp: ModuleType, dtype: np.dtype) -> Array:
        """Return the displacements (rows, columns) on a log scale, ((2 g - 1)^2, 2)."""
        steps = np.arange(1.0 - config.grid, config.grid)
        if self.mode == "swin":
            steps *= REACH / max(normalising_grid(self, config) - 1, 1)
            steps = np.sign(steps) * np.log2(1 + np.abs(steps)) / np.log2(8)
        else:
            if served(self, config) == "interpolate":
                steps *= (config.trained_grid or config.grid) / config.grid
            steps = np.sign(steps) * np.log(1 + np.abs(steps))
        rows, columns = np.meshgrid(steps, steps, indexing="ij")
        return xp.asarray(np.stack([rows.ravel(), columns.ravel()], axis=1), dtype=dtype)

    def _square(self, bias: Array, config: Geometry) -> Array:
        """Return the bias (R, displacements, H) as (R, H, 2 g - 1, 2 g - 1)."""
        span = 2 * config.grid - 1
        return bias.swapaxes(1, 2).reshape(len(bias), config.heads, span, span)


def _uniform(inputs: int) -> Initializer:
    """Return the initializer of a linear layer in PyTorch: uniform within 1 / sqrt(inputs)."""

    def initial(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        return generator.uniform(-1, 1, shape) / np.sqrt(inputs)

    return initial
