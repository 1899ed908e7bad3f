"""Vision Transformers with positional encodings, in PyTorch: the references of ``make_encodings.py``.

Written from the formulas of the papers, without code of ``vit`` or of timm. Names of parameters are timm's.

Shapes: B images, N = g g patches in row-major order, T tokens (the class token, if any, and the patches), D width, H
heads, K = D/H. A patch is in column x and row y of the grid.
"""

import math
import re
from collections.abc import Callable

import torch
from make_golden import Mlp, PatchEmbed, sinusoidal_table
from torch import nn
from torch.nn import functional


class Encoding:
    """Base class: adds its parameters to a model. Without overrides, it encodes nothing."""

    def __init__(self, model: "ViT", case: dict, **options: str) -> None:
        self.model, self.options = model, options
        self.width, self.heads, self.depth = case["width"], case["heads"], case["depth"]
        self.channels = self.width // self.heads
        self.side = case["image_size"] // case["patch_size"]
        self.prefix = int(case["pool"] == "cls")
        patches = torch.arange(self.side**2)
        self.x, self.y = patches % self.side, patches // self.side
        self.declare(model)

    def declare(self, model: "ViT") -> None:
        pass

    def table(self) -> torch.Tensor | float:
        """What is added to the patch tokens, (N, D)."""
        return 0.0

    def between(self, patches: torch.Tensor, before: int) -> torch.Tensor:
        """Change the patch tokens (B, N, D) before a block."""
        return patches

    def turn(self, patches: torch.Tensor, block: int) -> torch.Tensor:
        """Change the queries or keys of patches, (B, H, N, K)."""
        return patches

    def bias(self, queries: torch.Tensor, block: int) -> torch.Tensor | float:
        """What is added to the scores (B, H, T, T). The queries (B, H, T, K) have their bias and are scaled."""
        return 0.0

    def displacements(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Column and row of the key less those of the query, each (N, N)."""
        return self.x[None] - self.x[:, None], self.y[None] - self.y[:, None]

    def pad(self, bias: torch.Tensor) -> torch.Tensor:
        """A bias of patches (..., N, N) with zeros for the class token."""
        return functional.pad(bias, (self.prefix, 0, self.prefix, 0))


def parameters(**shapes: tuple[int, ...]) -> nn.ParameterDict:
    return nn.ParameterDict({name: nn.Parameter(torch.zeros(shape)) for name, shape in shapes.items()})


class Learned(Encoding):
    def declare(self, model: "ViT") -> None:
        model.pos_embed = nn.Parameter(torch.zeros(1, self.side**2, self.width))

    def table(self) -> torch.Tensor:
        return self.model.pos_embed[0]


class LearnedAxial(Encoding):
    def declare(self, model: "ViT") -> None:
        model.pos_embed_rows = nn.Parameter(torch.zeros(1, self.side, self.width))
        model.pos_embed_columns = nn.Parameter(torch.zeros(1, self.side, self.width))

    def table(self) -> torch.Tensor:
        return self.model.pos_embed_rows[0, self.y] + self.model.pos_embed_columns[0, self.x]


class Sinusoidal(Encoding):
    def table(self) -> torch.Tensor:
        return sinusoidal_table(self.side, self.width)


class Sinusoidal1d(Encoding):
    def table(self) -> torch.Tensor:
        table = torch.zeros(self.side**2, self.width, dtype=torch.float64)
        for patch in range(self.side**2):
            for i in range(self.width // 2):
                angle = patch / 10000.0 ** (2 * i / self.width)
                table[patch, 2 * i], table[patch, 2 * i + 1] = math.sin(angle), math.cos(angle)
        return table


class Rotary(Encoding):
    """Rotation of pairs of channels as complex numbers."""

    def angles(self, block: int) -> torch.Tensor:
        """(N, K/2) or (H, N, K/2)."""
        raise NotImplementedError

    def pairs(self) -> torch.Tensor:
        """The two channels of each pair, (K/2, 2)."""
        return torch.arange(self.channels).reshape(-1, 2)

    def turn(self, patches: torch.Tensor, block: int) -> torch.Tensor:
        angles, pairs = self.angles(block), self.pairs()
        numbers = torch.view_as_complex(patches[..., pairs].contiguous())
        turned = torch.view_as_real(numbers * torch.polar(torch.ones_like(angles), angles))
        return turned.flatten(-2)[..., pairs.flatten().argsort()]


class Rope(Rotary):
    def angles(self, block: int) -> torch.Tensor:
        base = float(self.options.get("base", 100))
        shift = (self.side - 1) / 2 if self.options.get("coordinates") == "centred" else 0.0
        frequencies = base ** (-4 * torch.arange(self.channels // 4).double() / self.channels)
        return torch.cat([torch.outer(at - shift, frequencies) for at in (self.x.double(), self.y.double())], dim=1)


class RopeMixed(Rotary):
    def declare(self, model: "ViT") -> None:
        model.rope = parameters(freqs=(2, self.depth, self.heads, self.channels // 2))

    def angles(self, block: int) -> torch.Tensor:
        by_x, by_y = self.model.rope["freqs"][:, block]
        return self.x[:, None] * by_x[:, None] + self.y[:, None] * by_y[:, None]


class RopeDinov3(Rotary):
    def angles(self, block: int) -> torch.Tensor:
        y, x = (2 * (at.double() + 0.5) / self.side - 1 for at in (self.y, self.x))
        periods = 100.0 ** (4 * torch.arange(self.channels // 4).double() / self.channels)
        return 2 * math.pi * torch.cat([y[:, None] / periods, x[:, None] / periods], dim=1)

    def pairs(self) -> torch.Tensor:
        if self.options.get("pairs") == "half":
            return torch.arange(self.channels).reshape(2, -1).T
        return super().pairs()


class LieRope(Encoding):
    def declare(self, model: "ViT") -> None:
        self.size = int(self.options.get("block", 8))
        layers = 1 if self.options.get("layers") == "shared" else self.depth
        heads = 1 if self.options.get("heads") == "shared" else self.heads
        model.lie_rope = parameters(generators=(2, layers, heads, self.channels // self.size, self.size, self.size))

    def turn(self, patches: torch.Tensor, block: int) -> torch.Tensor:
        raw = self.model.lie_rope["generators"]
        raw = raw[:, block if raw.shape[1] > 1 else 0].triu(1)
        by_x, by_y = raw - raw.transpose(-1, -2)
        x, y = (at.double()[:, None, None, None, None] / (self.side - 1) for at in (self.x, self.y))
        rotations = torch.linalg.matrix_exp(x * by_x + y * by_y).transpose(0, 1)
        groups = patches.unflatten(-1, (-1, self.size, 1))
        return (rotations @ groups).flatten(-3)


class Relative(Encoding):
    """Modules for relative positions with timm's names, one per block or one for all."""

    def attach(self, model: "ViT", make: Callable[[], nn.Module]) -> None:
        if self.options.get("shared") == "true":
            model.shared_rel_pos = make()
            self.modules = [model.shared_rel_pos] * self.depth
        else:
            self.modules = [make() for _ in model.blocks]
            for block, module in zip(model.blocks, self.modules, strict=True):
                block.attn.rel_pos = module

    def rows(self) -> torch.Tensor:
        """The row of a table of (2g-1)^2 displacements, from key to query, for each pair of patches, (N, N)."""
        dx, dy = self.displacements()
        return (self.side - 1 - dy) * (2 * self.side - 1) + self.side - 1 - dx


class RelativeBias(Relative):
    def declare(self, model: "ViT") -> None:
        size = (2 * self.side - 1) ** 2 + 3 * self.prefix
        self.attach(model, lambda: parameters(relative_position_bias_table=(size, self.heads)))

    def bias(self, queries: torch.Tensor, block: int) -> torch.Tensor:
        table = self.modules[block]["relative_position_bias_table"].T
        bias = self.pad(table[:, self.rows()])
        if self.prefix:
            bias[:, 0, 1:], bias[:, 1:, 0], bias[:, 0, 0] = table[:, -3, None], table[:, -2, None], table[:, -1]
        return bias


class RelativeBiasMlp(Relative):
    def declare(self, model: "ViT") -> None:
        hidden, self.swin = int(self.options.get("hidden", 512)), self.options.get("mode", "swin") == "swin"

        def make() -> nn.ModuleDict:
            layers = {"fc1": nn.Linear(2, hidden), "fc2": nn.Linear(hidden, self.heads, bias=not self.swin)}
            return nn.ModuleDict({"mlp": nn.ModuleDict(layers)})

        self.attach(model, make)

    def bias(self, queries: torch.Tensor, block: int) -> torch.Tensor:
        dx, dy = self.displacements()
        inputs = -torch.stack([dy, dx], dim=-1).double()
        if self.swin:
            inputs = 8 * inputs / (self.side - 1)
            inputs = inputs.sign() * torch.log2(1 + inputs.abs()) / 3
        else:
            inputs = inputs.sign() * torch.log1p(inputs.abs())
        layers = self.modules[block]["mlp"]
        outputs = layers["fc2"](functional.relu(layers["fc1"](inputs))).permute(2, 0, 1)
        return self.pad(16 * torch.sigmoid(outputs) if self.swin else outputs)


class RelativeKeys(Encoding):
    def declare(self, model: "ViT") -> None:
        for block in model.blocks:
            block.attn.rel_pos = nn.Parameter(torch.zeros(2, 2 * self.side - 1, self.channels))

    def bias(self, queries: torch.Tensor, block: int) -> torch.Tensor:
        by_column, by_row = self.model.blocks[block].attn.rel_pos
        dx, dy = self.displacements()
        keys = by_column[dx + self.side - 1] + by_row[dy + self.side - 1]
        return self.pad(torch.einsum("bhqk,qpk->bhqp", queries[:, :, self.prefix :], keys))


class Alibi(Encoding):
    def distances(self, dx: torch.Tensor, dy: torch.Tensor) -> torch.Tensor:
        return dx.abs() + dy.abs() if self.options.get("distance") == "manhattan" else (dx**2 + dy**2).double().sqrt()

    def slopes(self) -> torch.Tensor:
        return 2.0 ** (-8 * torch.arange(1, self.heads + 1).double() / self.heads)

    def bias(self, queries: torch.Tensor, block: int) -> torch.Tensor:
        return self.pad(-self.slopes()[:, None, None] * self.distances(*self.displacements()))


class Cpe(Encoding):
    def declare(self, model: "ViT") -> None:
        self.each = self.options.get("where") == "each"
        model.pos_block = nn.ModuleList()
        for _ in range(self.depth if self.each else 1):
            convolution = nn.Conv2d(self.width, self.width, 3, padding=1, groups=self.width)
            model.pos_block.append(nn.ModuleDict({"proj": nn.Sequential(convolution)}))

    def between(self, patches: torch.Tensor, before: int) -> torch.Tensor:
        if not (self.each or before == 1):
            return patches
        convolution = self.model.pos_block[before if self.each else 0]["proj"]
        image = patches.transpose(1, 2).unflatten(2, (self.side, self.side))
        return patches + convolution(image).flatten(2).transpose(1, 2)


ENCODINGS = {
    "learned": Learned,
    "learned-axial": LearnedAxial,
    "sinusoidal": Sinusoidal,
    "sinusoidal-1d": Sinusoidal1d,
    "rope": Rope,
    "rope-mixed": RopeMixed,
    "rope-dinov3": RopeDinov3,
    "lie-rope": LieRope,
    "relative-bias": RelativeBias,
    "relative-bias-mlp": RelativeBiasMlp,
    "relative-keys": RelativeKeys,
    "alibi-2d": Alibi,
    "cpe": Cpe,
}


def parse(position: str) -> list[tuple[str, dict[str, str]]]:
    """Names and options of the parts of `a(option=value)+b`."""
    parts = re.findall(r"([^+(]+)(?:\(([^)]*)\))?", position)
    return [(name, dict(re.findall(r"(\w+)=(\w+)", options))) for name, options in parts]


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.channels = heads, width // heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: torch.Tensor, encodings: list[Encoding], block: int) -> torch.Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, self.channels)).permute(2, 0, 3, 1, 4)
        for encoding in encodings:
            prefix = encoding.prefix
            q, k = (torch.cat([t[:, :, :prefix], encoding.turn(t[:, :, prefix:], block)], dim=2) for t in (q, k))
        q = q / math.sqrt(self.channels)
        scores = q @ k.transpose(-2, -1) + sum(encoding.bias(q, block) for encoding in encodings)
        return self.proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width, hidden)

    def forward(self, x: torch.Tensor, encodings: list[Encoding], block: int) -> torch.Tensor:
        x = x + self.attn(self.norm1(x), encodings, block)
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    def __init__(self, case: dict) -> None:
        super().__init__()
        width, self.prefix = case["width"], int(case["pool"] == "cls")
        self.patch_embed = PatchEmbed(case["channels"], width, case["patch_size"])
        if self.prefix:
            self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        hidden = int(width * case["mlp_ratio"])
        self.blocks = nn.ModuleList([Block(width, case["heads"], hidden) for _ in range(case["depth"])])
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, case["classes"])
        self.encodings = [ENCODINGS[name](self, case, **options) for name, options in parse(case["position"])]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.patch_embed(images.permute(0, 3, 1, 2))
        x = x + sum(encoding.table() for encoding in self.encodings)
        if self.prefix:
            x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        for index, block in enumerate(self.blocks):
            for encoding in self.encodings:
                x = torch.cat([x[:, : self.prefix], encoding.between(x[:, self.prefix :], index)], dim=1)
            x = block(x, self.encodings, index)
        x = self.norm(x)
        return self.head(x[:, 0] if self.prefix else x.mean(dim=1))
