"""The CPU backend's fused operations against the readable reference, and against exact functions."""

import inspect

import numpy as np
import pytest
from scipy.special import log_softmax, ndtr
from scipy.special import softmax as exact_softmax

from tests.support.operations import CASES, NAMES, Case, Draw, Maker, cases_of, residual_layer_norm
from tests.support.small import BOTH, batch, config, distance, scrambled
from vit.backend import Ops, get_ops
from vit.backend.numpy_ops import INSTRUCTIONS, OUTSIDE_PROGRAMS, NumpyOps
from vit.engine import AdamWConfig, Engine
from vit.model import one_hot

REFERENCE = Ops(np, "float64")
FAST = {dtype: get_ops("numpy", dtype) for dtype in ("float32", "float64")}
EPSILON = float(np.finfo(np.float32).eps)
WIDTHS = (1, 3, 17, 63, 65)

every_case = pytest.mark.parametrize(("method", "make"), CASES, ids=NAMES)
both_types = pytest.mark.parametrize("dtype", ["float32", "float64"])
one_and_three_runs = pytest.mark.parametrize("runs", [1, 3])


class TestOverrides:
    def test_each_has_a_case(self) -> None:
        assert {*INSTRUCTIONS, *OUTSIDE_PROGRAMS} == {method for method, _ in CASES}

    @pytest.mark.parametrize("method", sorted({method for method, _ in CASES}))
    def test_signatures_are_those_of_the_reference(self, method: str) -> None:
        own, reference = (inspect.signature(getattr(cls, method)).parameters for cls in (NumpyOps, Ops))
        for signature in (own, reference):
            assert all(
                parameter.annotation is not inspect.Parameter.empty for parameter in list(signature.values())[1:]
            )
        assert [(p.name, p.kind, p.default) for p in own.values()] == [
            (p.name, p.kind, p.default) for p in reference.values()
        ]

    @every_case
    @both_types
    @one_and_three_runs
    def test_equals_the_reference(self, method: str, make: Maker, runs: int, dtype: str) -> None:
        tolerance = 1e-12 if dtype == "float64" else TOLERANCES.get(method, 8) * EPSILON
        for case in cases_of(method, make, runs):
            exact = case.rounded(dtype)
            actual = exact.run(FAST[dtype], method).written(case)
            outcome = exact.run(REFERENCE, method)
            expected = outcome.written(case)
            assert actual.keys() == expected.keys()
            assert actual
            amplified = outcome.arrays.get("rstd", np.ones(1)).max()  # rounding, where a layer norm divides by little
            for name, value in expected.items():
                assert actual[name].dtype == ("float64" if method == "sum_of_squares" else dtype)
                error = np.abs(actual[name] - value).max() / max(amplified, np.abs(value).max())
                assert error < tolerance, name

    @every_case
    @both_types
    def test_writes_what_it_may_and_nothing_else(self, method: str, make: Maker, dtype: str) -> None:
        for case in cases_of(method, make, 2):
            for ops in (FAST[dtype], Ops(np, dtype)):
                before, after = case.cast(ops), case.run(ops, method).arrays
                for name in before.keys() - case.written:
                    assert np.array_equal(after[name], before[name]), name

    @pytest.mark.parametrize(
        ("method", "returned"),
        [
            ("matmul", "out"),
            ("add_bias", "x"),
            ("sum_tokens", "out"),
            ("bias_gelu_backward", "dy"),
            ("softmax", "x"),
            ("softmax_backward", "dy"),
        ],
    )
    def test_returns_the_array_it_wrote(self, method: str, returned: str) -> None:
        (case,) = [cases_of(name, make, 1)[1] for name, make in CASES if name == method][:1]
        for ops in (FAST["float64"], REFERENCE):
            outcome = case.run(ops, method)
            assert outcome.result is outcome.arrays[returned]


TOLERANCES = {"sum_tokens": 16, "adamw": 300}
"""Units of the last place, where a sum is long; AdamW's 1 - 0.999 loses digits in float32."""


class TestProducts:
    @both_types
    @pytest.mark.parametrize("trans_a", [False, True])
    @pytest.mark.parametrize("trans_b", [False, True])
    def test_on_the_views_of_attention(self, trans_a: bool, trans_b: bool, dtype: str) -> None:
        """Heads (R, B, H, T, K) cut from a projection (R, B, T, 3, H, K), with and without `out`."""
        ops, rng = FAST[dtype], np.random.default_rng(0)
        q, k = (rng.normal(size=(2, 3, 5, 3, 2, 5)).astype(dtype)[:, :, :, i].swapaxes(2, 3) for i in (0, 1))
        indices = ("ji" if trans_a else "ij") + "," + ("kj" if trans_b else "jk")
        left, right = indices.split(",")
        expected = np.einsum(f"rbh{left},rbh{right}->rbhik", q.astype("f8"), k.astype("f8"))
        out = np.full((2, 3, 5, 2, 5), np.nan, dtype).swapaxes(2, 3)
        made = ops.matmul(q, k, trans_a=trans_a, trans_b=trans_b)
        assert ops.matmul(q, k, trans_a=trans_a, trans_b=trans_b, out=out) is out
        for actual in (made, out):
            assert actual.dtype == dtype
            assert distance(actual, expected) < (1e-13 if dtype == "float64" else 8 * EPSILON)


class TestGelu:
    def gelu(self, u: np.ndarray, ops: Ops) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Without and with the derivative, and the derivative."""
        x, zero = u.astype(ops.dtype).reshape(1, 1, -1, 1), ops.zeros((1, 1))
        plain, out, derivative = np.full_like(x, np.nan), np.full_like(x, np.nan), x.copy()
        ops.bias_gelu(x, zero, out=plain, derivative=False)
        ops.bias_gelu(derivative, zero, out=out, derivative=True)
        ops.bias_gelu(x, zero, out=x, derivative=False)  # `out` may be `x`
        assert np.array_equal(x, plain)
        return plain.ravel(), out.ravel(), derivative.ravel()

    @pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("float64", 1e-14)])
    def test_is_exact_everywhere(self, dtype: str, tolerance: float) -> None:
        """x Phi(x), and Phi(x) + x phi(x), from -12 to 12."""
        u = np.concatenate([np.linspace(-12, 12, 200_001), np.geomspace(1e-30, 1, 1000)]).astype(dtype)
        exact = u.astype(np.float64)
        density = np.exp(-exact * exact / 2) / np.sqrt(2 * np.pi)
        plain, out, derivative = self.gelu(u, FAST[dtype])
        for value in (plain, out):
            assert np.abs(value - exact * ndtr(exact)).max() < tolerance
        assert np.abs(derivative - (ndtr(exact) + exact * density)).max() < tolerance

    @both_types
    def test_far_away_it_is_a_ramp(self, dtype: str) -> None:
        u = np.array([50.0, 1e4, 1e15, -50.0, -1e4, -1e15, 0.0])
        plain, out, derivative = self.gelu(u, FAST[dtype])
        for value in (plain, out):
            np.testing.assert_allclose(value, np.maximum(u, 0), rtol=1e-6, atol=1e-15)
        np.testing.assert_allclose(derivative, [1, 1, 1, 0, 0, 0, 0.5], rtol=1e-6, atol=1e-15)


class TestSoftmax:
    @pytest.mark.parametrize("width", WIDTHS)
    @pytest.mark.parametrize("reach", [1, 30, 100])
    def test_every_probability_to_rounding(self, width: int, reach: int) -> None:
        """The exponent is rounded to float32 once, so an error grows with the distance from the largest score."""
        x = np.random.default_rng(width).uniform(-reach, reach, size=(1, 2000, width)).astype(np.float32)
        y = FAST["float32"].softmax(x.copy())
        exact = exact_softmax(x.astype(np.float64), axis=-1)
        below = x.max(axis=-1, keepdims=True) - x.astype(np.float64)
        assert (np.abs(y - exact) <= EPSILON * exact * (6 + below) + 2e-38).all()
        np.testing.assert_allclose(y.sum(axis=-1, dtype=np.float64), 1, atol=4 * EPSILON)

    def test_exp_over_its_whole_range(self) -> None:
        """exp(-d) is the ratio of two probabilities."""
        d = np.linspace(0, 80, 100_001, dtype=np.float32)
        x = np.stack([np.zeros_like(d), -d], axis=-1)[None]
        y = FAST["float32"].softmax(x)[0].astype(np.float64)
        np.testing.assert_allclose(y[:, 1] / y[:, 0], np.exp(-d.astype(np.float64)), rtol=3e-7)

    @both_types
    @pytest.mark.parametrize("width", WIDTHS)
    def test_large_scores(self, width: int, dtype: str) -> None:
        scores = 1e4 * np.random.default_rng(width).normal(size=(2, 5, width)).astype(dtype)
        y = FAST[dtype].softmax(scores.copy())
        exact = exact_softmax(scores.astype(np.float64), axis=-1)
        np.testing.assert_allclose(y, exact, atol=1e-12 if dtype == "float64" else 100 * EPSILON)

    @both_types
    def test_equal_scores_and_single_ones(self, dtype: str) -> None:
        ops = FAST[dtype]
        assert np.array_equal(ops.softmax(np.full((1, 3, 4), -1e30, dtype)), np.full((1, 3, 4), 0.25, dtype))
        assert np.array_equal(ops.softmax(np.full((2, 3, 1), 77.7, dtype)), np.ones((2, 3, 1), dtype))
        assert not ops.softmax_backward(np.ones((2, 3, 1), dtype), np.ones((2, 3, 1), dtype)).any()

    @both_types
    def test_a_masked_score_gets_nothing(self, dtype: str) -> None:
        y = FAST[dtype].softmax(np.array([[[0, -np.inf, 0, -np.inf, 0]]], dtype))
        np.testing.assert_allclose(y, [[[1 / 3, 0, 1 / 3, 0, 1 / 3]]], rtol=1e-6, atol=1e-37)


class TestLayerNorm:
    def norm(self, case: Case, dtype: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        case = case.rounded(dtype)
        return tuple(case.run(ops, "residual_layer_norm").arrays for ops in (FAST[dtype], REFERENCE))  # type: ignore

    @pytest.mark.parametrize("width", WIDTHS)
    @pytest.mark.parametrize("offset", [0.0, 30.0])
    def test_every_output_to_rounding(self, width: int, offset: float) -> None:
        """The stream is rounded to float32, and so is its distance from the mean."""
        case = residual_layer_norm(Draw(2, width), 3, 40, width)
        case.arrays["x"] += offset
        actual, exact = self.norm(case, "float32")
        spread = (np.abs(exact["stream"]) + np.abs(exact["mean"])[..., None] + 1) * exact["rstd"][..., None]
        weight, bias = (np.abs(exact[name])[:, None, None] for name in ("weight", "bias"))
        assert (np.abs(actual["out"] - exact["out"]) <= EPSILON * (4 * spread * weight + bias)).all()

    @both_types
    @pytest.mark.parametrize("width", WIDTHS)
    @pytest.mark.parametrize("value", [0.0, 3.0, -1000.0])
    def test_constant_rows_come_out_as_the_bias(self, width: int, value: float, dtype: str) -> None:
        case = residual_layer_norm(Draw(1, width), 2, 3, width)
        case.arrays["x"][...] = value
        case.arrays["branch"][...] = case.arrays["branch_bias"][...] = 0
        actual, _ = self.norm(case, dtype)
        unit = float(np.finfo(dtype).eps) * max(abs(value), 1) * 1000  # times the largest rstd
        bias, weight = actual["bias"][:, None, None], np.abs(actual["weight"]).max()
        np.testing.assert_allclose(actual["out"], np.broadcast_to(bias, actual["out"].shape), atol=8 * unit * weight)
        np.testing.assert_allclose(actual["mean"], value, rtol=1e-5)
        assert (actual["rstd"] <= 1000.1).all()
        if value == 0:
            np.testing.assert_allclose(actual["rstd"], 1000, rtol=1e-6)

    @both_types
    def test_the_stream_may_be_the_input(self, dtype: str) -> None:
        ops, case = FAST[dtype], residual_layer_norm(Draw(2, 0), 3, 4, 17)
        apart, together = case.run(ops, "residual_layer_norm").arrays, case.cast(ops)
        together["stream"] = together["x"]
        ops.residual_layer_norm(**together)
        for name in ("stream", "out", "mean", "rstd"):
            assert distance(together[name], apart[name]) < 8 * np.finfo(dtype).eps


class TestCrossEntropy:
    def losses(self, logits: np.ndarray, targets: np.ndarray, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
        losses, dlogits = np.full(logits.shape[:2], np.nan, logits.dtype), np.full_like(logits, np.nan)
        ops = FAST[str(logits.dtype)]
        ops.cross_entropy(logits, targets.astype(logits.dtype), scale, losses=losses, dlogits=dlogits)
        return losses, dlogits

    @both_types
    @pytest.mark.parametrize("width", WIDTHS)
    @pytest.mark.parametrize("reach", [1.0, 100.0, 1e4])
    def test_losses_and_gradients_to_rounding(self, width: int, reach: float, dtype: str) -> None:
        rng = np.random.default_rng(width)
        logits = rng.uniform(-reach, reach, size=(2, 300, width)).astype(dtype)
        targets = one_hot(rng.integers(width, size=(2, 300)), width, smoothing=0.1).astype(dtype)
        losses, dlogits = self.losses(logits, targets, 1 / 300)
        exact, soft = logits.astype(np.float64), targets.astype(np.float64)
        shifted = exact - exact.max(axis=-1, keepdims=True)
        expected = np.log(np.exp(shifted).sum(axis=-1)) - (soft * shifted).sum(axis=-1)
        unit = float(np.finfo(dtype).eps)
        terms = np.abs(soft * shifted).sum(axis=-1) + 1
        assert (np.abs(losses - expected) <= 6 * unit * terms).all()
        slope = (exact_softmax(exact, axis=-1) - soft) / 300
        size = (exact_softmax(exact, axis=-1) * (6 - shifted) + 4 * soft) / 300
        assert (np.abs(dlogits - slope) <= unit * size + 1e-37).all()

    @both_types
    def test_one_label(self, dtype: str) -> None:
        logits = np.array([[[1, 2, 3], [1e4, 0, -1e4], [0, 0, 0]]], dtype)
        losses, dlogits = self.losses(logits, np.eye(3)[None, [2, 2, 0]])
        np.testing.assert_allclose(losses[0], [-log_softmax([1, 2, 3])[2], 2e4, np.log(3)], rtol=1e-6)
        np.testing.assert_allclose(dlogits[0, 1:], [[1, 0, -1], [-2 / 3, 1 / 3, 1 / 3]], atol=1e-6)

    @both_types
    def test_a_single_class_costs_nothing(self, dtype: str) -> None:
        losses, dlogits = self.losses(np.full((1, 2, 1), 5.0, dtype), np.ones((1, 2, 1)))
        assert not losses.any()
        assert not dlogits.any()


class TestNotANumber:
    """What is broken must look broken: a NaN never comes out as a plausible number."""

    @both_types
    @pytest.mark.parametrize("width", WIDTHS)
    def test_cross_entropy(self, width: int, dtype: str) -> None:
        """Wherever it stands in a row, and in its own row only."""
        logits = np.random.default_rng(0).normal(size=(1, width + 1, width)).astype(dtype)
        logits[0, range(width), range(width)] = np.nan
        targets = one_hot(np.zeros((1, width + 1), int), width).astype(dtype)
        losses, dlogits = TestCrossEntropy().losses(logits, targets)
        assert np.isnan(losses[0, :-1]).all()
        assert np.isfinite(losses[0, -1])
        assert np.isfinite(dlogits[0, -1]).all()
        assert np.isnan(dlogits[0, range(width), range(width)]).all()

    @both_types
    @pytest.mark.parametrize("width", WIDTHS)
    def test_softmax(self, width: int, dtype: str) -> None:
        x = np.random.default_rng(0).normal(size=(1, width, width)).astype(dtype)
        x[0, range(width), range(width)] = np.nan
        assert np.isnan(FAST[dtype].softmax(x)).all()

    @every_case
    @both_types
    def test_where_the_reference_has_one(self, method: str, make: Maker, dtype: str) -> None:
        """One NaN in each array that is read, in turn."""
        case = cases_of(method, make, 1)[1]
        for name in case.arrays:
            if np.isnan(case.arrays[name]).any():
                continue
            broken = Case(case.copies(), case.written, case.other)
            broken.arrays[name].flat[-1] = np.nan
            actual, expected = (broken.run(ops, method).written(case) for ops in (FAST[dtype], REFERENCE))
            for key, value in expected.items():
                own, all_of_them = np.isnan(actual[key]), np.isnan(value)
                if method == "relative_scores_gradient":  # the reference adds a NaN times 0 to the other sums
                    assert own.any(), (name, key)
                    all_of_them = own & all_of_them
                assert np.array_equal(own, all_of_them), (name, key)

    @both_types
    @pytest.mark.parametrize(("position", "pool"), BOTH)
    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_a_pixel_reaches_the_loss(self, position: str, pool: str, value: float, dtype: str) -> None:
        small = config(position=position, pool=pool)
        model = scrambled(small, dtype=dtype)
        images, labels = batch(small, 3, dtype=dtype)
        images[0, 1, 5, 2, 1] = value
        with np.errstate(invalid="ignore"):
            assert np.array_equal(np.isnan(model.forward(images)).all(axis=-1), [[False, True, False]])
            assert np.isnan(model.loss_and_gradients(images, labels)).all()
        engine = Engine(model, AdamWConfig(), batch_size=3, threads=1)
        assert np.array_equal(np.isnan(engine.logits(images)).all(axis=-1), [[False, True, False]])
        assert np.isnan(engine.step(images, one_hot(labels, small.classes), 0.0)).all()


class TestRefusals:
    """An override raises on what it does not support."""

    @pytest.mark.parametrize("dtype", ["float16", "int64", "complex128"])
    def test_types(self, dtype: str) -> None:
        with pytest.raises(ValueError, match=f"float32.*float64.*got .{dtype}"):
            get_ops("numpy", dtype)

    @pytest.mark.parametrize(
        ("method", "written", "arguments"),
        [
            ("add_table", "x", {"table": np.ones((1, 3, 4))}),
            ("add_bias", "x", {"bias": np.ones((1, 4))}),
            ("softmax", "x", {}),
            ("softmax_backward", "dy", {"y": np.full((1, 2, 3, 4), 0.25)}),
            ("bias_gelu_backward", "dy", {"derivative": np.full((1, 2, 3, 4), 0.5), "dbias": np.zeros((1, 4))}),
            ("fill", "out", {"value": 7.0}),
        ],
    )
    def test_a_view_is_written_or_refused(self, method: str, written: str, arguments: dict[str, np.ndarray]) -> None:
        """Never copied, and the copy written."""
        memory = np.random.default_rng(0).normal(size=(1, 2, 4, 4, 2))
        view = memory[:, :, :3, :, 0].swapaxes(1, 2).copy().swapaxes(1, 2)
        expected = view.copy()
        getattr(REFERENCE, method)(**{written: expected}, **{k: np.copy(v) for k, v in arguments.items()})
        try:
            getattr(FAST["float64"], method)(**{written: view}, **{k: np.copy(v) for k, v in arguments.items()})
        except ValueError:
            return
        np.testing.assert_allclose(view, expected, rtol=1e-12)

    @pytest.mark.parametrize("shape", [(24,), (2, 12), (2, 3, 4)])
    def test_add_takes_any_shape(self, shape: tuple[int, ...]) -> None:
        memory = np.zeros((2, 200))  # room behind, so that a wrong count of elements shows and does no harm
        memory[1] = 1
        x, y = (row[:24].reshape(shape) for row in memory)
        FAST["float64"].add(x, y)
        assert (x == 1).all()
        assert not memory[0, 24:].any()
