"""What a positional encoding does in a model, measured by running its hooks on simple inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from ablations.statistics import FloatArray
from vit import ViT, ViTConfig, get_ops
from vit.positions import BlockHook, Position, own
from vit.positions.rope_mixed import FREQUENCIES, MixedRotaryPosition

LEAST = 1e-9
"""Effects below this are rounding errors."""


class UndrawableError(Exception):
    """An encoding whose effects cannot be measured."""


KINDS = ("table", "response", "rotation", "bias", "products")
"""Methods of `Effects`."""


def effects(part: Position, config: ViTConfig, state: Mapping[str, FloatArray], seed: int = 0) -> dict[str, FloatArray]:
    """Return the effects that an encoding has, by their kind. Raises UndrawableError if they cannot be measured.

    Of learned 2-D frequencies also their values (2, blocks, heads, pairs) before and after training, as "start" and
    "frequencies".
    """
    with _own_errors(part):
        measured = Effects(part, config, state, seed)
        found = {kind: getattr(measured, kind)() for kind in KINDS}
    if isinstance(part, MixedRotaryPosition):
        found |= {"start": measured.start(FREQUENCIES), "frequencies": measured.trained(FREQUENCIES)}
    return {kind: values for kind, values in found.items() if values is not None}


def learns(part: Position, config: ViTConfig) -> bool:
    """Return whether an encoding has parameters, true if that cannot be found out."""
    try:
        with _own_errors(part):
            return bool(part.declare(config))
    except UndrawableError:
        return True


@contextmanager
def _own_errors(part: Position) -> Iterator[None]:
    """Raise UndrawableError instead of any error of an encoding that is not built in."""
    try:
        yield
    except Exception as error:
        if isinstance(error, UndrawableError) or not own.is_own(part.name):
            raise
        raise UndrawableError(f"{part} raises {type(error).__name__}") from error


class Effects:
    """Effects of one encoding (one part of a sum) in one model, each None if the encoding has no such effect.

    Shapes: N patches, D width, H heads, span = 2 g - 1 displacements along each axis of a grid of g x g patches. Entry
    (dy + g - 1, dx + g - 1) of a map belongs to keys dx columns right of the query and dy rows below it.
    """

    def __init__(self, part: Position, config: ViTConfig, state: Mapping[str, FloatArray], seed: int = 0) -> None:
        """`state` has the parameters of the trained model, at least those of the encoding; `seed` gave their start.

        Raises UndrawableError if a parameter is missing or has another shape.
        """
        config = replace(config, position=str(part))
        self.model = ViT(config, get_ops("numpy", dtype="float64"), [seed])
        self.config = self.model.config
        state = part.adapt_state(state, config)
        for name in (parameter.name for parameter in part.declare(config)):
            if name not in state or state[name].shape != self.model.parameters[name].shape[1:]:
                raise UndrawableError(f"{part} has no parameter {name} of the shape of this model")
            self.model.parameters[name][0] = state[name]
        self.model.derive()
        self._hooks = part.hooks(config, self.model.network(1, training=False).workspace)

    def start(self, name: str) -> FloatArray:
        """Return a parameter before training."""
        return np.asarray(ViT(self.config, self.model.ops, self.model.seeds).parameters[name][0])

    def trained(self, name: str) -> FloatArray:
        """Return a parameter of the trained model."""
        return np.asarray(self.model.parameters[name][0])

    def table(self) -> FloatArray | None:
        """Return what is added to the patch tokens, (N, D): the response to tokens of zeros."""
        tokens = np.zeros((1, 1, self.config.patches, self.config.width))
        self._hooks.tokens.forward(tokens)
        return _if_any(tokens[0, 0])

    def response(self) -> FloatArray | None:
        """Return what the first block that changes its input adds to patch tokens of ones, (N, D)."""
        ones = np.ones((1, 1, self.config.tokens, self.config.width))
        for hook in self._hooks.blocks:
            stream, branch = hook.block_input(ones, None)
            added = stream - ones if branch is None else stream - ones + branch.value + branch.bias[:, None, None]
            if np.abs(added).max() > LEAST:
                return np.array(added[0, 0, self.config.prefix :])
        return None

    def rotation(self) -> FloatArray | None:
        """Return the product of a query and a key of ones over the displacement, relative to that of plain ones.

        (span, span), the mean over heads, blocks, and pairs of patches with the same displacement.
        """
        maps = []
        for hook in self._distinct():
            qkv = self._queries_keys(hook, np.ones(self.config.head_width))
            products = np.einsum("nhk,mhk->hnm", qkv[:, 0], qkv[:, 1])[:, self.config.prefix :, self.config.prefix :]
            maps.append(by_displacement(products.mean(axis=0) / self.config.head_width))
        mean = np.mean(maps, axis=0)
        return mean if np.abs(mean - 1).max() > LEAST else None

    def bias(self) -> FloatArray | None:
        """Return what the first block adds to the scores of queries and keys of zeros, (H, span, span)."""
        return _if_any(self._added(self._hooks.blocks[0], np.zeros(self.config.head_width)))

    def products(self) -> FloatArray | None:
        """Return the part of the added scores that depends on the query, (span, span).

        The root mean square over queries with independent standard normal components, averaged over heads and blocks.
        """
        maps = []
        for hook in self._distinct():
            if type(hook).scores is not BlockHook.scores:
                plain = self._added(hook, np.zeros(self.config.head_width))
                parts = [self._added(hook, unit) - plain for unit in np.eye(self.config.head_width)]
                maps.append(np.sqrt(np.sum(np.square(parts), axis=0)).mean(axis=0))
        return _if_any(np.mean(maps, axis=0)) if maps else None

    def _distinct(self) -> Iterator[BlockHook]:
        """Yield the hooks of the blocks, once each."""
        yield from {id(hook): hook for hook in self._hooks.blocks}.values()

    def _queries_keys(self, hook: BlockHook, query: FloatArray, scale: float = 1.0) -> FloatArray:
        """Return queries, keys and values (T, 3, H, K) of tokens which all have this projection (K,)."""
        c = self.config
        qkv = np.tile(query, (1, 1, c.tokens, 3, c.heads, 1))
        hook.queries_keys(qkv, np.zeros((1, 3 * c.width)), scale)
        return np.asarray(qkv[0, 0])

    def _added(self, hook: BlockHook, query: FloatArray) -> FloatArray:
        """Return what is added to the scores of these queries (K,), (H, span, span)."""
        c = self.config
        qkv = self._queries_keys(hook, query, c.head_width**-0.5)
        scores = np.zeros((1, 1, c.heads, c.tokens, c.tokens))
        hook.scores(scores, qkv[None, None])
        return by_displacement(scores[0, 0, :, c.prefix :, c.prefix :])


def by_displacement(pairs: FloatArray) -> FloatArray:
    """Return the means of (..., N, N), queries by keys, over the pairs of each displacement, (..., span, span)."""
    grid = round(pairs.shape[-1] ** 0.5)
    span = 2 * grid - 1
    y, x = np.divmod(np.arange(grid * grid), grid)
    place = ((y - y[:, None] + grid - 1) * span + x - x[:, None] + grid - 1).ravel()
    rows = pairs.reshape(-1, place.size)
    sums = np.stack([np.bincount(place, row, span * span) for row in rows])
    means = sums / np.bincount(place, minlength=span * span)
    return np.asarray(means.reshape(*pairs.shape[:-2], span, span))


def _if_any(values: FloatArray) -> FloatArray | None:
    return values if np.abs(values).max() > LEAST else None
