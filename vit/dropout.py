"""What a residual branch adds to the stream, and dropping parts of it."""

import zlib
from dataclasses import dataclass

from vit.backend import Array
from vit.workspace import AnyDraws, DeviceDraws, Workspace


@dataclass(frozen=True)
class Branch:
    """What a residual branch adds to the stream: value + bias, with where the gradient of the bias belongs."""

    value: Array
    bias: Array
    dbias: Array


class Dropout:
    """Dropout of elements (Srivastava et al. 2014) and of an image's whole branch (Huang et al. 2016, 1603.09382)."""

    def __init__(
        self, workspace: Workspace, name: str, rate: float, path_rate: float = 0.0, buffer: str = "kept"
    ) -> None:
        self.workspace, self.ops, self.name = workspace, workspace.ops, name
        self.rate, self.path_rate, self.buffer = rate, path_rate, buffer
        self.site = zlib.crc32(name.encode()) >> 1
        self.draws: AnyDraws = None

    def forward(self, x: Array, draws: AnyDraws, bias: Array | None = None) -> Array:
        """x (R, B, T, D) itself, or what is left of x + bias where `draws` are given and a rate is above 0.

        Draws of the host add the bias to `x` in place.
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
            raise RuntimeError("dropout: the host draws for float32 and float64, not for bf16")
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
        """The branch with its bias added, then dropped; or the branch itself."""
        value = self.forward(branch.value, draws, branch.bias)
        if self.draws is None:
            return branch
        return Branch(value, self.workspace.no_bias(branch.bias.shape), branch.dbias)

    def backward_branch(self, dstream: Array, dbias: Array) -> Array:
        """The gradient of the branch; overwrites that of its bias where something was dropped."""
        if self.draws is None:
            return dstream
        dvalue = self.backward(dstream)
        self.ops.sum_tokens(dvalue, out=dbias)
        return dvalue

    def _drop(self, x: Array, bias: Array | None, out: Array, draws: DeviceDraws) -> None:
        """The same elements for a gradient as for what it is the gradient of."""
        rates = {"rate": self.rate, "path_rate": self.path_rate}
        self.ops.dropout(x, bias, **rates, seeds=draws.seeds, step=draws.step, site=self.site, out=out)
