"""The Vision Transformer: R models of one shape, side by side."""

from collections.abc import Mapping, Sequence

import numpy as np

from vit.backend import Array, Ops
from vit.config import ViTConfig
from vit.errors import ConfigError
from vit.layers import Block, Head, PatchEmbed
from vit.parameters import Layout, Views, initialise
from vit.positions import POSITIONS
from vit.workspace import Draws, Workspace


def layout(config: ViTConfig) -> Layout:
    """Every parameter of the model, named and shaped as in timm's VisionTransformer."""
    declared = PatchEmbed.declare(config) + POSITIONS[config.position].declare(config)
    for i in range(config.depth):
        declared += Block.declare(f"blocks.{i}", config)
    return Layout(declared + Head.declare(config))


class Network:
    """The layers of a ViT over the buffers of one workspace."""

    def __init__(self, config: ViTConfig, workspace: Workspace) -> None:
        self.config, self.workspace, self.ops = config, workspace, workspace.ops
        position = POSITIONS[config.position]
        self.position = position(config, workspace.ops, workspace.parameters, workspace.gradients)
        self.patch_embed = PatchEmbed(workspace, config, self.position)
        rates = np.linspace(0, config.drop_path, config.depth)
        self.blocks = [
            Block(workspace, f"blocks.{i}", config, self.position, float(rate)) for i, rate in enumerate(rates)
        ]
        self.head = Head(workspace, config)

    def forward(self, images: Array, draws: Draws | None = None) -> Array:
        """Images (R, B, h, w, channels) to logits (R, B, C), good until the next call. Drops only with `draws`."""
        stream, branch = self.patch_embed.forward(images, draws), None
        for block in self.blocks:
            stream, branch = block.forward(stream, branch, draws)
        return self.head.forward(stream, branch)

    def loss(self, logits: Array, targets: Array, scale: float) -> tuple[Array, Array]:
        """Losses (R, B) against soft targets (R, B, C), and the gradient of `scale` times their sum."""
        dlogits = self.workspace.scratch("head", "dlogits", *logits.shape[1:])
        return self.ops.cross_entropy(logits, targets, scale, dlogits=dlogits), dlogits

    def backward(self, dlogits: Array) -> None:
        """From dlogits (R, B, C), overwrites the gradient of every parameter."""
        c = self.config
        self.position.start_backward()
        dstream = self.workspace.scratch("head", "dstream", dlogits.shape[1], c.tokens, c.width)
        self.head.backward(dlogits, dstream)
        for block in reversed(self.blocks):
            block.backward(dstream)
        self.patch_embed.backward(dstream)


class ViT:
    """R Vision Transformers of one shape, one per seed, trained and evaluated side by side.

    Images are (R, B, height, width, channels), already normalised; labels (R, B) whole numbers.
    """

    def __init__(self, config: ViTConfig, ops: Ops, seeds: Sequence[int]) -> None:
        if not seeds:
            raise ConfigError("seeds: none given, valid is a list of at least one whole number")
        self.config, self.ops, self.seeds = config, ops, tuple(seeds)
        self.layout = layout(config)
        self.parameters = initialise(self.layout, ops, self.seeds)
        self._network: Network | None = None

    def network(self, capacity: int, *, training: bool = True) -> Network:
        """New buffers for batches of up to `capacity` images, over this model's parameters."""
        gradients = self.parameters
        if training:
            gradients = Views(self.layout, self.ops.zeros(self.parameters.flat.shape))
        workspace = Workspace(self.ops, self.parameters, gradients, capacity, training)
        return Network(self.config, workspace)

    def forward(self, images: Array) -> Array:
        """Logits (R, B, C), without dropout."""
        return self._own_network(images).forward(self.ops.asarray(images)).copy()

    def loss_and_gradients(self, images: Array, labels: Array, label_smoothing: float = 0.0) -> Array:
        """Mean cross-entropy over the batch (R,), without dropout; `gradients` then has its gradients."""
        network = self._own_network(images)
        targets = self.ops.asarray(one_hot(self.ops.to_numpy(labels), self.config.classes, label_smoothing))
        logits = network.forward(self.ops.asarray(images))
        losses, dlogits = network.loss(logits, targets, 1 / images.shape[1])
        network.backward(dlogits)
        return losses.mean(axis=1)

    def gradients(self, run: int = 0) -> dict[str, np.ndarray]:
        """Gradients of the last `loss_and_gradients`, named and shaped as in `state_dict`."""
        if self._network is None:
            raise RuntimeError("gradients: call loss_and_gradients first")
        views = self._network.workspace.gradients
        return {name: self.ops.to_numpy(views[name][run]) for name in self.layout.parameters}

    def state_dict(self, run: int = 0) -> dict[str, np.ndarray]:
        """The parameters of one run, copied, with timm's names and shapes."""
        return {name: self.ops.to_numpy(self.parameters[name][run]) for name in self.layout.parameters}

    def load_state_dict(self, state: Mapping[str, np.ndarray], run: int = 0) -> None:
        """Overwrites the parameters of one run. A learned table of another grid is resized.

        Raises ConfigError, before anything is written, for names or shapes that do not fit.
        """
        state = POSITIONS[self.config.position].adapt_state(state, self.config)
        expected = {name: parameter.shape for name, parameter in self.layout.parameters.items()}
        if missing := sorted(expected.keys() - state.keys()):
            raise ConfigError(f"state: {', '.join(missing)} missing")
        if unknown := sorted(state.keys() - expected.keys()):
            raise ConfigError(f"state: {', '.join(unknown)} given, which this model does not have")
        for name, shape in expected.items():
            if state[name].shape != shape:
                raise ConfigError(f"state: {name} has shape {state[name].shape}, valid is {shape}")
        for name in expected:
            self.parameters[name][run] = self.ops.asarray(state[name])

    def _own_network(self, images: Array) -> Network:
        c = self.config
        valid = (len(self.seeds), c.image_size, c.image_size, c.channels)
        if images.ndim != 5 or (len(images), *images.shape[2:]) != valid:
            raise ConfigError(
                f"images: an array of shape {tuple(images.shape)} given, valid is "
                f"({valid[0]}, batch, {valid[1]}, {valid[2]}, {valid[3]})"
            )
        if self._network is None or self._network.workspace.capacity < images.shape[1]:
            self._network = self.network(images.shape[1])
        return self._network


def one_hot(labels: np.ndarray, classes: int, smoothing: float = 0.0) -> np.ndarray:
    """Soft targets (..., classes) of whole-number labels: 1 - s at the label, plus s / classes everywhere."""
    return np.eye(classes)[labels] * (1 - smoothing) + smoothing / classes
