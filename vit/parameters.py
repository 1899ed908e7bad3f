"""Parameters of a model: one flat array and named views into it."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod

import numpy as np

from vit.backend import Array, Ops
from vit.errors import ConfigError
from vit.random import stream

ALIGNMENT = 64
"""Elements to a multiple of which the offset of each view and the length of a row are padded."""

Initializer = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


def truncated_normal(std: float) -> Initializer:
    """Return an initializer that draws from a normal distribution truncated at two standard deviations.

    `std` is the standard deviation before truncation. Values outside the bounds are drawn again.
    """

    def initial(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        values = generator.standard_normal(shape)
        while (outside := np.abs(values) > 2).any():
            values[outside] = generator.standard_normal(int(outside.sum()))
        return values * std

    return initial


def zeros(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return np.zeros(shape)


def ones(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return np.ones(shape)


@dataclass(frozen=True)
class Parameter:
    """Named parameter: its shape in one run, its initializer, and whether weight decay applies to it."""

    name: str
    shape: tuple[int, ...]
    initial: Initializer
    decay: bool = False


class Layout:
    """Offsets of the parameters in a row of P elements. Parameters with weight decay come first."""

    def __init__(self, parameters: Iterable[Parameter]) -> None:
        declared = list(parameters)
        self.parameters = {p.name: p for p in declared}
        if len(self.parameters) < len(declared):
            names = [p.name for p in declared]
            twice = sorted({name for name in names if names.count(name) > 1})
            raise ConfigError(f"names of parameters must differ, got two of {', '.join(twice)}")
        self.offsets: dict[str, int] = {}
        self.decayed = 0
        """Number of elements with weight decay, which come first."""
        end = 0
        for parameter in sorted(self.parameters.values(), key=lambda p: not p.decay):
            self.offsets[parameter.name] = end
            end += -(-prod(parameter.shape) // ALIGNMENT) * ALIGNMENT
            if parameter.decay:
                self.decayed = end
        self.size = end
        """P, including padding."""

    @property
    def count(self) -> int:
        """Number of parameters of one run, without padding."""
        return sum(prod(p.shape) for p in self.parameters.values())


class Views(Mapping[str, Array]):
    """Flat array (R, P) and its named views (R, *shape), which share its memory."""

    def __init__(self, layout: Layout, flat: Array) -> None:
        self.flat = flat
        self._places = [(offset, layout.parameters[name].shape) for name, offset in layout.offsets.items()]
        self._views = {
            name: flat[:, offset : offset + prod(shape)].reshape(len(flat), *shape, copy=False)
            for name, offset in layout.offsets.items()
            for shape in [layout.parameters[name].shape]
        }

    @property
    def slices(self) -> list[slice]:
        """The part of a row that belongs to each view."""
        return [slice(start, start + prod(shape)) for start, shape in self._places]

    def __getitem__(self, name: str) -> Array:
        return self._views[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._views)

    def __len__(self) -> int:
        return len(self._views)


def initialise(layout: Layout, ops: Ops, seeds: Iterable[int]) -> Views:
    """Return the initial parameters of one run per seed.

    Each parameter has its own random stream, which its name selects. So two models with the same seed have equal
    initial values in all parameters with the same name and shape.
    """
    seeds = list(seeds)
    flat = ops.zeros((len(seeds), layout.size))
    for run, seed in enumerate(seeds):
        if seed in seeds[:run]:
            flat[run] = flat[seeds.index(seed)]
            continue
        own = Views(layout, np.zeros((1, layout.size)))
        for name, parameter in layout.parameters.items():
            own[name][0] = parameter.initial(stream(seed, f"init {name}"), parameter.shape)
        flat[run] = ops.asarray(own.flat[0])
    return Views(layout, flat)
