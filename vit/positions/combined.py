"""Sums of encodings that act at different places, such as `rope+learned`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any, ClassVar

import numpy as np

from vit.backend import Array
from vit.dropout import Branch
from vit.errors import ConfigError
from vit.parameters import Parameter
from vit.positions.base import BlockHook, Geometry, Position, Rotation, ScoreBias, TokenHook
from vit.workspace import Workspace

QUERIES_AND_KEYS = "queries and keys"


@dataclass(frozen=True)
class CombinedPosition(Position):
    """Several encodings in one model. At most one of them may act on queries and keys."""

    summands: tuple[Position, ...] = ()

    description: ClassVar[str] = "several encodings"

    @property
    def parts(self) -> tuple[Position, ...]:
        return self.summands

    def __str__(self) -> str:
        return "+".join(map(str, self.parts))

    def check(self, config: Geometry) -> None:
        for part in self.parts:
            part.check(config)

    def declare(self, config: Geometry) -> list[Parameter]:
        return [parameter for part in self.parts for parameter in part.declare(config)]

    def flops(self, config: Geometry) -> int:
        return sum(part.flops(config) for part in self.parts)

    def token_hook(self, config: Geometry, workspace: Workspace) -> TokenHook:
        return _TokenHooks([part.token_hook(config, own) for part, own in self._workspaces(workspace)])

    def block_hooks(self, config: Geometry, workspace: Workspace) -> Sequence[BlockHook]:
        hooks = [part.block_hooks(config, own) for part, own in self._workspaces(workspace)]
        return [_BlockHooks(str(self), list(of_block), workspace, config) for of_block in zip(*hooks, strict=True)]

    def tables(self, config: Geometry) -> dict[str, tuple[int, ...]]:
        return {_key(i, name): s for i, part in enumerate(self.parts) for name, s in part.tables(config).items()}

    def table_gradients(self, config: Geometry) -> dict[str, tuple[int, ...]]:
        return {
            _key(i, name): shape
            for i, part in enumerate(self.parts)
            for name, shape in part.table_gradients(config).items()
        }

    def derive(
        self,
        config: Geometry,
        xp: ModuleType,
        parameters: Mapping[str, Array],
        tables: Mapping[str, Array],
        generators: Sequence[np.random.Generator] | None,
    ) -> None:
        for i, part in enumerate(self.parts):
            if part.tables(config):
                part.derive(config, xp, parameters, _Own(tables, i), generators)

    def derive_backward(
        self,
        config: Geometry,
        xp: ModuleType,
        parameters: Mapping[str, Array],
        tables: Mapping[str, Array],
        dtables: Mapping[str, Array],
        gradients: Mapping[str, Array],
    ) -> None:
        for i, part in enumerate(self.parts):
            if part.table_gradients(config):
                part.derive_backward(config, xp, parameters, _Own(tables, i), _Own(dtables, i), gradients)

    def fixed_state(self, config: Geometry) -> dict[str, np.ndarray]:
        learned = {parameter.name for parameter in self.declare(config)}
        constants: dict[str, np.ndarray] = {}
        for part in self.parts:
            for name, array in part.fixed_state(config).items():
                constants[name] = constants[name] + array if name in constants else array  # tables are added
        return {name: array for name, array in constants.items() if name not in learned}

    def adapt_state(self, state: Mapping[str, np.ndarray], config: Geometry) -> dict[str, np.ndarray]:
        learned = {parameter.name for parameter in self.declare(config)}
        for part in self.parts:
            kept = {name: array for name, array in state.items() if name in learned}
            state = kept | part.adapt_state(state, config)
        return dict(state)

    def external_state(self, state: Mapping[str, np.ndarray], config: Geometry) -> dict[str, np.ndarray]:
        for part in self.parts:
            state = part.external_state(state, config)
        return dict(state)

    def _workspaces(self, workspace: Workspace) -> Iterator[tuple[Position, Workspace]]:
        """Yield each part with a workspace that has the tables of the part only, and buffers of its own."""
        for i, part in enumerate(self.parts):
            own: dict[str, Any] = {
                "tables": _Own(workspace.tables, i),
                "dtables": _Own(workspace.dtables, i),
                "owner": f"{workspace.owner} part {i}",
            }
            yield part, replace(workspace, **own)


def _key(part: int, name: str) -> str:
    return f"{part} {name}"


class _Own(Mapping[str, Array]):
    """The tables of one part."""

    def __init__(self, tables: Mapping[str, Array], part: int) -> None:
        self._all, self._part = tables, part

    def __getitem__(self, name: str) -> Array:
        return self._all[_key(self._part, name)]

    def __iter__(self) -> Iterator[str]:
        prefix = _key(self._part, "")
        return (name.removeprefix(prefix) for name in self._all if name.startswith(prefix))

    def __len__(self) -> int:
        return sum(1 for _ in self)


class _TokenHooks(TokenHook):
    """Hooks of several encodings, which read and add to the tokens in turn."""

    def __init__(self, hooks: Sequence[TokenHook]) -> None:
        self._hooks = hooks

    def forward(self, tokens: Array) -> None:
        for hook in self._hooks:
            hook.forward(tokens)

    def backward(self, dtokens: Array) -> None:
        for hook in reversed(self._hooks):
            hook.backward(dtokens)


class _BlockHooks(BlockHook):
    """Hooks of several encodings in one block."""

    def __init__(self, name: str, hooks: Sequence[BlockHook], workspace: Workspace, config: Geometry) -> None:
        turning = [hook for hook in hooks if hook.turns]
        if len(turning) > 1:
            raise ConfigError(f"only one part of position {name!r} may act on queries and keys, got {len(turning)}")
        self._turning = turning[0] if turning else BlockHook(workspace, config)
        biases: list[ScoreBias] = [hook.score_bias for hook in hooks if hook.score_bias]
        rotation: Rotation | None = self._turning.rotation
        super().__init__(workspace, config, rotation, biases[0] if len(biases) == 1 else None)
        self._hooks, self._biases = hooks, biases

    @property
    def fusible(self) -> bool:
        return all(hook.fusible for hook in self._hooks) and len(self._biases) <= 1

    def block_input(self, stream: Array, branch: Branch | None) -> tuple[Array, Branch | None]:
        for hook in self._hooks:
            stream, branch = hook.block_input(stream, branch)
        return stream, branch

    def block_input_backward(self, dstream: Array, operand: Array) -> Array:
        for hook in reversed(self._hooks):
            operand = hook.block_input_backward(dstream, operand)
        return operand

    def queries_keys(self, qkv: Array, bias: Array, scale: float) -> None:
        self._turning.queries_keys(qkv, bias, scale)

    def queries_keys_backward(self, qkv: Array, dqkv: Array, scale: float, *, dbias: Array) -> None:
        self._turning.queries_keys_backward(qkv, dqkv, scale, dbias=dbias)

    def scores(self, scores: Array, qkv: Array) -> None:
        for hook in self._hooks:
            hook.scores(scores, qkv)

    def scores_backward(self, dscores: Array, qkv: Array, dqkv: Array) -> None:
        for hook in self._hooks:
            hook.scores_backward(dscores, qkv, dqkv)
