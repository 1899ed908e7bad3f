"""Model and training step of vitab in PyTorch, written for speed with the standard operations of PyTorch."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from vit import ViT, ViTConfig, cost, get_ops
from vit.positions import encoding
from vit.positions.base import patch_coordinates


class Rotary(nn.Module):
    """Rotation of pairs (2j, 2j+1) of queries and keys (B, H, N, K) by fixed angles (N, K/2)."""

    def __init__(self, angles: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("cos", angles.cos().repeat_interleave(2, -1).float(), persistent=False)
        self.register_buffer("sin", angles.sin().repeat_interleave(2, -1).float(), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return rotate(x, self.cos, self.sin)


class MixedRotary(nn.Module):
    """Rotation by learned frequencies (2, H, K/2)."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.frequencies = nn.Parameter(torch.randn(2, config.heads, config.head_width // 2))
        self.register_buffer("xy", coordinates(config), persistent=False)

    def tables(self) -> tuple[torch.Tensor, torch.Tensor]:
        angles = torch.einsum("nc,chk->hnk", self.xy, self.frequencies)
        return angles.cos().repeat_interleave(2, -1), angles.sin().repeat_interleave(2, -1)


class LieRotary(nn.Module):
    """Rotation of groups of channels by exp(x A + y B)."""

    def __init__(self, config: ViTConfig, block: int) -> None:
        super().__init__()
        shape = 2, config.heads, config.head_width // block, block, block
        self.generators = nn.Parameter(2 * torch.pi * torch.rand(shape))
        self.register_buffer("xy", coordinates(config) / max(config.grid - 1, 1), persistent=False)

    def matrices(self) -> torch.Tensor:
        triangle = self.generators.triu(1)
        skew = torch.einsum("nc,chgij->hngij", self.xy, triangle - triangle.mT)
        return torch.linalg.matrix_exp(skew.contiguous())


class RelativeBias(nn.Module):
    """Bias of the scores (1, H, N, N) from a table over displacements, or from a network of them."""

    def __init__(self, config: ViTConfig, hidden: int | None = None) -> None:
        super().__init__()
        span = 2 * config.grid - 1
        xy = coordinates(config).long()
        dx, dy = (xy[:, None, i] - xy[None, :, i] + config.grid - 1 for i in (0, 1))
        self.register_buffer("index", (dy * span + dx).flatten(), persistent=False)
        self.shape = config.patches, config.patches, config.heads
        self.table = self.network = None
        if hidden is None:
            self.table = nn.Parameter(0.02 * torch.randn(span**2, config.heads))
            return
        steps = torch.linspace(-8, 8, span)
        steps = steps.sign() * torch.log2(1 + steps.abs()) / 3
        self.register_buffer("displacements", torch.cartesian_prod(steps, steps), persistent=False)
        self.network = nn.Sequential(
            nn.Linear(2, hidden), nn.ReLU(), nn.Linear(hidden, config.heads, bias=False), nn.Sigmoid()
        )

    def forward(self) -> torch.Tensor:
        table = self.table if self.network is None else 16 * self.network(self.displacements)
        return table[self.index].view(self.shape).permute(2, 0, 1)[None]


class RelativeKeys(nn.Module):
    """Products of queries (B, H, N, K) with learned vectors by column and row displacement, (B, H, N, N)."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.vectors = nn.Parameter(0.02 * torch.randn(2, 2 * config.grid - 1, config.head_width))
        xy = coordinates(config).long()
        self.register_buffer("index", (xy[None] - xy[:, None] + config.grid - 1).permute(2, 0, 1), persistent=False)

    def forward(self, q: torch.Tensor) -> torch.Tensor:
        shape = *q.shape[:3], q.shape[2]
        by_column, by_row = (
            torch.gather(q @ vectors.T, 3, index.expand(shape))
            for vectors, index in zip(self.vectors, self.index, strict=True)
        )
        return (by_column + by_row) * q.shape[-1] ** -0.5


class Convolution(nn.Module):
    """x + depthwise 3 x 3 convolution of x, (B, N, D)."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.grid = config.grid
        self.conv = nn.Conv2d(config.width, config.width, 3, padding=1, groups=config.width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        square = x.mT.unflatten(2, (self.grid, self.grid))
        return x + self.conv(square).flatten(2).mT


def coordinates(config: ViTConfig) -> torch.Tensor:
    """Return the column and the row of each patch, (N, 2)."""
    return torch.from_numpy(np.stack(patch_coordinates(config.grid), axis=1)).float()


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    turned = torch.stack((-x[..., 1::2], x[..., 0::2]), dim=-1).flatten(-2)
    return x * cos + turned * sin


class Attention(nn.Module):
    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.proj = nn.Linear(config.width, config.width)
        self.rotary, self.bias, self.keys = attention_parts(config)

    def rotate(self, q: torch.Tensor, k: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if isinstance(self.rotary, Rotary):
            return self.rotary(q), self.rotary(k)
        if isinstance(self.rotary, MixedRotary):
            cos, sin = self.rotary.tables()
            return rotate(q, cos, sin), rotate(k, cos, sin)
        if isinstance(self.rotary, LieRotary):
            matrices = self.rotary.matrices()
            groups = matrices.shape[2:4]
            q, k = (torch.einsum("hngij,bhngj->bhngi", matrices, x.unflatten(-1, groups)).flatten(-2) for x in (q, k))
        return q, k

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, tokens, width = x.shape
        q, k, v = self.qkv(x).view(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k = self.rotate(q, k)
        mask = self.keys(q) if self.keys is not None else None
        if self.bias is not None:
            mask = self.bias() if isinstance(self.bias, nn.Module) else self.bias
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.proj(mixed.transpose(1, 2).reshape(batch, tokens, width))


def attention_parts(config: ViTConfig) -> tuple[nn.Module | None, Any, nn.Module | None]:
    """Return what rotates queries and keys, the bias of the scores, and the products with the queries."""
    rotary: nn.Module | None = None
    bias: Any = None
    keys: nn.Module | None = None
    for part in encoding(config.position).parts:
        if part.name in ("rope", "rope-dinov3"):
            workspace = ViT(config, get_ops(dtype="float64"), [0]).network(1).workspace
            rotation = part.block_hooks(config, workspace)[0].rotation
            rotary = Rotary(torch.atan2(*(torch.from_numpy(x[0, 0]) for x in (rotation.sin, rotation.cos))))
        elif part.name == "rope-mixed":
            rotary = MixedRotary(config)
        elif part.name == "lie-rope":
            rotary = LieRotary(config, part.block)
        elif part.name in ("relative-bias", "relative-bias-mlp"):
            bias = RelativeBias(config, getattr(part, "hidden", None))
        elif part.name == "alibi-2d":
            workspace = ViT(config, get_ops(), [0]).network(1).workspace
            bias = torch.from_numpy(part.block_hooks(config, workspace)[0].score_bias.bias)
        elif part.name == "relative-keys":
            keys = RelativeKeys(config)
    return rotary, bias, keys


class Block(nn.Module):
    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=1e-6)
        self.attn = Attention(config)
        self.norm2 = nn.LayerNorm(config.width, eps=1e-6)
        self.fc1 = nn.Linear(config.width, config.hidden)
        self.fc2 = nn.Linear(config.hidden, config.width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class Model(nn.Module):
    """ViT with mean pooling: images (B, channels, h, w) to logits (B, C)."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(config.channels, config.width, config.patch_size, config.patch_size)
        self.tables = nn.ParameterList()
        self.fixed_table: torch.Tensor | None = None
        blocks: list[nn.Module] = [Block(config) for _ in range(config.depth)]
        for part in encoding(config.position).parts:
            if part.name == "learned":
                self.tables.append(torch.zeros(1, config.patches, config.width))
            elif part.name == "learned-axial":
                self.tables.append(torch.zeros(config.grid, 1, config.width))
                self.tables.append(torch.zeros(config.grid, config.width))
            elif part.name in ("sinusoidal", "sinusoidal-1d"):
                self.fixed_table = torch.from_numpy(part.fixed_state(config)["pos_embed"])
            elif part.name == "cpe" and part.where == "each":
                blocks = [layer for block in blocks for layer in (Convolution(config), block)]
            elif part.name == "cpe":
                blocks.insert(1, Convolution(config))
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(config.width, eps=1e-6)
        self.head = nn.Linear(config.width, config.classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.proj(images).flatten(2).transpose(1, 2)
        if len(self.tables) == 2:
            x = x + (self.tables[0] + self.tables[1]).flatten(0, 1)
        elif len(self.tables) == 1:
            x = x + self.tables[0]
        if self.fixed_table is not None:
            x = x + self.fixed_table
        return self.head(self.norm(self.blocks(x)).mean(1))


class TorchStepper:
    """Full training steps: forward pass, backward pass, clipping to norm 1, fused AdamW."""

    def __init__(
        self, config: ViTConfig, images: np.ndarray, targets: np.ndarray, *, compiled: bool, device: str = "cpu"
    ) -> None:
        """Create the model and move the batch to the device: `images` (B, h, w, channels), soft `targets` (B, C)."""
        torch.manual_seed(0)
        model = Model(config).to(device)
        self.parameters = list(model.parameters())
        if sum(p.numel() for p in self.parameters) != cost.parameters(config):
            raise NotImplementedError(f"there is no PyTorch peer of position {config.position!r}")
        linear = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)}
        decayed = [p for p in self.parameters if id(p) in linear]
        others = [p for p in self.parameters if id(p) not in linear]
        groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=1e-4, fused=True)
        self.model: Any = torch.compile(model) if compiled else model
        self.images = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).to(device)
        self.targets = torch.from_numpy(targets).to(device)

    def step(self) -> float:
        loss = F.cross_entropy(self.model(self.images), self.targets)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        return float(loss.detach())
