"""The layers of a Vision Transformer, each with its forward and backward pass.

Conventions:
- A layer does not modify its arguments, with two exceptions: a backward pass adds to the gradient of the residual
  stream, `dstream`, and dropout adds the bias of a branch in place.
- A layer writes to its own buffers, allocated once for the largest batch, and returns them. A result is valid until
  the layer runs again; a result in a scratch buffer, until a layer of the same role in any block runs.
- Gradients of parameters are overwritten, not accumulated.
- Arrays that matrix products read are operands, which a GPU may store in bf16. The residual stream and its gradient
  are not operands.
- The output bias of a residual branch is added by the operation that follows, which fuses it (see `Branch`).

Shapes: R runs, B images, T tokens (prefix + N patches), D width, H heads, K head width, F hidden width, C classes.
"""

from vit.backend import Array
from vit.config import ViTConfig
from vit.dropout import Branch, Dropout
from vit.parameters import Parameter, ones, truncated_normal, zeros
from vit.positions import BlockHook, TokenHook
from vit.workspace import AnyDraws, Workspace


class Linear:
    """Linear layer y = x W^T + b with weight W (R, O, I) and bias b (R, O)."""

    def __init__(self, workspace: Workspace, name: str) -> None:
        self.workspace, self.ops, self.name = workspace, workspace.ops, name
        runs = workspace.runs
        weight = workspace.weights[f"{name}.weight"]
        self.outputs = weight.shape[1]
        self.weight = weight.reshape(runs, self.outputs, -1)
        self.inputs = self.weight.shape[2]
        self.bias = workspace.parameters[f"{name}.bias"]
        self.dweight = workspace.gradients[f"{name}.weight"].reshape(runs, self.outputs, self.inputs)
        self.dbias = workspace.gradients[f"{name}.bias"]

    @staticmethod
    def declare(name: str, inputs: int, outputs: int, std: float = 0.02) -> list[Parameter]:
        return [
            Parameter(f"{name}.weight", (outputs, inputs), truncated_normal(std), decay=True),
            Parameter(f"{name}.bias", (outputs,), zeros),
        ]

    def forward(self, x: Array) -> Array:
        """Return y (R, B, T, O) for x (R, B, T, I)."""
        y = self.workspace.scratch(self.name, "y", x.shape[1], x.shape[2], self.outputs)
        return self.ops.add_bias(self.product(x, y), self.bias)

    def backward(self, dy: Array) -> Array:
        self.ops.sum_tokens(dy, out=self.dbias)
        return self.product_backward(dy)

    def product(self, x: Array, out: Array) -> Array:
        """Compute x W^T into `out`, without the bias."""
        self.x = x
        runs = len(x)
        self.ops.matmul(
            x.reshape(runs, -1, self.inputs),
            self.weight,
            trans_b=True,
            out=out.reshape(runs, -1, self.outputs),
        )
        return out

    def product_backward(self, dy: Array) -> Array:
        """Return the gradient of x and overwrite that of the weight, but not that of the bias."""
        self.weight_backward(dy)
        runs, batch, tokens, _ = dy.shape
        dx = self.workspace.scratch(self.name, "dx", batch, tokens, self.inputs)
        self.ops.matmul(dy.reshape(runs, -1, self.outputs), self.weight, out=dx.reshape(runs, -1, self.inputs))
        return dx

    def weight_backward(self, dy: Array) -> None:
        """Overwrite the gradient of the weight. Sufficient for a layer whose input needs no gradient."""
        runs = len(dy)
        self.ops.matmul(
            dy.reshape(runs, -1, self.outputs),
            self.x.reshape(runs, -1, self.inputs),
            trans_a=True,
            out=self.dweight,
        )


class LayerNorm:
    """Layer normalisation of the residual stream, fused with the addition of the preceding branch."""

    def __init__(self, workspace: Workspace, name: str) -> None:
        self.workspace, self.ops, self.name = workspace, workspace.ops, name
        self.weight = workspace.parameters[f"{name}.weight"]
        self.bias = workspace.parameters[f"{name}.bias"]
        self.dweight = workspace.gradients[f"{name}.weight"]
        self.dbias = workspace.gradients[f"{name}.bias"]

    @staticmethod
    def declare(name: str, width: int) -> list[Parameter]:
        return [Parameter(f"{name}.weight", (width,), ones), Parameter(f"{name}.bias", (width,), zeros)]

    def forward(self, x: Array, branch: Branch | None = None) -> tuple[Array, Array]:
        """Return the stream x + branch (R, B, T, D) and its layer normalisation."""
        _, batch, tokens, width = x.shape
        saved = self.workspace.saved
        self.branch = branch
        self.stream = x if branch is None else saved(self.name, "stream", batch, tokens, width)
        self.mean = saved(self.name, "mean", batch, tokens)
        self.rstd = saved(self.name, "rstd", batch, tokens)
        normal = saved(self.name, "normal", batch, tokens, width)
        self.ops.residual_layer_norm(
            x,
            branch and branch.value,
            branch and branch.bias,
            self.weight,
            self.bias,
            stream=self.stream,
            out=normal,
            mean=self.mean,
            rstd=self.rstd,
        )
        return self.stream, normal

    def backward(self, dnormal: Array, dstream: Array) -> Array:
        """Add the gradient through the norm to `dstream`, and return `dstream` as an operand.

        `dstream` then is the gradient of both x and the branch.
        """
        arrays = (dnormal, dstream, self.stream, self.weight, self.mean, self.rstd)
        sums = {"dweight": self.dweight, "dbias": self.dbias, "dbranch_bias": self.branch and self.branch.dbias}
        if not self.ops.rounds_operands:
            self.ops.residual_layer_norm_backward(*arrays, **sums)
            return dstream
        rounded = self.workspace.scratch("stream", "rounded", *dstream.shape[1:])
        self.ops.residual_layer_norm_backward_rounded(*arrays, **sums, rounded=rounded)
        return rounded


class Attention:
    """Multi-head self-attention (Vaswani et al. 2017) with any positional encoding."""

    def __init__(self, workspace: Workspace, name: str, config: ViTConfig, hook: BlockHook) -> None:
        self.workspace, self.ops, self.name = workspace, workspace.ops, name
        self.hook = hook
        self.heads, self.head_width = config.heads, config.head_width
        self.scale, self.prefix = config.head_width**-0.5, config.prefix
        self.qkv = Linear(workspace, f"{name}.qkv")
        self.proj = Linear(workspace, f"{name}.proj")
        self.fused = hook.fusible and self.ops.fuses_attention(config.tokens, config.head_width)

    @staticmethod
    def declare(name: str, config: ViTConfig) -> list[Parameter]:
        return Linear.declare(f"{name}.qkv", config.width, 3 * config.width, config.init_std) + Linear.declare(
            f"{name}.proj", config.width, config.width, config.init_std
        )

    def forward(self, x: Array) -> Branch:
        """Return the attention branch, of the shape of x (R, B, T, D)."""
        _, batch, tokens, width = x.shape
        ws = self.workspace
        projected = self.qkv.product(x, ws.saved(self.name, "qkv", batch, tokens, 3 * width))
        self.projected = projected = projected.reshape(*x.shape[:3], 3, self.heads, self.head_width)
        mixed = ws.saved(self.name, "mixed", batch, tokens, width)
        if self.fused:
            self.mixed = mixed
            self.logsumexp = ws.saved(self.name, "logsumexp", batch, self.heads, tokens)
            self.ops.attention(
                projected, self.qkv.bias, self.scale, *self._encoding, out=mixed, logsumexp=self.logsumexp
            )
        else:
            self.hook.queries_keys(projected, self.qkv.bias, self.scale)
            self.q, self.k, self.v = (projected[:, :, :, i].swapaxes(2, 3) for i in range(3))
            scores = ws.saved(self.name, "probabilities", batch, self.heads, tokens, tokens)
            self.ops.matmul(self.q, self.k, trans_b=True, out=scores)
            self.hook.scores(scores, projected)
            self.probabilities = self.ops.softmax(scores)
            self.ops.matmul(self.probabilities, self.v, out=self._by_head(mixed))
        value = self.proj.product(mixed, ws.scratch(self.name, "branch", batch, tokens, width))
        return Branch(value, self.proj.bias, self.proj.dbias)

    def backward(self, dbranch: Array) -> Array:
        _, batch, tokens, width = dbranch.shape
        ws = self.workspace
        dmixed = self.proj.product_backward(dbranch)
        dprojected = ws.scratch(self.name, "dqkv", batch, tokens, 3, self.heads, self.head_width)
        if self.fused:
            score_bias, rotation = self.hook.score_bias, self.hook.rotation
            self.ops.attention_backward(
                dmixed,
                self.projected,
                self.qkv.bias,
                self.scale,
                *self._encoding,
                self.mixed,
                self.logsumexp,
                dqkv=dprojected,
                dbias=self.qkv.dbias,
                dscore_bias=score_bias and score_bias.dbias,
            )
            if rotation is not None and rotation.dangles is not None:
                arrays = (self.projected, self.qkv.bias, dprojected)
                self.ops.rotation_gradient(*arrays, self.prefix, out=rotation.dangles)
        else:
            self._backward_by_products(self._by_head(dmixed), dprojected)
            self.hook.queries_keys_backward(self.projected, dprojected, self.scale, dbias=self.qkv.dbias)
        return self.qkv.product_backward(dprojected.reshape(*dbranch.shape[:3], 3 * width))

    def _backward_by_products(self, dmixed: Array, dprojected: Array) -> None:
        """Overwrite `dprojected` (R, B, T, 3, H, K), given dmixed, a view (R, B, H, T, K)."""
        _, batch, _, tokens, _ = dmixed.shape
        ws, matmul = self.workspace, self.ops.matmul
        dq, dk, dv = (dprojected[:, :, :, i].swapaxes(2, 3) for i in range(3))
        dscores = ws.scratch(self.name, "dscores", batch, self.heads, tokens, tokens)
        matmul(dmixed, self.v, trans_b=True, out=dscores)
        matmul(self.probabilities, dmixed, trans_a=True, out=dv)
        self.ops.softmax_backward(dscores, self.probabilities)
        matmul(dscores, self.k, out=dq)
        matmul(dscores, self.q, trans_a=True, out=dk)
        self.hook.scores_backward(dscores, self.projected, dprojected)

    @property
    def _encoding(self) -> tuple[Array | None, Array | None, int, Array | None]:
        """Cosines, sines, number of tokens that are not rotated, and bias of the scores, for fused attention."""
        rotation, score_bias = self.hook.rotation, self.hook.score_bias
        cos, sin = (rotation.cos, rotation.sin) if rotation else (None, None)
        return cos, sin, self.prefix, score_bias and score_bias.bias

    def _by_head(self, x: Array) -> Array:
        """Return a view (R, B, H, T, K) of x (R, B, T, D)."""
        return x.reshape(*x.shape[:3], self.heads, self.head_width).swapaxes(2, 3)


class Mlp:
    """Two linear layers with an exact GELU and dropout between them."""

    def __init__(self, workspace: Workspace, name: str, dropout: float = 0.0) -> None:
        self.workspace, self.ops, self.name = workspace, workspace.ops, name
        self.fc1 = Linear(workspace, f"{name}.fc1")
        self.drop = Dropout(workspace, f"{name}.drop", dropout)
        self.fc2 = Linear(workspace, f"{name}.fc2")

    @staticmethod
    def declare(name: str, config: ViTConfig) -> list[Parameter]:
        return Linear.declare(f"{name}.fc1", config.width, config.hidden, config.init_std) + Linear.declare(
            f"{name}.fc2", config.hidden, config.width, config.init_std
        )

    def forward(self, x: Array, draws: AnyDraws = None) -> Branch:
        """Return the MLP branch, of the shape of x (R, B, T, D)."""
        _, batch, tokens, width = x.shape
        ws, hidden = self.workspace, self.fc1.outputs
        self.derivative = self.fc1.product(x, ws.saved(self.name, "derivative", batch, tokens, hidden))
        activation = ws.saved(self.name, "activation", batch, tokens, hidden) if ws.training else self.derivative
        self.ops.bias_gelu(self.derivative, self.fc1.bias, out=activation, derivative=ws.training)
        activation = self.drop.forward(activation, draws)
        value = self.fc2.product(activation, ws.scratch(self.name, "branch", batch, tokens, width))
        return Branch(value, self.fc2.bias, self.fc2.dbias)

    def backward(self, dbranch: Array) -> Array:
        dactivation = self.drop.backward(self.fc2.product_backward(dbranch))
        return self.fc1.product_backward(
            self.ops.bias_gelu_backward(dactivation, self.derivative, dbias=self.fc1.dbias)
        )


class Block:
    """Pre-norm block: attention and MLP, each a residual branch that the following norm adds to the stream."""

    def __init__(
        self, workspace: Workspace, name: str, config: ViTConfig, hook: BlockHook, drop_path: float = 0.0
    ) -> None:
        self.hook = hook
        self.norm1 = LayerNorm(workspace, f"{name}.norm1")
        self.attn = Attention(workspace, f"{name}.attn", config, hook)
        self.drop1 = Dropout(workspace, f"{name}.drop1", config.dropout, drop_path)
        self.norm2 = LayerNorm(workspace, f"{name}.norm2")
        self.mlp = Mlp(workspace, f"{name}.mlp", config.dropout)
        self.drop2 = Dropout(workspace, f"{name}.drop2", config.dropout, drop_path)

    @staticmethod
    def declare(name: str, config: ViTConfig) -> list[Parameter]:
        return (
            LayerNorm.declare(f"{name}.norm1", config.width)
            + Attention.declare(f"{name}.attn", config)
            + LayerNorm.declare(f"{name}.norm2", config.width)
            + Mlp.declare(f"{name}.mlp", config)
        )

    def forward(self, stream: Array, branch: Branch | None, draws: AnyDraws = None) -> tuple[Array, Branch]:
        """Return the stream (R, B, T, D) after the attention branch, and the MLP branch to be added to it.

        `branch` is the branch of the preceding block, not yet added to `stream`.
        """
        stream, normal = self.norm1.forward(*self.hook.block_input(stream, branch))
        branch = self.drop1.forward_branch(self.attn.forward(normal), draws)
        stream, normal = self.norm2.forward(stream, branch)
        return stream, self.drop2.forward_branch(self.mlp.forward(normal, draws), draws)

    def backward(self, dstream: Array, operand: Array) -> Array:
        """Replace `dstream`, the gradient of the block's output, by that of its input.

        `operand` is `dstream` in the type of operands. Returns the new `dstream` in that type.
        """
        dbranch = self.drop2.backward_branch(operand, self.mlp.fc2.dbias)
        operand = self.norm2.backward(self.mlp.backward(dbranch), dstream)
        dbranch = self.drop1.backward_branch(operand, self.attn.proj.dbias)
        operand = self.norm1.backward(self.attn.backward(dbranch), dstream)
        return self.hook.block_input_backward(dstream, operand)


class PatchEmbed:
    """Patch embedding: a linear layer on flattened patches, the positional encoding, and the class token, if any."""

    def __init__(self, workspace: Workspace, config: ViTConfig, hook: TokenHook) -> None:
        self.workspace, self.ops, self.config, self.hook = workspace, workspace.ops, config, hook
        self.proj = Linear(workspace, "patch_embed.proj")
        self.drop = Dropout(workspace, "pos_drop", config.dropout, buffer="tokens")

    @staticmethod
    def declare(config: ViTConfig) -> list[Parameter]:
        weight, bias = Linear.declare("patch_embed.proj", config.patch_width, config.width, config.init_std)
        patch = (config.channels, config.patch_size, config.patch_size)
        declared = [Parameter(weight.name, (config.width, *patch), weight.initial, decay=True), bias]
        return declared + [Parameter("cls_token", (1, 1, config.width), weight.initial)] * config.prefix

    def inputs(self, batch: int) -> Array:
        """Return the buffer of patches (R, B, N, channels p p) that `forward` reads."""
        c = self.config
        self.patches = self.workspace.saved("patch_embed", "patches", batch, c.patches, c.patch_width)
        return self.patches

    def forward(self, draws: AnyDraws = None) -> Array:
        """Return the tokens (R, B, T, D) of the patches in the buffer."""
        c, batch, ws = self.config, self.patches.shape[1], self.workspace
        tokens = ws.saved("patch_embed", "tokens", batch, c.tokens, c.width)
        embedded = tokens
        if c.prefix:
            embedded = ws.scratch("patch_embed", "embedded", batch, c.patches, c.width)
        self.ops.add_bias(self.proj.product(self.patches, embedded), self.proj.bias)
        self.hook.forward(embedded)
        if c.prefix:
            self.ops.copy_tokens(ws.parameters["cls_token"], out=tokens[:, :, : c.prefix])
            self.ops.copy_tokens(embedded, out=tokens[:, :, c.prefix :])
        return self.drop.forward(tokens, draws)

    def backward(self, dtokens: Array) -> None:
        """Overwrite the gradients of the parameters, given the operand dtokens (R, B, T, D)."""
        c, ws, batch = self.config, self.workspace, dtokens.shape[1]
        dtokens = self.drop.backward(dtokens)
        dembedded = dtokens
        if c.prefix:
            dprefix = ws.scratch("patch_embed", "dprefix", batch, c.prefix, c.width)
            self.ops.copy_tokens(dtokens[:, :, : c.prefix], out=dprefix)
            self.ops.sum_images(dprefix, out=ws.gradients["cls_token"][:, 0])
            dembedded = ws.scratch("patch_embed", "dembedded", batch, c.patches, c.width)
            self.ops.copy_tokens(dtokens[:, :, c.prefix :], out=dembedded)
        self.hook.backward(dembedded)
        self.ops.sum_tokens(dembedded, out=self.proj.dbias)
        self.proj.weight_backward(dembedded)


class Head:
    """Final norm, pooling (mean over the patches, or the class token) and a linear classifier."""

    def __init__(self, workspace: Workspace, config: ViTConfig) -> None:
        self.workspace, self.ops, self.config = workspace, workspace.ops, config
        self.norm = LayerNorm(workspace, "norm")
        self.linear = Linear(workspace, "head")

    @staticmethod
    def declare(config: ViTConfig) -> list[Parameter]:
        return LayerNorm.declare("norm", config.width) + Linear.declare(
            "head", config.width, config.classes, config.init_std
        )

    def forward(self, stream: Array, branch: Branch | None) -> Array:
        """Return the logits (R, B, C) of the stream (R, B, T, D) and the branch to be added to it."""
        _, batch, _, width = stream.shape
        _, normal = self.norm.forward(stream, branch)
        pooled = self.workspace.saved("head", "pooled", batch, 1, width)
        if self.config.pool == "mean":
            self.ops.mean_tokens(normal, out=pooled[:, :, 0])
        else:
            self.ops.copy_tokens(normal[:, :, :1], out=pooled)
        return self.linear.forward(pooled)[:, :, 0]

    def backward(self, dlogits: Array, dstream: Array) -> Array:
        """Overwrite `dstream` (R, B, T, D), given dlogits (R, B, C), and return it as an operand."""
        dpooled = self.linear.backward(dlogits[:, :, None])
        dnormal = self.workspace.scratch("head", "dnormal", *dstream.shape[1:])
        if self.config.pool == "mean":
            self.ops.mean_tokens_backward(dpooled[:, :, 0], out=dnormal)
        else:
            self.ops.fill(dnormal, 0)
            self.ops.copy_tokens(dpooled, out=dnormal[:, :, :1])
        self.ops.fill(dstream, 0)
        return self.norm.backward(dnormal, dstream)
