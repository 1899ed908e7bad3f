"""Model and training step of vitab in PyTorch, written for speed with the standard operations of PyTorch."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from vit import ViTConfig
from vit.positions.rope import rotary_angles


class Attention(nn.Module):
    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.heads, self.position = config.heads, config.position
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.proj = nn.Linear(config.width, config.width)
        angles = torch.from_numpy(rotary_angles(config.grid, config.head_width)).float()
        self.register_buffer("cos", angles.cos().repeat_interleave(2, -1), persistent=False)
        self.register_buffer("sin", angles.sin().repeat_interleave(2, -1), persistent=False)

    def rotate(self, x: torch.Tensor) -> torch.Tensor:
        turned = torch.stack((-x[..., 1::2], x[..., 0::2]), dim=-1).flatten(-2)
        return x * self.cos + turned * self.sin

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, tokens, width = x.shape
        q, k, v = self.qkv(x).view(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        if self.position == "rope":
            q, k = self.rotate(q), self.rotate(k)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.proj(mixed.transpose(1, 2).reshape(batch, tokens, width))


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
        table = torch.zeros(1, config.patches, config.width)
        self.pos_embed = nn.Parameter(table) if config.position == "learned" else None
        self.blocks = nn.Sequential(*(Block(config) for _ in range(config.depth)))
        self.norm = nn.LayerNorm(config.width, eps=1e-6)
        self.head = nn.Linear(config.width, config.classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.proj(images).flatten(2).transpose(1, 2)
        if self.pos_embed is not None:
            x = x + self.pos_embed
        return self.head(self.norm(self.blocks(x)).mean(1))


class TorchStepper:
    """Full training steps: forward pass, backward pass, clipping to norm 1, fused AdamW."""

    def __init__(
        self, config: ViTConfig, images: np.ndarray, targets: np.ndarray, *, compiled: bool, device: str = "cpu"
    ) -> None:
        """Create the model and move the batch to the device: `images` (B, h, w, channels), soft `targets` (B, C)."""
        torch.manual_seed(0)
        self.parameters: list[nn.Parameter]
        model = Model(config).to(device)
        self.parameters = list(model.parameters())
        decayed = [p for p in self.parameters if p.ndim > 1 and p is not model.pos_embed]
        others = [p for p in self.parameters if p.ndim == 1 or p is model.pos_embed]
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
