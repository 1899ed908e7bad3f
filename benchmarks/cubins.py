"""Resources of every CUDA kernel: `python -m benchmarks.cubins`. A GPU is not needed.

The program compiles the kernels that train and evaluate the measured shapes in float32 and bf16 with NVRTC. It prints
their registers, static shared memory and spills. The exit code is 1 if there is a compiler warning or a spill.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.nvrtc import Nvrtc, compile_all
from benchmarks.shapes import POSITIONS, SHAPES, Shape
from vit import ViTConfig
from vit.backend.cuda.kernels import CudaKernels
from vit.backend.cuda.sources import file_of, kernel_names

ARCHITECTURES = ("sm_80", "sm_90", "sm_100")
WIDE = Shape(384, 12, 6, 4, 32, 3, 100, 64)


def used() -> set[str]:
    """Return the names of the kernels that the measured shapes launch."""
    names: set[str] = set()

    def note(kernel: str, *launch: Any) -> None:
        names.add(kernel)

    kernels = CudaKernels(note, lambda elements: np.empty(elements, dtype=np.float32))
    for shape in (*SHAPES.values(), WIDE):
        for position in POSITIONS:
            for kind in (np.float32, np.uint16):
                _launch_all(kernels, shape, position, kind)
    return names


def _launch_all(kernels: CudaKernels, shape: Shape, position: str, kind: type) -> None:
    """Call every kernel method once, with one image of one run."""
    config = shape.config(position)
    tokens, width, heads, head_width = config.tokens, config.width, config.heads, config.head_width

    def wide(*dimensions: int) -> np.ndarray:
        return np.empty((1, *dimensions), dtype=np.float32)

    def active(*dimensions: int) -> np.ndarray:
        return np.empty((1, *dimensions), dtype=kind)

    stream, normal, statistics, vector = wide(1, tokens, width), active(1, tokens, width), wide(1, tokens), wide(width)
    counter, seeds = np.zeros(1, dtype=np.int32), np.zeros(1, dtype=np.int64)
    patches, targets = active(1, config.patches, config.patch_width), wide(1, config.classes)
    images = np.empty((1, shape.image, shape.image, shape.channels), dtype=np.uint8)
    for erase in (0.0, 0.25):
        kernels.load_batch(
            images,
            counter,
            counter[None],
            counter,
            steps_per_epoch=1,
            patch=shape.patch,
            mean=wide(shape.channels),
            std=wide(shape.channels),
            smoothing=np.zeros(1, np.float32),
            crop_padding=4,
            flip=True,
            seeds=seeds,
            patches=patches,
            targets=targets,
            erase=erase,
        )
    kernels.patchify(images[None].astype(np.float32), shape.patch, patches)
    kernels.add_bias(stream, vector)
    kernels.add_table(stream, wide(tokens, width))
    kernels.copy_tokens(stream, stream)
    kernels.copy_tokens(normal, normal)
    kernels.fill(stream, 0)
    kernels.cast(stream, normal)
    kernels.sum_tokens(normal, vector)
    kernels.sum_images(stream, wide(tokens, width))
    kernels.dropout(normal, vector, rate=0.1, path_rate=0.1, seeds=seeds, step=counter, site=0, out=normal)
    for branch in (None, normal):
        kernels.residual_layer_norm(
            stream, branch, vector, vector, vector, stream=stream, out=normal, mean=statistics, rstd=statistics
        )
    kernels.residual_layer_norm_backward(
        normal, stream, stream, vector, statistics, statistics, dweight=vector, dbias=vector, dbranch_bias=vector
    )
    qkv, qkv_bias, scores = active(1, tokens, 3, heads, head_width), wide(3 * width), active(1, heads, tokens, tokens)
    angles = wide(1, tokens, head_width // 2)
    turn: tuple[Any, ...] = (angles, angles, 0) if position == "rope" else (None, None, 0)
    logsumexp = wide(1, heads, tokens)
    for score_bias in (None, wide(heads, tokens, tokens)):
        forward = (qkv, qkv_bias, 1.0, *turn, score_bias)
        gradients = {"dqkv": qkv, "dbias": qkv_bias, "dscore_bias": score_bias}
        kernels.attention(*forward, out=normal, logsumexp=logsumexp)
        kernels.attention_backward(normal, *forward, normal, logsumexp, **gradients)
    kernels.qkv_bias_rotate(qkv, qkv_bias, 1.0, angles, angles, 0)
    kernels.qkv_bias_rotate_backward(qkv, 1.0, angles, angles, 0, dbias=qkv_bias)
    _launch_encodings(kernels, config, stream, normal, qkv, qkv_bias, scores)
    kernels.softmax_backward(kernels.softmax(scores), scores)
    hidden, hidden_bias = active(1, tokens, config.hidden), wide(config.hidden)
    for derivative in (True, False):
        kernels.bias_gelu(hidden, hidden_bias, out=hidden, derivative=derivative)
    kernels.bias_gelu_backward(hidden, hidden, dbias=hidden_bias)
    pooled = active(1, width)
    kernels.mean_tokens(normal, pooled)
    kernels.mean_tokens_backward(pooled, normal)
    kernels.add_bias(wide(1, 1, config.classes), wide(config.classes))
    kernels.cross_entropy(
        targets, targets, 1.0, losses=wide(1), dlogits=active(1, config.classes), totals=np.zeros((1, 2), np.float32)
    )
    kernels.sum_tokens(active(1, 1, config.classes), wide(config.classes))
    flat = wide(64)
    kernels.add(flat, flat)
    kernels.gradient_norm(flat, flat[:, 0])
    kernels.adamw(
        *(flat,) * 4,
        rate=wide(1),
        decay=np.zeros(1, np.float32),
        decayed=0,
        step=counter,
        clip_norm=1.0,
        betas=(0.9, 0.999),
        epsilon=1e-8,
        copy=np.empty((1, 64), np.uint16),
    )


def _launch_encodings(
    kernels: CudaKernels,
    config: ViTConfig,
    stream: np.ndarray,
    branch: np.ndarray,
    qkv: np.ndarray,
    qkv_bias: np.ndarray,
    scores: np.ndarray,
) -> None:
    """Call the kernels of encodings that attention has no part in."""
    tokens, heads, head_width = config.tokens, config.heads, config.head_width

    def wide(*dimensions: int) -> np.ndarray:
        return np.empty((1, *dimensions), dtype=np.float32)

    kernels.rotation_gradient(qkv, qkv_bias, qkv, 0, wide(heads, tokens, head_width // 2))
    kernels.score_bias_gradient(scores, wide(heads, tokens, tokens))
    products = np.empty((1, 1, tokens, heads, 2 * (2 * config.grid - 1)), qkv.dtype)
    kernels.add_relative_scores(scores, products, 0)
    kernels.relative_scores_gradient(scores, 0, products)
    kernels.add_to_queries(qkv, qkv[:, :, :, 0].copy())
    for size in (8, head_width):
        matrices = wide(heads, tokens, head_width // size, size, size)
        kernels.qkv_bias_turn(qkv, qkv_bias, 1.0, matrices, 0)
        kernels.qkv_bias_turn_backward(qkv, qkv, 1.0, matrices, 0, dbias=qkv_bias, dmatrices=matrices)
    weight, bias = wide(config.width, 1, 3, 3), wide(config.width)
    kernels.add_branch(stream, branch, bias, stream)
    kernels.add_depthwise_conv(stream, weight, bias, 0, stream)
    kernels.add_depthwise_conv_backward(stream, stream, weight, 0, out=stream, dweight=weight, dbias=bias)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cubins", description=__doc__)
    parser.add_argument("--architectures", default=",".join(ARCHITECTURES), help="such as sm_80,sm_90")
    wanted = parser.parse_args(arguments).architectures.split(",")
    try:
        nvrtc = Nvrtc()
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 2
    if unknown := [name for name in wanted if name not in nvrtc.architectures]:
        print(f"--architectures must be {', '.join(nvrtc.architectures)}, got {', '.join(unknown)}", file=sys.stderr)
        return 2
    names = used()
    if missing := kernel_names() - {name.partition("<")[0] for name in names}:
        print(f"not launched by any shape: {', '.join(sorted(missing))}", file=sys.stderr)
        return 1
    cubins = compile_all(nvrtc, names, wanted)
    rows = {name: [c for cubin in cubins for c in cubin.kernels if c.kernel == name] for name in names}
    faults = [f"{cubin.file}, {cubin.architecture}: {cubin.warnings}" for cubin in cubins if cubin.warnings]
    faults += [
        f"{c.kernel}, {cubin.architecture}: {c.spilled} bytes spilled"
        for cubin in cubins
        for c in cubin.kernels
        if c.spilled
    ]
    print(f"Registers per thread, bytes of static shared memory, and bytes spilled, on {', '.join(wanted)}.\n")
    print("| source | kernel | registers | shared | spilled |\n| :-- | :-- | --: | --: | --: |")
    for name, compiled in sorted(rows.items(), key=lambda row: (file_of(row[0]), row[0])):
        columns = [", ".join(dict.fromkeys(str(getattr(c, f)) for c in compiled)) for f in ("shared", "spilled")]
        registers = ", ".join(str(c.registers) for c in compiled)
        print(f"| {file_of(name)} | `{name}` | {registers} | {' | '.join(columns)} |")
    for fault in faults:
        print(fault, file=sys.stderr)
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
