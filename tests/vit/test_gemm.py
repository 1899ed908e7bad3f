"""The own matrix product against NumPy's, on every path: edges of tiles, panels and depth, all layouts, both types."""

import itertools

import numpy as np
import pytest

from vit.backend import gemm as module
from vit.backend.gemm import DEPTH, LINE, ROWS, buffer_bytes, gemm

SIZES = [
    (1, 1, 1),
    (ROWS, LINE // 4, 1),
    (ROWS + 1, LINE // 4 + 1, 3),
    (2 * ROWS + 13, 3 * LINE // 4 - 1, DEPTH),
    (3 * ROWS - 1, 5, DEPTH + 1),
    (8, LINE // 8, 2 * DEPTH + 7),
    (65, 33, 3 * DEPTH),
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("trans_a", "trans_b"), list(itertools.product([False, True], repeat=2)))
@pytest.mark.parametrize(("m", "n", "k"), SIZES)
def test_products(m: int, n: int, k: int, trans_a: bool, trans_b: bool, dtype: str) -> None:
    """Operands and result are parts of larger arrays: what lies around the result must stay."""
    rng = np.random.default_rng((m, n, k))
    a = rng.standard_normal((k, m + 2) if trans_a else (m, k + 2)).astype(dtype)
    b = rng.standard_normal((n, k + 3) if trans_b else (k, n + 3)).astype(dtype)
    op_a = a.T[:m] if trans_a else a[:, :k]
    op_b = b.T[:k] if trans_b else b[:, :n]
    around = np.full((m + 1, n + 5), np.nan, dtype=dtype)
    size = around.itemsize
    buffer = np.full(buffer_bytes(m, size), 255, dtype=np.uint8)
    strides_a, strides_b = ([stride // size for stride in x.strides] for x in (op_a, op_b))
    gemm(
        op_a.ctypes.data,
        *strides_a,
        op_b.ctypes.data,
        *strides_b,
        around.ctypes.data,
        n + 5,
        m,
        n,
        k,
        buffer.ctypes.data,
        size,
        around.dtype.type(1),
    )
    exact = op_a.astype("float64") @ op_b.astype("float64")
    tolerance = 4 * np.finfo(dtype).eps * np.sqrt(k) * np.abs(op_a).max() * np.abs(op_b).max()
    assert np.abs(around[:m, :n] - exact).max() <= tolerance
    assert np.isnan(around[m]).all()
    assert np.isnan(around[:, n:]).all()


def test_nan_and_infinity_pass_through() -> None:
    a, b = np.ones((16, 8)), np.ones((8, 32))
    a[3, 2], a[5, 0] = np.nan, np.inf
    out, buffer = np.empty((16, 32)), np.empty(buffer_bytes(16, 8), dtype=np.uint8)
    addresses = [x.ctypes.data for x in (a, b, out, buffer)]
    gemm(addresses[0], 8, 1, addresses[1], 32, 1, addresses[2], 32, 16, 32, 8, addresses[3], 8, 1.0)
    assert np.isnan(out[3]).all()
    assert np.isposinf(out[5]).all()
    assert (np.delete(out, [3, 5], axis=0) == 8).all()


def test_the_choice_between_the_two_depends_on_nothing_but_sizes_and_the_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_VECTOR", 64)
    monkeypatch.setattr(module, "_BLAS_IS_WIDE", True)
    monkeypatch.setattr(module, "_IS_ZEN", False)
    assert module.is_faster(1024, 64, 256, False, True)
    assert module.is_faster(64, 256, 1024, True, False)
    assert not module.is_faster(1024, 64, 768, False, True)
    assert not module.is_faster(64, 64, 32, False, True)
    monkeypatch.setattr(module, "_IS_ZEN", True)
    assert module.is_faster(1024, 64, 768, False, True)
    assert module.is_faster(64, 64, 32, False, True)
    assert not module.is_faster(64, 64, 32, False, False)
    assert not module.is_faster(16, 16, 32, False, True)
    monkeypatch.setattr(module, "_BLAS_IS_WIDE", False)
    assert module.is_faster(1024, 64, 768, False, True)
    assert module.is_faster(16, 16, 32, False, False)
    assert not module.is_faster(4, 4, 32, False, False)
    monkeypatch.setattr(module, "_VECTOR", 32)
    assert not module.is_faster(1024, 64, 256, False, True)


@pytest.mark.parametrize(
    ("libraries", "wide"),
    [
        ([{"internal_api": "openblas", "architecture": "Haswell"}], False),
        ([{"internal_api": "openblas", "architecture": "SkylakeX"}], True),
        ([{"internal_api": "openblas", "architecture": "Zen"}, {"internal_api": "openmp"}], False),
        ([{"internal_api": "mkl"}], True),
        ([], True),
    ],
)
def test_the_kernels_of_openblas_are_asked_for_by_name(
    monkeypatch: pytest.MonkeyPatch, libraries: list[dict[str, str]], wide: bool
) -> None:
    monkeypatch.setattr(module, "threadpool_info", lambda: libraries)
    assert module._blas_uses_the_widest_vectors() is wide
