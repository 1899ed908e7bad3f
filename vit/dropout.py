"""Residual branches, dropout and stochastic depth."""

import zlib
from dataclasses import dataclass

from vit.backend import Array
from vit.workspace import AnyDraws, DeviceDraws, Workspace


@dataclass(frozen=True)
class Branch:
    """Output of a residual branch: `value` (R, B, T, D), its `bias` (R, D), not yet added, and the bias gradient."""

    value: Array
    bias: Array
    dbias: Array


class Dropout:
    """Dropout of elements (Srivastava et al. 2014) and stochastic depth (Huang et al. 2016, arXiv 1603.09382)."""

    def __init__(
        self, workspace: Workspace, name: str, rate: float, path_rate: float = 0.0, buffer: str = "kept"
    ) -> None:
        self.workspace, self.ops, self.name = workspace, workspace.ops, name
        self.rate, self.path_rate, self.buffer = rate, path_rate, buffer
        self.site = zlib.crc32(name.encode()) >> 1
        self.draws: AnyDraws = None

    def forward(self, x: Array, draws: AnyDraws, bias: Array | None = None) -> Array:
        """Return x + bias (R, B, T, D) after dropout; or `x`, without bias, if `draws` is None or both rates are 0.

        With `draws` of the host, the bias is added to `x` in place.
        """
        self.draws = draws if self.rate or self.path_rate else None
        if self.draws is None:
            return x
        _, batch, tokens, width = x.shape
        y = self.workspace.saved(self.name, self.buffer, batch, tokens, width)
        if isinstance(self.draws, DeviceDraws):
            self._drop(x, bias, y, self.draws)
            return y
        if self.ops.rounds_operands:
            raise RuntimeError("precision must be float32 or tf32 with dropout drawn on the host, got bf16")
        if bias is not None:
            self.ops.add_bias(x, bias)
        self.keep = self.workspace.saved(self.name, "keep", batch, tokens, width)
        self.keep[...] = 1
        if self.rate:
            self.keep *= self.ops.asarray(self.draws.keep(self.name, (batch, tokens, width), self.rate))
        if self.path_rate:
            self.keep *= self.ops.asarray(self.draws.keep(f"{self.name} path", (batch, 1, 1), self.path_rate))
        return self.ops.xp.multiply(x, self.keep, out=y)

    def backward(self, dy: Array) -> Array:
        if self.draws is None:
            return dy
        dx = self.workspace.scratch(self.name, "dx", *dy.shape[1:])
        if isinstance(self.draws, DeviceDraws):
            self._drop(dy, None, dx, self.draws)
            return dx
        return self.ops.xp.multiply(dy, self.keep, out=dx)

    def forward_branch(self, branch: Branch, draws: AnyDraws) -> Branch:
        """Return the branch after dropout, its bias included in the value; or the same branch without dropout."""
        value = self.forward(branch.value, draws, branch.bias)
        if self.draws is None:
            return branch
        return Branch(value, self.workspace.no_bias(branch.bias.shape), branch.dbias)

    def backward_branch(self, dstream: Array, dbias: Array) -> Array:
        """Return the gradient of the branch. If dropout was applied, overwrite the gradient of its bias.

        Without dropout, the following layer norm computes the gradient of the bias.
        """
        if self.draws is None:
            return dstream
        dvalue = self.backward(dstream)
        self.ops.sum_tokens(dvalue, out=dbias)
        return dvalue

    def _drop(self, x: Array, bias: Array | None, out: Array, draws: DeviceDraws) -> None:
        """Apply dropout on the device. The same call on a gradient drops the same elements."""
        rates = {"rate": self.rate, "path_rate": self.path_rate}
        self.ops.dropout(x, bias, **rates, seeds=draws.seeds, step=draws.step, site=self.site, out=out)
