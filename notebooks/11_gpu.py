# %% [markdown]
# # 11. The same code on a GPU
#
# The layers of the previous chapters run on a CPU through NumPy, and on an NVIDIA GPU through CuPy. No GPU is needed to
# read or to execute this chapter. At the end you will know how one interface hides the device from the layers, what one
# operation looks like as a formula, as a CPU kernel and as a CUDA kernel, why a whole training step is recorded once
# and then replayed, why a small model leaves a GPU idle, and what the precisions float32, TF32 and bf16 can represent.
# The chapter needs [Chapter 6](06_block.ipynb) (the layers) and [Chapter 7](07_training.ipynb) (a training step).

# %%
import inspect
from collections import Counter
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import Markdown
from walkthrough import ROOT, source, trained, use_style

import vit.layers
from ablations.machine.doctor import gpu_lines
from ablations.machine.gpus import gpu_problem
from vit import ViT, cost, get_ops
from vit.backend import cpu_kernels, cupy_precisions
from vit.backend.cuda.ops import CudaOps
from vit.backend.cuda.sources import DIRECTORY
from vit.backend.numpy_ops import NumpyOps
from vit.backend.ops import Ops, operations
from vit.backend.program import Opcode
from vit.graph_engine import GraphEngine
from vit.lane import Lane
from vit.layers import Linear

use_style()

# %% [markdown]
# ## What has been tested, and what has not
#
# First, what can be expected. The next cell quotes the documentation of vitab.

# %%
lines = (ROOT / "docs" / "gpu.md").read_text().split("\n\n")
Markdown("\n\n".join(f"> {part}".replace("\n", "\n> ") for part in lines if "run only on a CPU" in part))

# %% [markdown]
# The emulation executes the CUDA sources on a CPU, and compares every kernel with its formula. So this chapter shows
# how the code is built. It says nothing about its speed on a GPU.
#
# ## One interface
#
# A layer never calls NumPy or CuPy. It calls the methods of an object `ops`: a matrix product, a softmax, a layer
# normalisation. `Ops` is the base class; each of its methods is the formula in array expressions, as a reference.
# `NumpyOps` replaces the methods by fast ones for the CPU, and `CudaOps` replaces them by CUDA kernels.
# `get_ops("numpy")` returns the first, `get_ops("cupy")` the second on a GPU. A linear layer, for example, is the same
# code on both:

# %%
layers = inspect.getsource(vit.layers)
assert "import numpy" not in layers
assert "cupy" not in layers
assert {"matmul", "softmax", "bias_gelu"} <= {*operations()} & {*vars(NumpyOps)} & {*vars(CudaOps)}
source(Linear.product)

# %% [markdown]
# ## One operation in three forms
#
# Take the softmax over the last axis, $y_j = e^{x_j - m} / \sum_k e^{x_k - m}$ with $m = \max_k x_k$, as in
# [Chapter 3](03_attention.ipynb). The reference has three lines. Each of them passes over the whole array in memory,
# and two of them do so twice: once for the maximum or the sum, and once for the result.

# %%
source(Ops.softmax)

# %% [markdown]
# The CPU kernel is a function that Numba compiles to machine code. It handles one row after another, and a row stays in
# the cache of the processor between the three loops. This is called *fusion*: several operations, one pass over the
# memory.

# %%
source(cpu_kernels.softmax.py_func)

# %%
x = np.random.default_rng(0).normal(size=(1, 8, 2, 16, 16)).astype(np.float32)  # runs, images, heads, queries, keys
reference, fused = Ops(np).softmax(x.copy()), get_ops("numpy").softmax(x.copy())
np.testing.assert_allclose(fused, reference, rtol=1e-5)
print(f"largest difference between the two: {np.abs(fused - reference).max():.1e}")

# %% [markdown]
# The CUDA kernel is the same function, written for one *thread*. Thousands of threads execute it at the same time. 32
# threads with consecutive numbers form a *warp*, whose threads execute the same instruction together; a number of warps
# form a *block*. Here each warp handles one row. Its threads, called *lanes*, hold `ITEMS` elements of the row each, in
# registers.

# %%
text = (DIRECTORY / "softmax.cu").read_text()
kernel = text[text.index("// x = softmax(x)") : text.index("// dy = ")]
Markdown(f"`vit/backend/cuda/src/softmax.cu`\n\n```cpp\n{kernel.rstrip()}\n```")

# %% [markdown]
# The maximum and the sum need all elements of the row, which are in different threads. `max_lanes` and `sum_lanes`
# exchange values between lanes. In each of five steps, lane $i$ adds the value of the lane whose number differs from
# $i$ in one bit. After the steps, every lane has the whole sum. NumPy can imitate a warp by an array of 32 elements.

# %%
lanes = np.arange(32)
values = np.random.default_rng(0).normal(size=32)
total, parts = values.copy(), np.eye(32)
history = [parts]
for offset in (16, 8, 4, 2, 1):
    total = total + total[lanes ^ offset]
    parts = parts + parts[lanes ^ offset]  # which of the values have been added, by lane
    history.append(parts)
np.testing.assert_allclose(total, np.full(32, values.sum()))
assert (parts == 1).all()

figure, axes = plt.subplots(1, 6, figsize=(8, 1.9), sharey=True)
for step, (ax, parts) in enumerate(zip(axes, history, strict=True)):
    ax.imshow(parts, cmap="Greys", vmin=0, vmax=1.4)
    ax.set_title("start" if step == 0 else f"step {step}", fontsize=10)
    ax.set(xticks=[0, 31], yticks=[0, 31])
axes[0].set_ylabel("lane")
figure.supxlabel("value; dark: part of the sum of this lane", fontsize=10)
plt.show()

# %% [markdown]
# The sum has a fixed order, so the same input gives the same bits in every execution.
#
# ## A step is recorded once
#
# Between two operations, Python decides what to do next. That takes some microseconds each time. For a small model, the
# operations themselves are not much longer. But the sequence of operations is the same in every step: the same kernels
# on the same buffers. So it is recorded once, as a *program*, and then replayed without Python.
#
# On the CPU, a program is a table of instructions. Each is a number (the *opcode*), the addresses of the arrays, and
# their sizes. The next cell makes a training pass on 8 images, which records the program, and lists its start. The
# first instructions embed the patches and add the learned table. Then comes the first block: layer normalisation, the
# product for queries, keys and values, their bias, the scores, the softmax. The second call copies images into the
# input buffers and replays the program. The losses are the same, bit for bit.

# %%
run = trained(position="learned")
config, images = run.model_config(), run.loader.normalise(run.images[:8])[None]
targets = np.eye(config.classes, dtype=np.float32)[run.labels[:8]][None]
lane = Lane(ViT(config, get_ops("numpy"), seeds=[0]), capacity=8)
recorded = lane.train(images, targets, 1 / 8, None).copy()
np.testing.assert_array_equal(lane.train(images, targets, 1 / 8, None), recorded)

(program,) = lane.tapes.values()
names = [Opcode(row[0]).name for row in program._rows]
names = ["MATMUL" if name == "GEMM" else name for name in names]  # products for which the code has its own kernel
print(f"{len(names)} instructions, of which {names.count('MATMUL')} are matrix products:")
print(fill(" → ".join(names[:17]) + " → …", 85))

# %% [markdown]
# On a GPU, the driver offers the same as a *CUDA graph*. While a stream is captured, kernels that are started on it are
# recorded instead of executed. The first step of a kind runs directly, which compiles the kernels and allocates the
# buffers. The second is captured. Every later step is one launch.

# %%
source(GraphEngine._run)

# %% [markdown]
# ## What a GPU would be asked to do
#
# What a step consists of on a GPU can be listed without one. `CudaOps` talks to a *device* object, whose interface has
# a few methods. The class below is a device that computes nothing and notes what it would have to start.


# %%
class Notes:
    """A device that notes the kernels and products that are started, and computes nothing."""

    name, xp, multiprocessors, shared_bytes = "notes", np, 132, 227 << 10

    def __init__(self):
        self.started = []

    def launch(self, kernel, grid, block, shared_bytes, args):
        self.started.append(kernel.partition("<")[0])

    def products(self, precision):
        return self

    def matmul(self, a, b, out):
        self.started.append("matrix product")


def started(runs, precision="float32"):
    device = Notes()
    model = ViT(config, CudaOps(device, precision), seeds=range(runs))
    network = model.network(64)
    network.inputs(64)
    device.started.clear()
    network.train(1 / 64)
    return device.started


print(f"{len(started(runs=1))} launches in a forward and a backward pass on 64 images, of which the first are:")
print(fill(" → ".join(started(runs=1)[:12]) + " → …", 85))
counted = Counter(started(runs=1)).most_common()
pd.DataFrame(counted, columns=["what is started", "times"])

# %% [markdown]
# Attention appears once for each block: the bias, the scores, the softmax and the product with the values are a single
# kernel, so the scores never reach the memory.
#
# ## Why small models are limited by launches, and R runs side by side
#
# A kernel of a small model is finished within microseconds, but starting one takes microseconds, too. A captured graph
# makes the start cheaper. The other remedy is more work for each launch: $R$ runs, which differ in seed or learning
# rate, are trained as one model. Every array has the axis $R$ in front, and one launch handles all runs. The number of
# launches does not depend on $R$.
#
# Training together must not change results. The next cell verifies on the CPU that each of three runs gives the same
# bits as it does alone.

# %%
assert started(runs=1) == started(runs=4) == started(runs=16)
together = ViT(config, get_ops("numpy"), seeds=[0, 1, 2]).forward(np.repeat(images, 3, axis=0))
for r in range(3):
    alone = ViT(config, get_ops("numpy"), seeds=[r]).forward(images)
    np.testing.assert_array_equal(together[r : r + 1], alone)

launches = len(started(runs=1))
flops = cost.TRAINING_FACTOR * cost.forward_flops(config) * 64
rows = [(runs, launches, f"{runs * flops / launches / 1e6:,.1f}") for runs in (1, 4, 16, 64)]
pd.DataFrame(rows, columns=["runs R", "launches", "million operations per launch"])

# %% [markdown]
# The figure shows what follows from this by simple arithmetic. It is *not* a measurement. The two speeds are
# assumptions in round numbers: 5 microseconds for a launch, and $10^{13}$ operations per second in the products. A step
# takes the longer of the two times: launching all kernels, or computing all products. While launching takes longer,
# more runs are free; the time per run falls as $1/R$. After that, the GPU is busy.

# %%
launch_seconds, operations_per_second = 5e-6, 1e13
runs = 2 ** np.arange(8)
launching, computing = launches * launch_seconds, runs * flops / operations_per_second
figure, ax = plt.subplots(figsize=(7, 3.2))
ax.plot(runs, 1e6 * np.maximum(launching, computing) / runs, "o-", color="#2A6FB5", label="time of a step per run")
ax.plot(runs, 1e6 * launching / runs, ls=":", color="#222222", label="launching alone")
ax.plot(runs, 1e6 * computing / runs, ls="--", color="#949494", label="computing alone")
ax.set_xscale("log", base=2)
ax.set(yscale="log", xlabel="runs R", ylabel="microseconds", title="Arithmetic with assumed speeds, no measurement")
ax.set_xticks(runs, [str(r) for r in runs])
ax.legend()
plt.show()

# %% [markdown]
# ## Precision
#
# A floating-point number is $\pm (1 + f) \cdot 2^e$. The *mantissa* bits give the fraction $f$, the *exponent* bits
# give $e$. float32 has 23 and 8 of them. The tensor cores of a GPU multiply much faster if the factors have fewer bits:
# TF32 keeps 10 mantissa bits, bf16 keeps 7. Both keep the 8 exponent bits, so their range is that of float32, and only
# the distance between neighbouring numbers grows.
#
# Rounding to $b$ mantissa bits is integer arithmetic on the 32 bits of the number: add half of the last place that is
# kept (with ties to even), then clear the bits below. The CUDA function `pack_bf16` in `common.cuh` does the same.
# NumPy has no bf16, but it has float16 with 10 mantissa bits, which checks the function below.


# %%
def rounded(x, bits):
    """Round float32 numbers to this number of mantissa bits, ties to even."""
    drop = np.uint32(23 - bits)
    words = np.array(x, dtype=np.float32, order="C").view(np.uint32)
    if not drop:
        return words.view(np.float32)
    half = (np.uint32(1) << (drop - np.uint32(1))) - np.uint32(1) + (words >> drop & np.uint32(1))
    return ((words + half) >> drop << drop).view(np.float32)


formats = {"float32": 23, "tf32": 10, "bf16": 7}
numbers = np.random.default_rng(0).normal(size=10_000).astype(np.float32)
numbers = numbers[np.abs(numbers) > 1e-4]  # smaller ones are not normal numbers in float16
np.testing.assert_array_equal(rounded(numbers, 10), numbers.astype(np.float16).astype(np.float32))
rows = [(name, bits, 2.0**-bits, float(rounded(np.float32(np.pi), bits))) for name, bits in formats.items()]
pd.DataFrame(rows, columns=["format", "mantissa bits", "distance after 1", "pi"])

# %%
figure, ax = plt.subplots(figsize=(7, 1.9))
for height, bits in enumerate(formats.values()):
    if bits == 23:  # too dense to draw one by one
        ax.fill_between([1, 1.0313], height - 0.35, height + 0.35, color="#2A6FB5", lw=0)
    else:
        ax.vlines(np.arange(1, 1.0313, 2.0**-bits), height - 0.35, height + 0.35, color="#2A6FB5")
ax.set_yticks(range(3), formats)
ax.set(xlabel="value", title="Numbers that can be represented (float32: too dense to see)", xlim=(0.9995, 1.0315))
plt.show()

# %% [markdown]
# How much does this matter? The next cell multiplies two random matrices with rounded elements; the sums are in
# float32, as in vitab. The relative error of the result is about as large as the rounding error of its factors, because
# the errors of the terms partly cancel. The cell then rounds the weights of a trained model and classifies the test
# images.

# %%
rng = np.random.default_rng(0)
a, b = (rng.normal(size=(256, 256)).astype(np.float32) for _ in range(2))
exact = a.astype(np.float64) @ b.astype(np.float64)
state, test_images = run.store.checkpoint(run.key), run.loader.normalise(run.images)[None]
rows, errors = [], []
for name, bits in formats.items():
    errors.append(np.linalg.norm(rounded(a, bits) @ rounded(b, bits) - exact) / np.linalg.norm(exact))
    model = ViT(config, get_ops("numpy"), seeds=[0])
    model.load_state_dict({key: rounded(array, bits) for key, array in state.items()})
    predicted = model.forward(test_images)[0].argmax(axis=1)
    accuracy = np.mean(predicted == run.labels)
    changed = (predicted != run.stored_probabilities.argmax(axis=1)).sum()
    rows.append((name, f"{errors[-1]:.1e}", f"{accuracy:.1%}", changed))
assert errors[0] < errors[1] < errors[2]
pd.DataFrame(
    rows, columns=["format", "relative error of the result", "accuracy with rounded weights", "changed predictions"]
)

# %% [markdown]
# Rounding the factors is one thing, rounding a sum is another. A sum of many small terms soon becomes so large that the
# next term is smaller than half of the distance to the next number, and is rounded away. The figure adds 6,000 small
# random terms one by one, and rounds after each addition. For this reason vitab accumulates all sums in float32, and
# keeps the weights, which a training changes by small steps, in float32.

# %%
terms = np.random.default_rng(0).uniform(0, 0.002, 6_000).astype(np.float32)
figure, ax = plt.subplots(figsize=(7, 3))
last = {}
for (name, bits), style in zip(formats.items(), ("-", "--", ":"), strict=True):
    sums = [np.float32(0)]
    for term in terms:
        sums.append(rounded(sums[-1] + term, bits))
    last[name] = float(sums[-1])
    ax.plot(sums, ls=style, lw=2, label=f"rounded to {name}")
assert last["bf16"] < last["tf32"] < last["float32"]
np.testing.assert_allclose(last["float32"], terms.sum(dtype=np.float64), rtol=1e-4)
ax.set(xlabel="number of terms", ylabel="sum")
ax.legend()
plt.show()

# %% [markdown]
# ## On a GPU
#
# `vitab doctor` says what is found and what is missing. The next cell prints its lines about GPUs, for the machine that
# has executed this chapter. If there is a usable GPU, the cell classifies the test images on it, in every precision
# that it supports, and compares the logits with those of the CPU. Otherwise it says what is missing.

# %%
print("\n".join(gpu_lines()))
if problem := gpu_problem():
    print(f"nothing was computed on a GPU: {problem}")
else:
    cpu = ViT(config, get_ops("numpy"), seeds=[0])
    cpu.load_state_dict(state)
    expected = cpu.forward(test_images)
    for precision in cupy_precisions():
        ops = get_ops("cupy", precision=precision)
        gpu = ViT(config, ops, seeds=[0])
        gpu.load_state_dict(state)
        logits = ops.to_numpy(gpu.forward(test_images))
        print(f"{precision}: largest difference of the logits {np.abs(logits - expected).max():.1e}")

# %% [markdown]
# With a GPU, `vitab run` uses it by itself. `pytest -m gpu` runs the tests on it, and `python -m benchmarks.gpu` checks
# and measures it.
#
# ## What to remember
#
# - The layers call one interface, `Ops`. A backend replaces its operations, and every replacement is compared with the
#   readable reference.
# - Fusion saves passes over the memory: several operations are one kernel.
# - A step is the same sequence of operations every time. It is recorded once and replayed: as a program on the CPU, as
#   a CUDA graph on a GPU.
# - Small models are limited by the number of launches. Training $R$ runs as one model gives each launch more work.
# - TF32 and bf16 have the range of float32 and fewer digits. Factors may be rounded, sums should not be.
#
# ## Exercises
#
# 1. Call `started(runs=1, precision="bf16")`. Which kernels are started in addition, or with another name?
# 2. In the figure of the assumed speeds, let a launch take 1 microsecond. From which $R$ on is the GPU busy?
# 3. Round the weights of the trained model to 3, 2 and 1 mantissa bits. How do the accuracy and the number of changed
#    predictions change? Why does this not mean that such weights would suffice in training?
#
# This was the last chapter. The [documentation of GPU training](../docs/gpu.md) describes what this chapter has left
# out.
