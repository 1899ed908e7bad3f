"""The Vision Transformer: R models of the same shape, computed together."""

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np

from vit.backend import Array, Ops
from vit.backend.probe import ProbeOps, UncapturableError
from vit.config import ViTConfig
from vit.errors import ConfigError
from vit.layers import Block, Head, PatchEmbed
from vit.parameters import Layout, Parameter, Views, initialise, zeros
from vit.positions import encoding
from vit.random import stream
from vit.workspace import AnyDraws, Workspace


def layout(config: ViTConfig) -> Layout:
    """Return the layout of all parameters, with the names and shapes of timm's VisionTransformer."""
    declared = PatchEmbed.declare(config) + encoding(config.position).declare(config)
    for i in range(config.depth):
        declared += Block.declare(f"blocks.{i}", config)
    return Layout(declared + Head.declare(config))


def table_layout(shapes: Mapping[str, tuple[int, ...]]) -> Layout:
    """Return the layout of tables of an encoding, or of their gradients."""
    return Layout(Parameter(name, shape, zeros) for name, shape in shapes.items())


@cache
def attention_is_fusible(config: ViTConfig) -> bool:
    """Return whether the encoding allows attention to be one fused kernel in every block."""
    try:
        return all(hook.fusible for hook in encoding(config.position).hooks(config, _probe(config, "cupy")).blocks)
    except UncapturableError:
        return False


def _probe(config: ViTConfig, backend: str, *, training: bool = True) -> Workspace:
    """Return a workspace of arrays whose values must not be used."""
    ops = ProbeOps(backend)
    position = encoding(config.position)
    layouts = [layout(config), *map(table_layout, (position.tables(config), position.table_gradients(config)))]
    parameters, tables, dtables = (Views(of, ops.empty((1, of.size))) for of in layouts)
    return Workspace(ops, parameters, parameters, parameters, 2, training, tables, dtables)


@cache
def capture_problem(config: ViTConfig, backend: str) -> str | None:
    """Return what keeps a backend from capturing a pass and replaying it, or None if nothing does.

    Found out by passes of training and evaluation over arrays without values, in which every computation outside the
    kernels of the backend raises. An encoding that computes with array expressions has such a problem.
    """
    error = capture_error(config, backend)
    return None if error is None else str(error)


def capture_error(config: ViTConfig, backend: str) -> UncapturableError | None:
    """Return the exception whose message is `capture_problem`; its traceback shows where."""
    try:
        for training in (True, False):
            network = Network(config, _probe(config, backend, training=training))
            network.inputs(2)
            if training:
                network.train(1.0)
            else:
                network.logits()
    except UncapturableError as error:
        return error
    except ValueError as error:
        if "read-only" not in str(error):
            raise
        return UncapturableError("an assignment to an array").with_traceback(error.__traceback__)
    return None


class Network:
    """The layers of a ViT over the buffers of one workspace."""

    def __init__(self, config: ViTConfig, workspace: Workspace) -> None:
        self.config, self.workspace, self.ops = config, workspace, workspace.ops
        if self.ops.rounds_operands and (problem := capture_problem(config, "cupy")):
            raise ConfigError(
                f"precision must be float32 or tf32 with position {config.position!r}, which needs {problem}, got bf16"
            )
        hooks = encoding(config.position).hooks(config, workspace)
        if len(hooks.blocks) != config.depth:
            raise ConfigError(
                f"position {config.position!r} must return one hook for each of {config.depth} blocks, got "
                f"{len(hooks.blocks)}"
            )
        self.patch_embed = PatchEmbed(workspace, config, hooks.tokens)
        rates = np.linspace(0, config.drop_path, config.depth)
        self.blocks = [
            Block(workspace, f"blocks.{i}", config, hooks.blocks[i], float(rate)) for i, rate in enumerate(rates)
        ]
        self.head = Head(workspace, config)

    def load(self, images: Array, targets: Array | None = None) -> None:
        """Copy images (R, B, h, w, channels), as patches, and soft targets (R, B, C) into the input buffers."""
        patches, target_buffer = self.inputs(images.shape[1])
        self.ops.patchify(images, self.config.patch_size, out=patches)
        if targets is not None:
            target_buffer[...] = targets

    def inputs(self, batch: int) -> tuple[Array, Array]:
        """Return the buffers that the next pass reads: patches (R, B, N, channels p p) and targets (R, B, C)."""
        self.targets = self.workspace.scratch("head", "targets", batch, self.config.classes)
        return self.patch_embed.inputs(batch), self.targets

    def logits(self, draws: AnyDraws = None) -> Array:
        """Return the logits (R, B, C) of the loaded images, valid until the next call.

        Dropout is applied only if `draws` is given.
        """
        stream, branch = self.patch_embed.forward(draws), None
        for block in self.blocks:
            stream, branch = block.forward(stream, branch, draws)
        return self.head.forward(stream, branch)

    def train(self, scale: float, draws: AnyDraws = None, totals: Array | None = None) -> Array:
        """Return the losses (R, B) of the loaded images and compute the gradients of `scale` times their sum.

        All gradients are overwritten. The CUDA backend adds the sum of the losses and the number of correct
        predictions to `totals` (R, 2), if given.
        """
        logits = self.logits(draws)
        losses = self.workspace.scratch("head", "losses", logits.shape[1])
        dlogits = self.workspace.scratch("head", "dlogits", *logits.shape[1:])
        counted = {} if totals is None else {"totals": totals}
        self.ops.cross_entropy(logits, self.targets, scale, losses=losses, dlogits=dlogits, **counted)
        self.backward(dlogits)
        return losses

    def backward(self, dlogits: Array) -> None:
        """Overwrite the gradients of all parameters, given dlogits (R, B, C)."""
        c = self.config
        dstream = self.workspace.scratch("head", "dstream", dlogits.shape[1], c.tokens, c.width)
        operand = self.head.backward(dlogits, dstream)
        for block in reversed(self.blocks):
            operand = block.backward(dstream, operand)
        self.patch_embed.backward(operand)


class ViT:
    """R Vision Transformers of the same shape, one per seed, trained and evaluated together.

    Images are floating-point arrays (R, B, height, width, channels), already normalised. Labels are integers (R, B).

    Parameters
    ----------
    config : ViTConfig
        The architecture.
    ops : Ops
        The backend, from `get_ops`.
    seeds : sequence of int
        Non-negative seeds of the initial parameters and of dropout, one per run.

    Raises
    ------
    ConfigError
        If `seeds` is empty or contains a negative number.
    """

    def __init__(self, config: ViTConfig, ops: Ops, seeds: Sequence[int]) -> None:
        if not seeds:
            raise ConfigError("seeds must be a list of at least one integer, got none")
        if min(seeds) < 0:
            raise ConfigError(f"seeds must be integers of at least 0, got {min(seeds)}")
        self.config, self.ops, self.seeds = config, ops, tuple(seeds)
        self.layout = layout(config)
        self.parameters = initialise(self.layout, ops, self.seeds)
        self.weights = self.parameters
        """The parameters in the type that matrix products read: the same arrays, or a bf16 copy."""
        if ops.rounds_operands:
            self.weights = Views(self.layout, ops.empty_operand(self.parameters.flat.shape))
        self.position = encoding(config.position)
        self.tables = self.zero_tables(self.position.tables(config))
        """What the encoding computes from the parameters once per step; see `derive`."""
        self._network: Network | None = None
        self._gradients: list[dict[str, np.ndarray]] | None = None

    def network(self, capacity: int, *, training: bool = True, ops: Ops | None = None) -> Network:
        """Return a network with new buffers for batches of up to `capacity` images, on this model's parameters."""
        gradients = self.parameters
        if training:
            gradients = Views(self.layout, self.ops.zeros(self.parameters.flat.shape))
        dtables = self.zero_tables(self.position.table_gradients(self.config))
        workspace = Workspace(
            ops or self.ops, self.parameters, self.weights, gradients, capacity, training, self.tables, dtables
        )
        return Network(self.config, workspace)

    def zero_tables(self, shapes: Mapping[str, tuple[int, ...]]) -> Views:
        """Return zeros (R, *shape) for tables of the encoding, or their gradients."""
        layout = table_layout(shapes)
        return Views(layout, self.ops.zeros((len(self.seeds), layout.size)))

    def derive(self, step: int | None = None) -> None:
        """Update the tables of the encoding after the parameters have changed.

        In training, `step` selects the random numbers of encodings that change at random.
        """
        if self.tables:
            generators = None if step is None else [stream(seed, "position", step) for seed in self.seeds]
            self.position.derive(self.config, self.ops.xp, self.parameters, self.tables, generators)

    def derive_backward(self, dtables: Views, gradients: Views) -> None:
        """Overwrite the gradients of the parameters from which tables are derived, given those of the tables."""
        if dtables:
            arrays = (self.parameters, self.tables, dtables, gradients)
            self.position.derive_backward(self.config, self.ops.xp, *arrays)

    def round_weights(self) -> None:
        """Update the bf16 copy in `weights`, if there is one, after the parameters have changed."""
        if self.ops.rounds_operands:
            self.ops.round_operand(self.parameters.flat, self.weights.flat)

    def forward(self, images: Array) -> Array:
        """Return the logits (R, B, C) of images (R, B, h, w, channels), without dropout.

        Raises ConfigError if the shape of `images` does not fit the model.
        """
        network = self._own_network(images)
        network.load(self.ops.asarray(images))
        return network.logits().copy()

    def loss_and_gradients(self, images: Array, labels: Array, label_smoothing: float = 0.0) -> Array:
        """Return the mean cross-entropy over the batch (R,), without dropout.

        `images` is (R, B, h, w, channels); `labels` are integers (R, B) from 0 to C - 1. `gradients` returns the
        gradients of this loss. Raises ConfigError for images or labels of another shape, type or range.
        """
        network = self._own_network(images)
        labels = self.ops.to_numpy(labels)
        classes, shape = self.config.classes, images.shape[:2]
        if labels.shape != shape or labels.dtype.kind not in "iu":
            raise ConfigError(f"labels must be integers of shape {shape}, got {labels.dtype} of shape {labels.shape}")
        if labels.min() < 0 or labels.max() >= classes:
            raise ConfigError(f"labels must be from 0 to {classes - 1}, got {labels.min()} to {labels.max()}")
        targets = self.ops.asarray(one_hot(labels, classes, label_smoothing))
        network.load(self.ops.asarray(images), targets)
        loss = network.train(1 / images.shape[1]).mean(axis=1)
        views = network.workspace.gradients
        self.derive_backward(network.workspace.dtables, views)
        self._gradients = [self._state(views, run) for run in range(len(self.seeds))]
        return loss

    def gradients(self, run: int = 0) -> dict[str, np.ndarray]:
        """Return the gradients of one run from the last `loss_and_gradients`, with names and shapes of `state_dict`.

        Raises RuntimeError if `loss_and_gradients` has not been called.
        """
        if self._gradients is None:
            raise RuntimeError("loss_and_gradients must be called before gradients")
        return self._gradients[run]

    def state_dict(self, run: int = 0) -> dict[str, np.ndarray]:
        """Return a copy of the parameters of one run, with timm's names and shapes."""
        return self._state(self.parameters, run)

    def _state(self, views: Views, run: int) -> dict[str, np.ndarray]:
        state = {name: self.ops.to_numpy(views[name][run]) for name in self.layout.parameters}
        return self.position.external_state(state, self.config)

    def load_state_dict(self, state: Mapping[str, np.ndarray], run: int = 0) -> None:
        """Overwrite the parameters of one run.

        Tables of an encoding for another grid of patches are resized. Raises ConfigError, before anything is
        overwritten, if names are missing or unknown or a shape does not fit.
        """
        state = self.position.adapt_state(state, self.config)
        expected = {name: parameter.shape for name, parameter in self.layout.parameters.items()}
        if missing := sorted(expected.keys() - state.keys()):
            raise ConfigError(f"state must contain all parameters of the model, got none for {', '.join(missing)}")
        if unknown := sorted(state.keys() - expected.keys()):
            raise ConfigError(f"state must contain only parameters of the model, got {', '.join(unknown)}")
        for name, shape in expected.items():
            if state[name].shape != shape:
                raise ConfigError(f"{name} must have the shape {shape}, got {state[name].shape}")
        for name in expected:
            self.parameters[name][run] = self.ops.asarray(state[name])

    def check_images(self, images: Array) -> None:
        """Raise ConfigError if the shape of `images` does not fit the model."""
        c = self.config
        shape = (len(self.seeds), c.image_size, c.image_size, c.channels)
        if images.ndim != 5 or (len(images), *images.shape[2:]) != shape or not images.shape[1]:
            raise ConfigError(
                f"images must have the shape ({shape[0]}, batch of 1 or more, {shape[1]}, {shape[2]}, {shape[3]}), "
                f"got {tuple(images.shape)}"
            )

    def _own_network(self, images: Array) -> Network:
        self.check_images(images)
        if self._network is None or self._network.workspace.capacity < images.shape[1]:
            self._network = self.network(images.shape[1])
        self.round_weights()
        self.derive()
        return self._network


def one_hot(labels: np.ndarray, classes: int, smoothing: float = 0.0) -> np.ndarray:
    """Return soft targets (..., classes) for integer labels (...): 1 - s at the label, plus s / classes everywhere.

    s is the label smoothing `smoothing`, at least 0 and below 1.
    """
    return np.eye(classes)[labels] * (1 - smoothing) + smoothing / classes
