"""Export to ONNX: a file with the whole model, from the pixels of an image to class probabilities."""

import json
from typing import TYPE_CHECKING

import numpy as np

from ablations.errors import UsageError
from ablations.models.export.encoding import BlockEncoding, block_encodings, token_table
from ablations.models.trained import TrainedModel
from ablations.storage.model_facts import model_facts
from vit.backend.ops import LAYER_NORM_EPSILON

if TYPE_CHECKING:
    from ablations.models.export.graph import Graph

IMAGE, LOGITS, PROBABILITIES = "image", "logits", "probabilities"


def onnx_model(model: TrainedModel) -> bytes:
    """Return the content of an ONNX file.

    The input `image` is uint8 (N, channels, height, width), of the size of the training images; the outputs `logits`
    and `probabilities` are float32 (N, C). N is free. The metadata are the key and configuration of the run, the
    version of vitab, the names of the classes, and how pictures are resized.

    Raises UsageError if the package onnx is not installed, or for an encoding that cannot be expressed.
    """
    try:
        from ablations.models.export.graph import Graph, value
    except ImportError as error:
        raise UsageError("--format onnx needs the package onnx: pip install 'vitab[onnx]'") from error

    facts, c = model_facts(model.key, model.config, model.preprocessing), model.vit_config
    graph = Graph()
    _Writer(graph, model).write()
    metadata = {
        "key": facts["key"],
        "version": facts["version"],
        "config": json.dumps(facts["config"]),
        "class_names": json.dumps(facts["preprocessing"]["class_names"]),
        "resize": facts["preprocessing"]["resize"],
    }
    return graph.to_bytes(
        f"vitab {model.key[:16]}",
        [value(IMAGE, np.uint8, ["N", c.channels, c.image_size, c.image_size], "pixels from 0 to 255")],
        [
            value(LOGITS, np.float32, ["N", c.classes], "logits of the classes"),
            value(PROBABILITIES, np.float32, ["N", c.classes], "softmax of the logits"),
        ],
        version=facts["version"],
        metadata=metadata,
    )


class _Writer:
    """Writes a model to a graph.

    Shapes: B images, N patches, T tokens (the class token, if any, and the patches), D width, H heads, K head width,
    g patches along one side.
    """

    def __init__(self, graph: "Graph", model: TrainedModel) -> None:
        self.graph, self.add = graph, graph.add
        self.model, self.preprocessing = model.model, model.preprocessing
        self.config = model.vit_config

    def write(self) -> None:
        """Add all nodes, from the image to the probabilities."""
        tokens = self._tokens(self._normalised())
        for i, encoding in enumerate(block_encodings(self.model)):
            tokens = self._block(tokens, f"blocks.{i}", encoding)
        normal = self._layer_norm(tokens, "norm")
        if self.config.prefix:
            pooled = self.add("Gather", normal, np.array(0), axis=1)
        else:
            pooled = self.add("ReduceMean", normal, np.array([1]), keepdims=0)
        self.add("Softmax", self._linear(pooled, "head", result=LOGITS), axis=-1, name=PROBABILITIES)

    def _normalised(self) -> str:
        """Standardise the pixels as in the training: pixel / (255 std) - mean / std."""
        mean, std = (
            np.array(values, dtype=np.float32).reshape(1, -1, 1, 1)
            for values in (self.preprocessing.mean, self.preprocessing.std)
        )
        scaled = self.add("Mul", self.graph.cast(IMAGE, np.float32), 1 / (255 * std))
        return self.add("Sub", scaled, mean / std)

    def _tokens(self, images: str) -> str:
        """Embed the patches, add the table of the encoding, and put the class token first: (B, T, D)."""
        c = self.config
        weight, bias = self._parameter("patch_embed.proj.weight"), self._parameter("patch_embed.proj.bias")
        side = [c.patch_size, c.patch_size]
        patches = self._from_square(self.add("Conv", images, weight, bias, kernel_shape=side, strides=side))
        if (table := token_table(self.model)).any():
            patches = self.add("Add", patches, table)
        if not c.prefix:
            return patches
        shape = self.add("Concat", self.add("Shape", IMAGE, start=0, end=1), np.array([1, c.width]), axis=0)
        return self.add("Concat", self.add("Expand", self._parameter("cls_token"), shape), patches, axis=1)

    def _block(self, tokens: str, name: str, encoding: BlockEncoding) -> str:
        if encoding.convolution is not None:
            tokens = self._convolved(tokens, *encoding.convolution)
        attention = self._attention(self._layer_norm(tokens, f"{name}.norm1"), f"{name}.attn", encoding)
        tokens = self.add("Add", tokens, attention)
        hidden = self._linear(self._layer_norm(tokens, f"{name}.norm2"), f"{name}.mlp.fc1")
        return self.add("Add", tokens, self._linear(self.add("Gelu", hidden), f"{name}.mlp.fc2"))

    def _attention(self, tokens: str, name: str, encoding: BlockEncoding) -> str:
        c, graph = self.config, self.graph
        qkv = graph.reshape(self._linear(tokens, f"{name}.qkv"), 0, c.tokens, 3, c.heads, c.head_width)
        qkv = graph.transpose(qkv, 2, 0, 3, 1, 4)
        q, k, v = (self.add("Gather", qkv, np.array(i), axis=0) for i in range(3))  # (B, H, T, K)
        q, k = (self._turned(x, encoding) for x in (q, k))
        q = self.add("Mul", q, np.array(c.head_width**-0.5, dtype=np.float32))
        scores = self.add("MatMul", q, graph.transpose(k, 0, 1, 3, 2))
        if encoding.vectors is not None:
            scores = self.add("Add", scores, self._relative_scores(q, encoding.vectors))
        if encoding.bias is not None:
            scores = self.add("Add", scores, encoding.bias)
        mixed = graph.transpose(self.add("MatMul", self.add("Softmax", scores, axis=-1), v), 0, 2, 1, 3)
        return self._linear(graph.reshape(mixed, 0, c.tokens, c.width), f"{name}.proj")

    def _turned(self, x: str, encoding: BlockEncoding) -> str:
        """Rotate queries or keys (B, H, T, K), or multiply them by the matrices of the encoding."""
        c, graph = self.config, self.graph
        if encoding.rotation is not None:
            cos, sin = encoding.rotation
            cos = self._with_class_token(cos.repeat(2, axis=-1), 1.0)
            sin = self._with_class_token(np.stack([-sin, sin], axis=-1).reshape(cos.shape[0], c.patches, -1), 0.0)
            other = np.arange(c.head_width) ^ 1  # the other channel of each pair
            swapped = self.add("Gather", x, other, axis=-1)
            return self.add("Add", self.add("Mul", x, cos), self.add("Mul", swapped, sin))
        if encoding.matrices is not None:
            groups, size, _ = encoding.matrices.shape[-3:]
            matrices = self._with_class_token(encoding.matrices, np.eye(size))
            vectors = graph.reshape(x, 0, c.heads, c.tokens, groups, size, 1)
            return graph.reshape(self.add("MatMul", matrices, vectors), 0, c.heads, c.tokens, c.head_width)
        return x

    def _with_class_token(self, patches: np.ndarray, value: float | np.ndarray) -> np.ndarray:
        """Return an array (H or 1, T, ...), given that of the patches and the value for the class token."""
        shape = len(patches), self.config.prefix, *patches.shape[2:]
        return np.concatenate([np.broadcast_to(value, shape).astype(patches.dtype), patches], axis=1)

    def _relative_scores(self, q: str, vectors: np.ndarray) -> str:
        """Return the products (B, H, T, T) of scaled queries with vectors (2, 2 g - 1, K) by displacement."""
        c, graph, g = self.config, self.graph, self.config.grid
        by_pair = vectors[:, np.arange(g) - np.arange(g)[:, None] + g - 1]  # (2, g of the query, g of the key, K)
        columns, rows = by_pair.swapaxes(-1, -2)
        patches = graph.slice(q, 2, c.prefix, c.tokens)
        patches = graph.reshape(patches, 0, c.heads, g, g, 1, c.head_width)  # row and column of the query
        by_column = self.add("MatMul", patches, columns)  # (B, H, g, g, 1, column of the key)
        by_row = graph.reshape(self.add("MatMul", patches, rows[:, None]), 0, c.heads, g, g, g, 1)
        scores = graph.reshape(self.add("Add", by_row, by_column), 0, c.heads, c.patches, c.patches)
        return self.add("Pad", scores, np.array([0, 0, c.prefix, c.prefix, 0, 0, 0, 0]))

    def _convolved(self, tokens: str, weight: np.ndarray, bias: np.ndarray) -> str:
        """Add a depthwise convolution of the patches to them."""
        c, graph = self.config, self.graph
        patches = graph.slice(tokens, 1, c.prefix, c.tokens)
        square = graph.reshape(graph.transpose(patches, 0, 2, 1), 0, c.width, c.grid, c.grid)
        convolved = self.add(
            "Conv", square, weight, bias, group=c.width, kernel_shape=weight.shape[2:], pads=[1, 1, 1, 1]
        )
        patches = self.add("Add", patches, self._from_square(convolved))
        return self.add("Concat", graph.slice(tokens, 1, 0, 1), patches, axis=1) if c.prefix else patches

    def _from_square(self, square: str) -> str:
        """Change the patches of images (B, D, g, g) into tokens (B, N, D)."""
        return self.graph.transpose(self.graph.reshape(square, 0, self.config.width, self.config.patches), 0, 2, 1)

    def _layer_norm(self, x: str, name: str) -> str:
        weight, bias = self._parameter(f"{name}.weight"), self._parameter(f"{name}.bias")
        return self.add("LayerNormalization", x, weight, bias, axis=-1, epsilon=LAYER_NORM_EPSILON)

    def _linear(self, x: str, name: str, result: str | None = None) -> str:
        product = self.add("MatMul", x, self._parameter(f"{name}.weight", transposed=True))
        return self.add("Add", product, self._parameter(f"{name}.bias"), name=result)

    def _parameter(self, name: str, *, transposed: bool = False) -> str:
        """Return a learned parameter as a constant with its name."""
        array = np.asarray(self.model.parameters[name][0])
        return self.graph.constant(array.T if transposed else array, name)
