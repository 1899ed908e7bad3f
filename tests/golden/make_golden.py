"""Make the golden files of this folder from PyTorch, so that the tests of ``vit`` need no torch.

Rerun it, in a virtual environment of its own, from the root of the repository:

    pip install torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu
    pip install numpy
    python tests/golden/make_golden.py

The model below is a plain PyTorch module with the names of timm's ``VisionTransformer``. Everything is
float64. Inputs and initial weights are rounded to float16, which keeps the files small and is exact in every
wider type. One file per case, ``<position>-<pool>.npz``:

    config          JSON: the arguments of ViTConfig, and under "training" the options of the ten steps
    images          (10, B, height, width, channels), one batch for each step, already normalised
    labels          (10, B)
    state/NAME      initial weights
    logits          (B, C) of the first batch
    loss            mean cross-entropy of the first batch, without label smoothing
    gradient/NAME   the gradient of that loss
    learning_rates  (10,)
    losses          (10,) mean cross-entropy with label smoothing, each before its AdamW update
    norms           (10,) global norm of the gradient before clipping
    final/NAME      weights after the ten steps: one that decays and one that does not

``resize.npz`` holds a learned table for a 4 x 4 grid and its bicubic resizes to 6 x 6 and 3 x 3.

Where timm can be imported, the logits of each case are compared with those of timm's own model:
``VisionTransformer`` for ``none``, ``learned`` and ``sinusoidal``, and ``Eva(attn_type="rope")``, timm's home
of rope-vit, for ``rope``. timm needs ``pip install --no-deps timm==1.0.31 huggingface_hub`` and ``pip install
pillow safetensors pyyaml tqdm packaging filelock``; it is made to do without torchvision.
"""

import importlib.abc
import importlib.machinery
import json
import math
import sys
import types
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

STEPS = 10
FOLDER = Path(__file__).parent

SCANS = {"image_size": 8, "patch_size": 2, "channels": 1, "classes": 10, "width": 16, "depth": 2, "heads": 2}
PHOTOS = {"image_size": 12, "patch_size": 3, "channels": 3, "classes": 7, "width": 24, "depth": 2, "heads": 3}
ODD = {"image_size": 9, "patch_size": 3, "channels": 2, "classes": 4, "width": 24, "depth": 1, "heads": 2}
WARMUP_COSINE = "3 steps of linear warm-up, then cosine"
SCHEDULED = ("batch", "smoothing", "schedule", "clip_norm")
CASES = [
    {**SCANS, "position": "none", "pool": "mean", "batch": 6, "smoothing": 0.1},
    {**ODD, "position": "none", "pool": "cls", "batch": 5},
    {**SCANS, "position": "learned", "pool": "mean", "batch": 5, "mlp_ratio": 2.5, "schedule": WARMUP_COSINE},
    {**PHOTOS, "position": "learned", "pool": "cls", "batch": 5, "smoothing": 0.1, "clip_norm": 2.5},
    {**ODD, "position": "sinusoidal", "pool": "mean", "batch": 3, "smoothing": 0.2, "clip_norm": 3.0},
    {**SCANS, "position": "sinusoidal", "pool": "cls", "batch": 5},
    {**PHOTOS, "position": "rope", "pool": "mean", "batch": 5, "clip_norm": 2.0, "schedule": WARMUP_COSINE},
    {**ODD, "position": "rope", "pool": "cls", "batch": 7, "mlp_ratio": 3.0, "clip_norm": 2.5},
]


def sinusoidal_table(side: int, width: int) -> torch.Tensor:
    """(N, D) of "Better plain ViT baselines" (arXiv:2205.01580): [sin xw, cos xw, sin yw, cos yw]."""
    y, x = torch.meshgrid(torch.arange(side).double(), torch.arange(side).double(), indexing="ij")
    omega = 1.0 / 10000.0 ** (torch.arange(width // 4).double() / (width // 4 - 1))
    x, y = x.flatten()[:, None] * omega, y.flatten()[:, None] * omega
    return torch.cat([x.sin(), x.cos(), y.sin(), y.cos()], dim=1)


def rotate(tokens: torch.Tensor, side: int) -> torch.Tensor:
    """Axial RoPE of rope-vit (ECCV 2024) on (B, H, N, K): interleaved pairs as complex numbers, base 100."""
    count, channels = tokens.shape[-2:]
    frequencies = 100.0 ** (-torch.arange(0, channels, 4)[: channels // 4].double() / channels)
    index = torch.arange(count)
    column, row = (index % side).double(), (index // side).double()
    angles = torch.cat([torch.outer(column, frequencies), torch.outer(row, frequencies)], dim=1)
    pairs = torch.view_as_complex(tokens.reshape(*tokens.shape[:-1], channels // 2, 2))
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).flatten(-2)


class PatchEmbed(nn.Module):
    def __init__(self, channels: int, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch, stride=patch)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.proj(images).flatten(2).transpose(1, 2)


class Attention(nn.Module):
    def __init__(self, width: int, heads: int, side: int, prefix: int, rope: bool) -> None:
        super().__init__()
        self.heads, self.side, self.prefix, self.rope = heads, side, prefix, rope
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def turn(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x[:, :, : self.prefix], rotate(x[:, :, self.prefix :], self.side)], dim=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, tokens, width = x.shape
        head_width = width // self.heads
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, head_width)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        if self.rope:
            q, k = self.turn(q), self.turn(k)
        scores = q @ k.transpose(-2, -1) / math.sqrt(head_width)
        return self.proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, tokens, width))


class Mlp(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(functional.gelu(self.fc1(x), approximate="none"))


class Block(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int, side: int, prefix: int, rope: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads, side, prefix, rope)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width, hidden)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    def __init__(self, case: dict) -> None:
        super().__init__()
        width, side = case["width"], case["image_size"] // case["patch_size"]
        self.pool = case["pool"]
        self.patch_embed = PatchEmbed(case["channels"], width, case["patch_size"])
        if self.pool == "cls":
            self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        if case["position"] == "learned":
            self.pos_embed = nn.Parameter(torch.zeros(1, side * side, width))
        table = sinusoidal_table(side, width) if case["position"] == "sinusoidal" else None
        self.register_buffer("table", table, persistent=False)
        hidden = int(width * case.get("mlp_ratio", 4.0))
        shape = (width, case["heads"], hidden, side, int(self.pool == "cls"), case["position"] == "rope")
        self.blocks = nn.Sequential(*[Block(*shape) for _ in range(case["depth"])])
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, case["classes"])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.patch_embed(images.permute(0, 3, 1, 2))
        if hasattr(self, "pos_embed"):
            x = x + self.pos_embed
        if self.table is not None:
            x = x + self.table
        if self.pool == "cls":
            x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        x = self.norm(self.blocks(x))
        return self.head(x[:, 0] if self.pool == "cls" else x.mean(dim=1))


def learning_rates(schedule: str) -> np.ndarray:
    if schedule == "constant":
        return np.full(STEPS, 0.01)
    warm = 3
    rise = [(step + 1) / warm for step in range(warm)]
    fall = [0.5 * (1 + math.cos(math.pi * (step - warm) / (STEPS - warm))) for step in range(warm, STEPS)]
    return 0.02 * np.array(rise + fall)


def decays(name: str) -> bool:
    """Weight decay is for the weights of linear layers: not biases, norms, positions or the class token."""
    return name.endswith("weight") and "norm" not in name


def train(model: ViT, images: torch.Tensor, labels: torch.Tensor, rates: np.ndarray, options: dict) -> tuple:
    """Losses before each AdamW update and gradient norms before clipping, one batch a step."""
    named = list(model.named_parameters())
    groups = [
        {"params": [p for name, p in named if decays(name)], "weight_decay": options["weight_decay"]},
        {"params": [p for name, p in named if not decays(name)], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, betas=tuple(options["betas"]), eps=options["eps"], foreach=False)
    losses, norms = [], []
    for batch, targets, rate in zip(images, labels, rates, strict=True):
        for group in optimiser.param_groups:
            group["lr"] = float(rate)
        optimiser.zero_grad()
        loss = functional.cross_entropy(model(batch), targets, label_smoothing=options["label_smoothing"])
        loss.backward()
        norms.append(nn.utils.clip_grad_norm_(model.parameters(), options["clip_norm"]).item())
        optimiser.step()
        losses.append(loss.item())
    return np.array(losses), np.array(norms)


def initialise(model: ViT, generator: torch.Generator) -> None:
    """Random weights far from every symmetry (no zero bias, no unit norm), exact in float16."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            scale = 0.5 if name in ("cls_token", "pos_embed") else 0.25
            parameter.copy_((centre + scale * torch.randn(parameter.shape, generator=generator)).half().double())


def make(case: dict, seed: int) -> dict[str, np.ndarray]:
    generator = torch.Generator().manual_seed(seed)
    model = ViT(case).double()
    initialise(model, generator)
    size = (STEPS, case["batch"], case["image_size"], case["image_size"], case["channels"])
    images = torch.randn(size, generator=generator).half().double()
    labels = torch.randint(case["classes"], size[:2], generator=generator)
    arrays = {"images": images.numpy().astype(np.float16), "labels": labels.numpy()}
    arrays |= {f"state/{name}": p.detach().numpy().astype(np.float16) for name, p in model.named_parameters()}

    logits = model(images[0])
    loss = functional.cross_entropy(logits, labels[0])
    loss.backward()
    arrays |= {"logits": logits.detach().numpy(), "loss": np.array(loss.item())}
    arrays |= {f"gradient/{name}": p.grad.numpy().copy() for name, p in model.named_parameters()}
    compare_with_timm(case, model, images[0], logits.detach())

    options = {"betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.05}
    options["clip_norm"] = case.get("clip_norm", 1.0)
    options["label_smoothing"] = case.get("smoothing", 0.0)
    rates = learning_rates(case.get("schedule", "constant"))
    losses, norms = train(model, images, labels, rates, options)
    arrays |= {"learning_rates": rates, "losses": losses, "norms": norms}
    final = {"blocks.0.attn.proj.weight", "blocks.0.attn.proj.bias"}
    arrays |= {f"final/{name}": p.detach().numpy() for name, p in model.named_parameters() if name in final}
    keep = {key: value for key, value in case.items() if key not in SCHEDULED}
    arrays["config"] = np.array(json.dumps({**keep, "training": options}))
    print(f"    ten losses {losses[0]:.3f} to {losses[-1]:.3f}, norms {norms.min():.2f} to {norms.max():.2f}")
    return arrays


class StandIns(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Empty modules for torchvision, of which timm's ViTs use nothing but which timm imports."""

    class Anything(type):
        def __getattr__(cls, name: str) -> str:
            return f"{cls.__name__}.{name}"

    class Module(types.ModuleType):
        def __getattr__(self, name: str) -> type:
            if name.startswith("__"):
                raise AttributeError(name)
            return StandIns.Anything(name, (), {})

    def find_spec(self, fullname, path=None, target=None):
        if fullname.split(".")[0] == "torchvision":
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec):
        return StandIns.Module(spec.name)

    def exec_module(self, module) -> None:
        pass


def import_timm() -> types.ModuleType | None:
    sys.meta_path.insert(0, StandIns())
    try:
        import timm.models.eva
        import timm.models.vision_transformer
    except ImportError as error:
        print(f"NOT compared with timm, which cannot be imported here: {error}")
        return None
    return timm


def compare_with_timm(case: dict, model: ViT, images: torch.Tensor, logits: torch.Tensor) -> None:
    title = f"{case['position']}-{case['pool']}"
    if TIMM is None:
        print(f"{title}: logits not compared with timm")
        return
    mean, rope = case["pool"] == "mean", case["position"] == "rope"
    shared = {
        "img_size": case["image_size"],
        "patch_size": case["patch_size"],
        "in_chans": case["channels"],
        "num_classes": case["classes"],
        "embed_dim": case["width"],
        "depth": case["depth"],
        "num_heads": case["heads"],
        "mlp_ratio": case.get("mlp_ratio", 4.0),
        "class_token": not mean,
        "global_pool": "avg" if mean else "token",
        "no_embed_class": True,
        "dtype": torch.float64,
    }
    state = dict(model.state_dict())
    if rope:
        options = {
            "attn_type": "rope",
            "init_values": None,
            "rope_grid_indexing": "xy",
            "rope_temperature": 100.0,
        }
        options |= {"use_abs_pos_emb": False, "use_rot_pos_emb": True, "use_fc_norm": False}
        theirs = TIMM.models.eva.Eva(**shared, **options)
    else:
        kind = "none" if case["position"] == "none" else "learn"
        theirs = TIMM.models.vision_transformer.VisionTransformer(**shared, pos_embed=kind, fc_norm=False)
        if case["position"] == "sinusoidal":
            state["pos_embed"] = model.table[None]
    theirs.load_state_dict(state, strict=True)
    with torch.no_grad():
        difference = (theirs.double().eval()(images.permute(0, 3, 1, 2)) - logits).abs().max().item()
    assert difference < (1e-5 if rope else 1e-12), difference
    name = f"timm {TIMM.__version__} {type(theirs).__name__}" + (" with its float32 rope table" if rope else "")
    print(f"{title}: logits equal those of {name} to {difference:.0e}")


def make_resize() -> dict[str, np.ndarray]:
    """The bicubic, antialiased resize of timm's ``resample_abs_pos_embed``, in float64."""
    table = torch.randn((1, 16, 12), generator=torch.Generator().manual_seed(99)).half().double()
    arrays = {"table": table.numpy()}
    for side in (6, 3):
        grid = table.reshape(1, 4, 4, -1).permute(0, 3, 1, 2)
        resized = functional.interpolate(grid, size=(side, side), mode="bicubic", antialias=True)
        arrays[f"to_{side}"] = resized.permute(0, 2, 3, 1).reshape(1, side * side, -1).numpy()
        if TIMM is None:
            print(f"resize 4 -> {side}: not compared with timm")
        else:
            theirs = TIMM.layers.resample_abs_pos_embed(table, [side, side], num_prefix_tokens=0).numpy()
            difference = np.abs(theirs - arrays[f"to_{side}"]).max()
            assert difference < 1e-5, difference
            print(f"resize 4 -> {side}: equals timm's resample_abs_pos_embed (float32) to {difference:.0e}")
    return arrays


TIMM = import_timm()

if __name__ == "__main__":
    torch.set_num_threads(1)
    print(f"PyTorch {torch.__version__}")
    for seed, case in enumerate(CASES):
        np.savez_compressed(FOLDER / f"{case['position']}-{case['pool']}.npz", **make(case, seed))
    np.savez_compressed(FOLDER / "resize.npz", **make_resize())
    print(f"{sum(path.stat().st_size for path in FOLDER.glob('*.npz')) / 1e6:.2f} MB")
