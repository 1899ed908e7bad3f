"""The CUDA kernels, run on the CPU by a shim, against float64 `Ops`.

Arrays lie between forbidden pages, shared and scratch memory start as NaN, and every case is run twice, with the order
of threads and blocks reversed: a stray access, a value never written or a race does not pass.
"""

from collections.abc import Callable

import numpy as np
import pytest

from tests.support.cuda_cases import (
    EPSILON,
    OTHERS,
    PARAMETERS,
    SUMS,
    SUMS_OF_IMAGES,
    Attention,
    Call,
    Devices,
    assert_close,
    calls_of,
    fused,
    in_type,
    narrow,
    widen,
)
from tests.support.cuda_shim import compiler, device, scratch
from tests.support.operations import CASES, Draw, Maker
from vit.backend import Ops
from vit.backend.cuda.attention import fits
from vit.backend.cuda.kernels import CudaKernels

pytestmark = pytest.mark.skipif(compiler() is None, reason="g++ is not installed: CUDA kernels cannot run on the CPU")

ATTENTIONS = [
    Attention(runs, size, prefix, kind, own, biased)
    for kind in ("float32", "bf16")
    for runs, size, prefix, own, biased in [
        (1, (2, 17, 3, 16), None, "", ""),
        (3, (1, 65, 2, 24), 1, "run head", ""),
        (1, (5, 4, 1, 40), 0, "", ""),
        (2, (2, 16, 2, 32), 0, "head", ""),
        (1, (1, 130, 1, 48), None, "", ""),
        (1, (1, 256, 1, 64), 0, "", ""),
        (2, (1, 18, 2, 16), 2, "run", ""),
        (1, (3, 17, 3, 16), None, "", "run"),
        (2, (5, 6, 2, 40), 1, "run head", "all"),
        (3, (4, 34, 1, 24), 0, "", "run"),
        (2, (2, 65, 2, 32), None, "", "run"),
        (1, (1, 146, 1, 64), 2, "", "run"),
    ]
]
TYPES = {"float32": ("float32", "float32"), "mixed": ("float32", "bf16"), "bf16": ("bf16", "bf16")}
"""Of the residual stream and of the activations."""

ROUNDED_BEFORE = {
    "residual_layer_norm": ("stream", "out", "mean", "rstd"),  # the stream, before its statistics are taken
    "qkv_bias_turn_backward": ("dbias",),  # the gradients of queries and keys, before they are added
}
"""What is computed from arrays that have been rounded to the type of activations, by method."""


def all_calls() -> dict[tuple[str, str, int], list[Call]]:
    """By case, types and runs. Types are "mixed" only where there is a residual stream."""
    return {
        (make.__name__, types, runs): [*calls_of(method, make, runs, *TYPES[types])]
        for method, make in fused()
        for types in TYPES
        if types != "mixed" or "layer_norm" in method
        for runs in (1, 3)
    }


CALLS = all_calls()
MAKERS: dict[str, Maker] = {make.__name__: make for _, make in CASES}


@pytest.fixture(scope="module")
def devices(pytestconfig: pytest.Config) -> Devices:
    runs = [*(call.run for calls in CALLS.values() for call in calls), *(a.run for a in ATTENTIONS)]
    return Devices.of(pytestconfig, runs)


class TestOps:
    def test_every_operation_has_a_kernel(self) -> None:
        for method in {method for method, _ in CASES} - OTHERS:
            assert callable(getattr(CudaKernels, method))

    @pytest.mark.parametrize(("case", "types", "runs"), list(CALLS))
    def test_equals_the_reference(self, devices: Devices, case: str, types: str, runs: int) -> None:
        for call in CALLS[case, types, runs]:
            got, reversed_order = (call.run(kernels) for kernels in devices)
            rounded = call.rounded()
            for name, array in got.items():
                assert np.array_equal(array.view(np.uint8), reversed_order[name].view(np.uint8)), f"{name}: a race"
                if name not in call.case.written:
                    assert np.array_equal(widen(array), rounded.arrays[name], equal_nan=True), f"{name}: written"
            expected = call.expected()
            # rounding, where a layer norm divides by little
            amplified = expected.get("rstd", rounded.arrays.get("rstd", np.ones(1))).max()
            for name in call.case.written:
                rounds = types == "bf16" and name in ROUNDED_BEFORE.get(call.method, ())
                slack = 2 * EPSILON["uint16"] if rounds else SUMS
                assert_close(got[name], expected[name], name, slack, amplified)


class TestAttention:
    @pytest.mark.parametrize(
        "case", ATTENTIONS, ids=lambda a: f"{a.kind}-{a.runs}x{a.size}-{a.prefix} {a.own}-{a.biased}"
    )
    def test_equals_the_reference(self, devices: Devices, case: Attention) -> None:
        got, reversed_order = (case.run(kernels) for kernels in devices)
        for name, expected in case.expected().items():
            assert np.array_equal(got[name].view(np.uint8), reversed_order[name].view(np.uint8)), f"{name}: a race"
            # bf16 rounds probabilities and gradients of scores (half a unit each) before they are factors, sums of
            # which err by less than the largest of their terms; float32 adds up to 256 products
            factors = 2 * EPSILON["uint16"] if case.kind == "bf16" else 2 * SUMS
            if case.kind == "bf16" and name == "logsumexp":  # a few of the operands are rounded the other way
                factors /= 8
            assert_close(got[name], expected, name, factors, scale=0.0)
            error = widen(got[name]) - expected
            assert np.sqrt((error**2).mean() / (expected**2).mean()) < factors

    def test_large_scores_neither_overflow_nor_vanish(self, devices: Devices) -> None:
        for kind in ("float32", "bf16"):
            case = Attention(1, (1, 80, 1, 16), None, kind)
            case.qkv *= 32  # exactly
            got, expected = case.run(devices.forwards), case.expected()
            assert np.abs(expected["logsumexp"]).max() > 1000
            error = 16 * EPSILON["float32"] * np.abs(expected["logsumexp"]).max()  # of a score, so of a probability
            for name in ("out", "logsumexp"):
                assert_close(got[name], expected[name], name, error + (EPSILON["uint16"] if kind == "bf16" else 0))
            assert all(np.isfinite(widen(array)).all() for array in got.values())

    def test_what_does_not_fit_is_refused(self, devices: Devices) -> None:
        for size in [(1, 257, 1, 16), (1, 16, 1, 20), (1, 16, 1, 72), (1, 16, 1, 8)]:
            assert not fits(size[1], size[3])
            with pytest.raises(ValueError, match="at most 256 tokens and a head width of 16, 24"):
                Attention(1, size, None, "bf16").run(devices.forwards)


class TestManyParts:
    def test_sums_over_many_images_are_complete(self, devices: Devices) -> None:
        """More parts than one round of the second stage adds up."""
        x = np.random.default_rng(4).normal(size=(2, 40, 33, 16)).astype(np.float32)
        for kernels in devices:
            many = CudaKernels(kernels.launch, scratch, multiprocessors=132)
            tokens, images = device(np.empty((2, 16), np.float32)), device(np.empty((2, 33, 16), np.float32))
            many.sum_tokens(device(x), tokens)
            many.sum_images(device(x), images)
            assert_close(tokens, x.sum(axis=(1, 2), dtype=float), "tokens")
            assert_close(images, x.sum(axis=1, dtype=float), "images")
        case = Attention(1, (40, 3, 1, 16), None, "float32")
        assert_close(case.run(devices.forwards)["dbias"], case.expected()["dbias"], "dbias")


class TestNarrowCopy:
    def test_layer_norm_backward_also_writes_its_gradient_in_bf16(self, devices: Devices) -> None:
        make = MAKERS["residual_layer_norm_backward"]
        call = next(calls_of("residual_layer_norm_backward", make, 2, *TYPES["mixed"]))
        copy = device(np.full(call.case.arrays["dout"].shape, 0xFFFF, dtype=np.uint16))
        call.case.other = {**call.case.other, "dbranch": copy}
        got = call.run(devices.forwards)
        assert np.array_equal(copy, narrow(got["dstream"]))

    def test_cast_rounds_to_even(self, devices: Devices) -> None:
        x = np.random.default_rng(3).normal(size=(3, 40)).astype(np.float32)
        x[0, :4] = [1 + 2.0**-8, 1 + 3 * 2.0**-8, np.inf, -0.0]
        out, back = device(np.empty(x.shape, dtype=np.uint16)), device(np.empty_like(x))
        devices.forwards.cast(device(x), out)
        assert np.array_equal(out, narrow(x))
        devices.forwards.cast(out, back)
        assert np.array_equal(back, widen(out))


class TestViews:
    """Arrays that are parts of others."""

    @pytest.mark.parametrize("kind", ["float32", "uint16"])
    def test_tokens_are_copied_between_parts_of_images(self, devices: Devices, kind: str) -> None:
        tokens = np.arange(2 * 3 * 5 * 8).reshape(2, 3, 5, 8).astype(kind)
        for prefix in (1, 2):
            whole, part = device(np.zeros_like(tokens)), device(tokens[:, :, prefix:])
            devices.forwards.copy_tokens(part, whole[:, :, prefix:])
            assert np.array_equal(whole[:, :, prefix:], part)
            assert not whole[:, :, :prefix].any()
            devices.forwards.copy_tokens(device(tokens[:, :1, :prefix]), whole[:, :, :prefix])
            assert np.array_equal(whole[:, :, :prefix], np.broadcast_to(tokens[:, :1, :prefix], (2, 3, prefix, 8)))

    def test_patches_of_float_images_are_those_of_ops(self, devices: Devices) -> None:
        images = np.random.default_rng(1).normal(size=(2, 5, 6, 6, 3)).astype(np.float32)
        for patch in (1, 2, 3):
            shape = (2, 5, (6 // patch) ** 2, 3 * patch * patch)
            expected = Ops(np, "float32").patchify(images, patch, np.empty(shape, dtype=np.float32))
            for kind in (np.float32, np.uint16):
                out = device(np.empty(shape, dtype=kind))
                devices.forwards.patchify(device(images), patch, out)
                assert np.array_equal(out, expected if kind is np.float32 else narrow(expected))

    def test_arrays_that_do_not_fit_are_refused_before_a_launch(self, devices: Devices) -> None:
        kernels = devices.forwards
        x, bias = device(np.zeros((2, 3, 4, 8), np.float32)), device(np.zeros((2, 8), np.float32))
        refused: list[tuple[type[Exception], str, Callable[[], object]]] = [
            (ValueError, r"bias must have the shape \(2, 8\), got \(2, 7\)", lambda: kernels.add_bias(x, bias[:, :7])),
            (ValueError, "x must be contiguous, got strides", lambda: kernels.add_bias(x[:, :, ::2], bias)),
            (
                TypeError,
                "table must have the type float, got uint16",
                lambda: kernels.add_bias(x, device(narrow(bias))),
            ),
            (TypeError, "got float64", lambda: kernels.add_bias(x.astype(float), bias)),
        ]
        for error, message, call in refused:
            with pytest.raises(error, match=message):
                call()

    def test_encodings_that_do_not_fit_are_refused_before_a_launch(self, devices: Devices) -> None:
        kernels = devices.forwards
        qkv, bias = np.zeros((2, 3, 5, 3, 2, 16), np.float32), np.zeros((2, 96), np.float32)
        cos, matrices = np.ones((2, 2, 4, 8), np.float32), np.zeros((2, 2, 4, 4, 4, 4), np.float32)
        scores, stream = np.zeros((2, 3, 2, 5, 5), np.float32), np.zeros((2, 3, 6, 8), np.float32)
        weight, out, lse = np.zeros((2, 8, 1, 3, 3), "f4"), np.zeros((2, 3, 5, 32), "f4"), np.zeros((2, 3, 2, 5), "f4")
        strided = np.ones((2, 3, 2, 4, 8), np.float32)[:, 1]
        wide = np.zeros((2, 3, 5, 3, 1, 256), np.float32)
        sums = {"dqkv": qkv, "dbias": bias, "dscore_bias": scores[:, 0]}
        large = np.zeros((2, 1, 5, 1, 256, 256), np.float32)
        attention = (qkv, bias, 1.0, None, None, 1)

        def rotate(cos: np.ndarray, sin: np.ndarray) -> None:
            kernels.qkv_bias_rotate(qkv, bias, 1.0, cos, sin, 1)

        refused: list[tuple[str, Callable[[], object]]] = [
            ("cos must be of 1 or 2 runs", lambda: rotate(cos[:, :0], cos)),
            ("cos and sin must have the same strides", lambda: rotate(cos, strided)),
            ("cos must be contiguous", lambda: rotate(cos[..., ::-1], cos[..., ::-1])),
            ("sin must have the shape", lambda: rotate(cos, cos[:1])),
            (
                r"score_bias must have the shape \(2, 2, 5, 5\)",
                lambda: kernels.attention(*attention, scores[:, 0, :, :4], out=out, logsumexp=lse),
            ),
            (
                "score_bias must be given with dscore_bias",
                lambda: kernels.attention_backward(out, *attention, None, out, lse, **sums),
            ),
            ("patches must form a square, got 5", lambda: kernels.add_relative_scores(scores, scores, 0)),
            (
                "patches must form a square, got 6",
                lambda: kernels.add_depthwise_conv(stream, weight, weight[..., 0, 0, 0], 0, stream.copy()),
            ),
            ("must be of 1 or 2 heads", lambda: kernels.qkv_bias_turn(qkv, bias, 1.0, matrices[:, :, :, :3], 1)),
            ("in groups of up to 128", lambda: kernels.qkv_bias_turn(wide, wide[:, 0, 0], 1.0, large, 0)),
        ]
        for message, call in refused:
            with pytest.raises(ValueError, match=message):
                call()

    def test_gaps_between_runs_are_refused_where_a_kernel_would_not_skip_them(self, devices: Devices) -> None:
        """Every array but parameters and their gradients: a part of a larger one begins right and goes on wrong."""
        refused = 0
        for method, make in fused():
            if method == "copy_tokens":  # which takes any strides
                continue
            call = next(calls_of(method, make, 2, *TYPES["float32"]))
            for name in call.case.arrays.keys() - PARAMETERS:
                arrays = {n: device(in_type(a, call.kinds[n])) for n, a in call.case.arrays.items()}
                whole = arrays[name]
                if len(whole) != 2 or (method in SUMS_OF_IMAGES and name == "out"):
                    continue
                arrays[name] = np.concatenate([whole, whole], axis=1)[:, : whole.shape[1]]
                with pytest.raises(ValueError, match="must be contiguous"):
                    getattr(devices.forwards, method)(**arrays, **call.case.other)
                refused += 1
        assert refused > 40

    def test_patches_of_a_part_of_the_images_are_refused(self, devices: Devices) -> None:
        images = device(np.zeros((2, 5, 6, 6, 3), dtype=np.float32))
        with pytest.raises(ValueError, match="images must be contiguous, got strides"):
            devices.forwards.patchify(images[:, :3], 3, device(np.empty((2, 3, 4, 27), dtype=np.float32)))

    def test_wide_rows_are_refused(self, devices: Devices) -> None:
        make = MAKERS["layer_norm"]
        call = Call("residual_layer_norm", make(Draw(1, 0), 1, 1, 1025), {})
        call.kinds = dict.fromkeys(call.case.arrays, "float32")
        with pytest.raises(ValueError, match="width must be at most 1024 with CUDA kernels, got 1025"):
            call.run(devices.forwards)
