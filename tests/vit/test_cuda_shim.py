"""The shim notices what a GPU would only do wrong."""

from pathlib import Path

import numpy as np
import pytest

from tests.support.cuda_shim import Shim, compiler, device

pytestmark = pytest.mark.skipif(compiler() is None, reason="g++ is not installed: CUDA kernels cannot run on the CPU")

KERNELS = {
    "reverse": "__shared__ float s[64]; s[threadIdx.x] = x[threadIdx.x]; __syncthreads();"
    "x[threadIdx.x] = s[63 - threadIdx.x];",
    "no_barrier": "__shared__ float s[64]; s[threadIdx.x] = x[threadIdx.x]; x[threadIdx.x] = s[63 - threadIdx.x];",
    "divergent": "if (threadIdx.x < 32) __syncthreads();",
    "elsewhere": "if (threadIdx.x < 32)\n__syncthreads();\nelse\n__syncthreads();",
    "half_warp": "if (threadIdx.x % 32 < 16) x[threadIdx.x] = __shfl_xor_sync(0xffffffffu, x[threadIdx.x], 1);",
    "neighbours": "x[threadIdx.x] = __shfl_xor_sync(0xffffffffu, x[threadIdx.x], 1);",
    "beyond": "x[threadIdx.x + 1] = 0;",
    "before": "x[0] = x[int(threadIdx.x) - 2000];",
    "beyond_shared": "__shared__ float s[8]; s[8] = 1;",
    "beyond_dynamic": "extern __shared__ float s[]; s[threadIdx.x] = 1;",
    "too_much": "__shared__ float s[13000]; s[threadIdx.x] = 1;",
}
TEXT = "\n".join(f"__global__ void {name}(float* x) {{ {body} }}" for name, body in KERNELS.items())


@pytest.fixture(scope="module")
def shim(pytestconfig: pytest.Config) -> Shim:
    made = Shim(Path(pytestconfig.cache.mkdir("cuda_shim")))
    made.add({"samples.cu": (TEXT, list(KERNELS))})
    return made


def run(shim: Shim, kernel: str, shared_bytes: int = 0) -> np.ndarray:
    x = device(np.arange(64, dtype=np.float32))
    shim(kernel, (2, 1, 1), (64, 1, 1), shared_bytes, (x,))
    return x


def test_threads_share_memory_and_wait(shim: Shim) -> None:
    assert np.array_equal(run(shim, "reverse"), np.arange(64))  # twice reversed: two blocks
    assert np.array_equal(run(shim, "neighbours"), np.arange(64))
    run(shim, "beyond_dynamic", shared_bytes=256)


def test_shared_memory_read_before_it_is_written_is_nan(shim: Shim) -> None:
    assert np.isnan(run(shim, "no_barrier")).any()


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        ("divergent", "returned while others wait at __syncthreads"),
        ("elsewhere", "at the __syncthreads of line [0-9]+, others at that of"),
        ("half_warp", "not at a shuffle where its warp is"),
        ("beyond", r"beyond: block \(0, 0, 0\), thread 63: illegal memory access"),
        ("before", "illegal memory access"),
        ("beyond_shared", "shared memory written 0 bytes behind an array's end"),
        ("beyond_dynamic", "shared memory written"),
        ("too_much", "52000 bytes of static shared memory"),
    ],
)
def test_errors(shim: Shim, kernel: str, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        run(shim, kernel)
    run(shim, "reverse")  # and the next kernel runs


def test_arguments_and_sizes_are_checked(shim: Shim) -> None:
    x = device(np.zeros(64, dtype=np.float32))
    for args, message in [
        ((x, np.int32(1)), "2 arguments given, 1 wanted"),
        ((x.astype(np.uint16),), "argument 0 is p16, p32 is wanted"),
        ((np.float32(1),), "argument 0 is f32, p32 is wanted"),
    ]:
        with pytest.raises(RuntimeError, match=message):
            shim("reverse", (1, 1, 1), (64, 1, 1), 0, args)
    with pytest.raises(TypeError, match="valid are arrays and NumPy scalars"):
        shim("reverse", (1, 1, 1), (64, 1, 1), 0, (1.0,))
    for grid, block in [((1, 65536, 1), (64, 1, 1)), ((1, 1, 1), (48, 1, 1)), ((0, 1, 1), (64, 1, 1))]:
        with pytest.raises(RuntimeError, match=r"a (grid|block) of \("):
            shim("reverse", grid, block, 0, (x,))
