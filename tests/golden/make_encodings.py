"""Make the golden files of positional encodings in ``encodings/`` from PyTorch, one per case.

Rerun it in the environment of ``make_golden.py``, from the root of the repository:

    python tests/golden/make_encodings.py

The models are in ``torch_encodings.py``: that of ``make_golden.py`` with other encodings. Everything is float64;
inputs and weights are rounded to float16. A file has few arrays, because each array takes 200 bytes or more:

    config      JSON: the arguments of ViTConfig
    parameters  JSON: pairs of name and shape, in the order of `state` and `gradient`
    state       the weights, flattened and concatenated, float16
    images      (B, height, width, channels), already normalised, float16
    labels      (B,)
    logits      (B, C)
    loss        mean cross-entropy
    gradient    the gradient of that loss, flattened and concatenated like `state`

Some gradients are 0 in exact arithmetic: of encodings without a bias for the class token, in the last block, if the
class token is the input of the classifier; and of a bias that is the same for all pairs of tokens.

Each case is compared with timm, in logits and gradients: ``VisionTransformer`` for tables and (with ``PosConv`` of
Twins) ``cpe``, ``Eva`` for RoPE, ``VisionTransformerRelPos`` for relative biases. timm's tables of RoPE, and its
coordinates of the MLP of relative biases, are float32. timm has relative keys only in ``PosEmbedRel`` of its bottleneck
attention, which is compared alone. ALiBi is compared with tables of relative biases, and LieRE in blocks of two
channels with mixed RoPE: they are equal. timm has no larger blocks.
"""

import json
import re

import numpy as np
import torch
from make_golden import FOLDER, TIMM
from torch import nn
from torch.nn import functional
from torch_encodings import ViT, parse

BATCH = 3
ODD = {"image_size": 6, "patch_size": 2, "channels": 1, "classes": 3, "depth": 2, "mlp_ratio": 0.25}
EVEN = {"image_size": 4, "patch_size": 1, "channels": 2, "classes": 3, "depth": 2, "mlp_ratio": 0.375}
ONE_HEAD, TWO_HEADS, THREE_HEADS = ({"width": d, "heads": h} for d, h in ((8, 1), (8, 2), (6, 3)))
CASES = [
    {"position": position, "pool": pool, **grid, **heads}
    for position, pool, grid, heads in [
        ("learned-axial", "mean", EVEN, THREE_HEADS),
        ("learned-axial", "cls", ODD, TWO_HEADS),
        ("sinusoidal-1d", "mean", ODD, TWO_HEADS),
        ("sinusoidal-1d", "cls", EVEN, THREE_HEADS),
        ("rope(base=10)", "mean", EVEN, ONE_HEAD),
        ("rope(base=10)", "cls", ODD, ONE_HEAD),
        ("rope(coordinates=centred)", "cls", EVEN, ONE_HEAD),
        ("rope-mixed", "mean", ODD, TWO_HEADS),
        ("rope-mixed", "cls", EVEN, TWO_HEADS),
        ("rope-dinov3", "mean", EVEN, ONE_HEAD),
        ("rope-dinov3", "cls", ODD, TWO_HEADS),
        ("rope-dinov3(pairs=half)", "mean", ODD, ONE_HEAD),
        ("rope-dinov3(pairs=half)", "cls", EVEN, TWO_HEADS),
        ("rope+learned", "mean", ODD, TWO_HEADS),
        ("rope+learned", "cls", EVEN, ONE_HEAD),
        ("rope+sinusoidal", "mean", EVEN, TWO_HEADS),
        ("rope+sinusoidal", "cls", ODD, ONE_HEAD),
        ("relative-bias", "mean", ODD, TWO_HEADS),
        ("relative-bias", "cls", EVEN, THREE_HEADS),
        ("relative-bias(shared=true)", "mean", EVEN, TWO_HEADS),
        ("relative-bias(shared=true)", "cls", ODD, THREE_HEADS),
        ("relative-bias-mlp(hidden=7)", "mean", EVEN, THREE_HEADS),
        ("relative-bias-mlp(hidden=7)", "cls", ODD, TWO_HEADS),
        ("relative-bias-mlp(hidden=5, shared=true)", "cls", EVEN, TWO_HEADS),
        ("relative-bias-mlp(hidden=5, mode=cr)", "mean", ODD, TWO_HEADS),
        ("relative-bias-mlp(hidden=5, mode=cr)", "cls", EVEN, THREE_HEADS),
        ("relative-keys", "mean", EVEN, TWO_HEADS),
        ("relative-keys", "cls", ODD, THREE_HEADS),
        ("alibi-2d", "mean", ODD, TWO_HEADS),
        ("alibi-2d", "cls", EVEN, THREE_HEADS),
        ("alibi-2d(distance=manhattan)", "mean", EVEN, THREE_HEADS),
        ("alibi-2d(distance=manhattan)", "cls", ODD, TWO_HEADS),
        ("cpe", "mean", ODD, TWO_HEADS),
        ("cpe", "cls", EVEN, TWO_HEADS),
        ("cpe(where=each)", "mean", EVEN, THREE_HEADS),
        ("cpe(where=each)", "cls", ODD, THREE_HEADS),
        ("lie-rope", "mean", ODD, ONE_HEAD),
        ("lie-rope(block=2)", "cls", EVEN, TWO_HEADS),
        ("lie-rope(block=4, layers=shared)", "mean", EVEN, TWO_HEADS),
        ("lie-rope(block=4, heads=shared)", "cls", ODD, TWO_HEADS),
    ]
]


def initialise(model: ViT, generator: torch.Generator) -> None:
    """Random weights far from every symmetry (no zero bias, no unit norm), exact in float16."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            scale = 1.0 if "generators" in name else 0.5
            parameter.copy_((centre + scale * torch.randn(parameter.shape, generator=generator)).half().double())


def gradients(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, dict]:
    """Logits, and the gradients of the mean cross-entropy."""
    logits = model(images)
    model.zero_grad()
    functional.cross_entropy(logits, labels).backward()
    return logits.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def make(case: dict, seed: int) -> dict[str, np.ndarray]:
    generator = torch.Generator().manual_seed(seed)
    model = ViT(case).double()
    initialise(model, generator)
    size = (BATCH, case["image_size"], case["image_size"], case["channels"])
    images = torch.randn(size, generator=generator).half().double()
    labels = torch.randint(case["classes"], size[:1], generator=generator)
    logits, gradient = gradients(model, images, labels)
    compare_with_timm(case, model, images, labels, (logits, gradient))
    named = {name: p.detach() for name, p in model.named_parameters()}
    return {
        "config": np.array(json.dumps(case)),
        "parameters": np.array(json.dumps([[name, list(p.shape)] for name, p in named.items()])),
        "state": np.concatenate([p.numpy().ravel() for p in named.values()]).astype(np.float16),
        "images": images.numpy().astype(np.float16),
        "labels": labels.numpy(),
        "logits": logits.numpy(),
        "loss": functional.cross_entropy(logits, labels).numpy(),
        "gradient": np.concatenate([gradient[name].numpy().ravel() for name in named]),
    }


def distance(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Largest difference relative to the largest magnitude."""
    return ((ours - theirs).abs().max() / ours.abs().max().clamp(min=1e-9)).item()


def compare_with_timm(case: dict, model: ViT, images: torch.Tensor, labels: torch.Tensor, results: tuple) -> None:
    title = f"{case['position']}, {case['pool']}"
    if TIMM is None:
        print(f"{title}: not compared with timm")
    elif case["position"] == "relative-keys":
        print(f"{title}: scores and their gradients equal those of PosEmbedRel to {compare_keys(model):.0e}")
    elif (made := timm_model(case, model)) is None:
        print(f"{title}: timm has no such encoding")
    else:
        theirs, state = made
        theirs.load_state_dict(state, strict=True)
        their_logits, their_gradient = gradients(theirs.double().eval(), images.permute(0, 3, 1, 2), labels)
        logits, gradient = results
        same = [name for name in gradient if name in their_gradient]
        worst = max(distance(gradient[name], their_gradient[name]) for name in same)
        worst = max(worst, distance(logits, their_logits))
        single = "rope" in case["position"] or "mlp" in case["position"]
        assert worst < (1e-5 if single else 1e-12), (title, worst)
        print(
            f"{title}: logits and {len(same)} of {len(gradient)} gradients equal those of {type(theirs).__name__}"
            f"{' with its float32 table' if single else ''} to {worst:.0e}"
        )


def timm_model(case: dict, model: ViT) -> tuple[nn.Module, dict] | None:
    """timm's model and the state that makes it equal to `model`; None if timm has no such encoding."""
    mean, side = case["pool"] == "mean", case["image_size"] // case["patch_size"]
    parts = {name: encoding for (name, _), encoding in zip(parse(case["position"]), model.encodings, strict=True)}
    shared = {
        "img_size": case["image_size"],
        "patch_size": case["patch_size"],
        "in_chans": case["channels"],
        "num_classes": case["classes"],
        "embed_dim": case["width"],
        "depth": case["depth"],
        "num_heads": case["heads"],
        "mlp_ratio": case["mlp_ratio"],
        "class_token": not mean,
        "global_pool": "avg" if mean else "token",
        "init_values": None,
        "dtype": torch.float64,
    }
    state = dict(model.state_dict())
    table = sum(encoding.table() for encoding in model.encodings)
    if has_table := isinstance(table, torch.Tensor):
        state = {name: array for name, array in state.items() if not name.startswith("pos_embed")}
        state["pos_embed"] = table[None]
    if turning := [name for name in parts if "rope" in name]:
        options = parts[turning[0]].options
        rope = {"rope_grid_indexing": "xy", "rope_temperature": 100.0}
        if turning[0] == "rope":
            shift = -(side - 1) / 2 if options.get("coordinates") == "centred" else 0.0
            rope |= {"rope_temperature": float(options.get("base", 100)), "rope_grid_offset": shift}
        elif turning[0] == "rope-mixed":
            rope |= {"rope_type": "mixed"}
        elif turning[0] == "rope-dinov3":
            half = options.get("pairs") == "half"
            rope |= {"rope_type": "dinov3", "rope_grid_indexing": "ij", "rope_rotate_half": half}
        elif turning[0] == "lie-rope" and options.get("block") == "2":
            rope |= {"rope_type": "mixed"}
            state["rope.freqs"] = -state.pop("lie_rope.generators")[..., 0, 1] / (side - 1)
        else:
            return None
        fixed = {"attn_type": "rope", "use_rot_pos_emb": True, "use_fc_norm": False, "no_embed_class": True}
        return TIMM.models.eva.Eva(**shared, **fixed, use_abs_pos_emb=has_table, **rope), state
    if relative := [name for name in parts if name.startswith(("relative", "alibi"))]:
        encoding = parts[relative[0]]
        kind = {"rel_pos_type": "bias", "shared_rel_pos": encoding.options.get("shared") == "true"}
        if relative[0] == "relative-bias-mlp":
            kind |= {
                "rel_pos_type": "mlp-swin" if encoding.swin else "mlp",
                "rel_pos_dim": int(encoding.options["hidden"]),
            }
        theirs = TIMM.models.vision_transformer_relpos.VisionTransformerRelPos(**shared, **kind)
        if relative[0] == "alibi-2d":
            dy, dx = torch.cartesian_prod(*[torch.arange(1 - side, side)] * 2).T
            table = -encoding.distances(dx, dy)[:, None] * encoding.slopes()
            table = functional.pad(table, (0, 0, 0, 3 * encoding.prefix))
            state |= {f"blocks.{i}.attn.rel_pos.relative_position_bias_table": table for i in range(case["depth"])}
        return theirs, state
    kind = {"pos_embed": "learn" if has_table else "none", "fc_norm": False, "no_embed_class": True}
    theirs = TIMM.models.vision_transformer.VisionTransformer(**shared, **kind)
    if "cpe" in parts:
        prefix, first = int(not mean), 0 if parts["cpe"].each else 1
        theirs.pos_block = nn.ModuleList(
            TIMM.models.twins.PosConv(case["width"], case["width"]) for _ in model.pos_block
        )
        for block, convolution in zip(theirs.blocks[first:], theirs.pos_block, strict=False):

            def hook(block: nn.Module, inputs: tuple, convolution: nn.Module = convolution) -> torch.Tensor:
                (x,) = inputs
                return torch.cat([x[:, :prefix], convolution(x[:, prefix:].clone(), (side, side))], dim=1)

            block.register_forward_pre_hook(hook)
    return theirs, state


def compare_keys(model: ViT) -> float:
    """Compare the scores of relative keys, and gradients, with PosEmbedRel of timm's bottleneck attention."""
    worst, encoding = 0.0, model.encodings[0]
    generator = torch.Generator().manual_seed(0)
    for index, block in enumerate(model.blocks):
        theirs = TIMM.layers.bottleneck_attn.PosEmbedRel((encoding.side,) * 2, encoding.channels, 1.0).double()
        theirs.load_state_dict({"width_rel": block.attn.rel_pos[0], "height_rel": block.attn.rel_pos[1]})
        tokens = encoding.prefix + encoding.side**2
        queries = torch.randn(2, encoding.heads, tokens, encoding.channels, generator=generator, dtype=torch.float64)
        weights = torch.randn(2, encoding.heads, tokens, tokens, generator=generator, dtype=torch.float64)
        ours = encoding.bias(queries, index)
        expected = encoding.pad(theirs(queries[:, :, encoding.prefix :].flatten(0, 1)).unflatten(0, (2, -1)))
        (our_gradient,) = torch.autograd.grad((ours * weights).sum(), block.attn.rel_pos)
        their_gradient = torch.autograd.grad((expected * weights).sum(), [theirs.width_rel, theirs.height_rel])
        worst = max(worst, distance(ours, expected), distance(our_gradient, torch.stack(their_gradient)))
    assert worst < 1e-12, worst
    return worst


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(f"PyTorch {torch.__version__}, timm {TIMM and TIMM.__version__}")
    (FOLDER / "encodings").mkdir(exist_ok=True)
    for seed, case in enumerate(CASES):
        name = re.sub(r"[^a-z0-9]+", "-", f"{case['position']}-{case['pool']}")
        np.savez_compressed(FOLDER / "encodings" / f"{name}.npz", **make(case, seed))
    files = list((FOLDER / "encodings").glob("*.npz"))
    print(f"{len(files)} files, {sum(path.stat().st_size for path in files) / 1e3:.0f} kB")
