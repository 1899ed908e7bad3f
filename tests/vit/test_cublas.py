"""Matrix products by cuBLAS: what is called with what, against NumPy, through a library of the same C signatures."""

import ctypes
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from tests.support.fake_cublas import bf16, library, widened
from vit.backend.cuda.cublas import WORKSPACE_BYTES, Cublas, CublasError, plan

RNG = np.random.default_rng(5)
WORKSPACE = np.zeros(16, dtype=np.uint8)


@pytest.fixture(params=["float32", "tf32", "bf16"])
def cublas(request: pytest.FixtureRequest) -> Iterator[Cublas]:
    handle = Cublas(library(), 1, WORKSPACE.ctypes.data, WORKSPACE_BYTES, request.param)
    yield handle
    handle.close()


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def blank(*shape: int) -> np.ndarray:
    return np.full(shape, np.nan, dtype=np.float32)


def linear_forward() -> tuple[np.ndarray, ...]:
    """x W^T with the weights of each run somewhere in a row of all its parameters."""
    flat = normal(3, 7 * 5 + 64)
    return normal(3, 11, 5), flat[:, 64:].reshape(3, 7, 5).swapaxes(-1, -2), blank(3, 11, 7)


def weight_gradient() -> tuple[np.ndarray, ...]:
    """dy^T x, into a row of all gradients."""
    return normal(3, 11, 7).swapaxes(-1, -2), normal(3, 11, 5), blank(3, 128)[:, 64:99].reshape(3, 7, 5)


def one_run() -> tuple[np.ndarray, ...]:
    return normal(1, 11, 5), normal(1, 7, 5).swapaxes(-1, -2), blank(1, 11, 7)


def scores() -> tuple[np.ndarray, ...]:
    """q k^T of every head, q and k being parts of one array (R, B, T, 3, H, K)."""
    q, k, _ = (normal(2, 3, 5, 3, 2, 4)[:, :, :, i].swapaxes(2, 3) for i in range(3))
    return q, k.swapaxes(-1, -2), blank(2, 3, 2, 5, 5)


def mixed() -> tuple[np.ndarray, ...]:
    """p v into the heads' places in (R, B, T, H K)."""
    v = normal(2, 3, 5, 3, 2, 4)[:, :, :, 2].swapaxes(2, 3)
    return normal(2, 3, 2, 5, 5), v, blank(2, 3, 5, 2, 4).swapaxes(2, 3)


def head_gradient() -> tuple[np.ndarray, ...]:
    """ds^T q into the keys' places in (R, B, T, 3, H, K)."""
    q = normal(2, 3, 5, 3, 2, 4)[:, :, :, 0].swapaxes(2, 3)
    return normal(2, 3, 2, 5, 5).swapaxes(-1, -2), q, blank(2, 3, 5, 3, 2, 4)[:, :, :, 1].swapaxes(2, 3)


def shared_by_all() -> tuple[np.ndarray, ...]:
    """One matrix for every run."""
    return normal(3, 4, 5), normal(1, 5, 6), blank(3, 4, 6)


def single_elements() -> tuple[np.ndarray, ...]:
    """Sizes of 1, whose strides say nothing."""
    return normal(2, 1, 5)[:, :, ::1], normal(2, 1, 5).swapaxes(-1, -2), blank(2, 1, 1)


CASES = [linear_forward, weight_gradient, one_run, scores, mixed, head_gradient, shared_by_all, single_elements]


@pytest.mark.parametrize("wide", [False, True], ids=["same type", "float32 result"])
@pytest.mark.parametrize("make", CASES, ids=lambda make: make.__name__)
def test_against_numpy(cublas: Cublas, make: Callable[[], tuple[np.ndarray, ...]], wide: bool) -> None:
    a, b, out = make()
    if cublas._compute == 68 and wide:  # bf16 operands; the float32 ones are of the other parameter
        a, b = _as_bf16(a), _as_bf16(b)
    around = out.base.copy() if out.base is not None else None
    cublas.matmul(a, b, out)
    expected = widened(a).astype(np.float64) @ widened(b).astype(np.float64)
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)
    if around is not None and out.size < out.base.size:
        assert np.isnan(out.base).sum() == out.base.size - out.size, "wrote beside the out array"


def test_rounds_a_bf16_result(cublas: Cublas) -> None:
    a, b, _ = linear_forward()
    out = np.zeros((3, 11, 7), dtype=np.uint16)
    a, b = _as_bf16(a), _as_bf16(b)
    if cublas._compute == 77:
        with pytest.raises(CublasError, match="another status"):
            cublas.matmul(a, b, out)
        return
    cublas.matmul(a, b, out)
    exact = (widened(a).astype(np.float64) @ widened(b).astype(np.float64)).astype(np.float32)
    assert np.abs(widened(out) - exact).max() <= 2.0**-8 * np.abs(exact).max()
    assert (out == bf16(exact)).mean() > 0.99  # up to the rounding of sums that lie between two numbers


def _as_bf16(view: np.ndarray) -> np.ndarray:
    """bf16 of a view with the strides that it has, in elements."""
    base = view
    while base.base is not None:
        base = base.base
    narrow = bf16(base)
    offset = (view.ctypes.data - base.ctypes.data) // 2
    strides = [stride // 2 for stride in view.strides]
    return np.ndarray(view.shape, np.uint16, narrow, offset, strides)


def test_the_distance_of_a_single_row_means_nothing(cublas: Cublas) -> None:
    """CuPy gives an axis of length 1 any stride."""
    a, b, out = normal(2, 1, 5), normal(2, 5, 3), blank(2, 1, 3)
    far = np.lib.stride_tricks.as_strided(a, strides=(20, 1 << 40, 4))
    cublas.matmul(far, b, np.lib.stride_tricks.as_strided(out, strides=(12, 1 << 40, 4)))
    np.testing.assert_allclose(out, a @ b, rtol=1e-5, atol=1e-6)


class TestCalls:
    def count(self, make: Callable[[], tuple[np.ndarray, ...]]) -> list[int]:
        return [gemm.batch for gemm in plan(*make())]

    def test_a_linear_layer_is_one_call_over_all_runs(self) -> None:
        assert self.count(linear_forward) == [3]
        assert self.count(weight_gradient) == [3]
        assert self.count(shared_by_all) == [3]

    def test_one_run_is_one_plain_call(self) -> None:
        assert self.count(one_run) == [1]
        batched = library().fake_batched_calls()
        cublas = Cublas(library(), 1, WORKSPACE.ctypes.data, WORKSPACE_BYTES, "float32")
        cublas.matmul(*one_run())
        assert library().fake_batched_calls() == batched
        cublas.close()

    def test_heads_are_a_call_each_over_all_images_of_all_runs(self) -> None:
        assert self.count(scores) == [6, 6]
        assert self.count(mixed) == [6, 6]


class TestRefusals:
    def test_shapes_that_do_not_fit(self) -> None:
        with pytest.raises(ValueError, match="shapes of matmul must match"):
            list(plan(normal(2, 3, 4), normal(2, 5, 6), blank(2, 3, 6)))
        with pytest.raises(ValueError, match="axes before the last two must be"):
            list(plan(normal(2, 3, 4), normal(3, 4, 6), blank(2, 3, 6)))

    def test_views_that_would_need_a_copy(self) -> None:
        with pytest.raises(ValueError, match="must be contiguous"):
            list(plan(normal(2, 3, 8)[:, :, ::2], normal(2, 4, 6), blank(2, 3, 6)))
        with pytest.raises(ValueError, match="rows of an out array"):
            list(plan(normal(2, 3, 4), normal(2, 4, 6), blank(2, 6, 3).swapaxes(-1, -2)))

    def test_mixed_operands(self, cublas: Cublas) -> None:
        with pytest.raises(TypeError, match="operands of one type"):
            cublas.matmul(normal(2, 3, 4), bf16(normal(2, 4, 6)), blank(2, 3, 6))

    def test_what_the_library_refuses_is_told(self) -> None:
        cublas = Cublas(library(), 1, WORKSPACE.ctypes.data, 0, "float32")
        with pytest.raises(CublasError, match="cublasGemmEx failed with status 1, another status"):
            cublas.matmul(*one_run())
        cublas.close()


def test_long_sums_are_not_made_in_bf16() -> None:
    """The library may, unless it is told; the fake one then refuses."""
    handle = Cublas(library(), 1, WORKSPACE.ctypes.data, WORKSPACE_BYTES, "bf16")
    handle._call("cublasSetMathMode", handle._handle, 0)
    with pytest.raises(CublasError, match="another status"):
        handle.matmul(*one_run())
    handle.close()


def test_the_fake_library_refuses_a_leading_dimension_that_is_too_small() -> None:
    one = ctypes.c_float(1)
    handle = Cublas(library(), 1, WORKSPACE.ctypes.data, WORKSPACE_BYTES, "float32")
    x = normal(4, 4)
    arguments = [0, 0, 4, 4, 4, ctypes.byref(one), x.ctypes.data, 0, 3, x.ctypes.data, 0, 4, ctypes.byref(one)]
    assert library().cublasGemmEx(handle._handle, *arguments, x.ctypes.data, 0, 4, 68, -1) == 7
    handle.close()
