"""A pass captured on a program and replayed is the pass itself."""

import gc
import itertools
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

import vit
from tests.support.operations import CASES, NAMES, Case, Maker, cases_of
from tests.support.small import BOTH, batch, config, distance, scrambled, worst
from vit import ViT, ViTConfig
from vit.backend.numpy_ops import INSTRUCTIONS, NumpyOps
from vit.backend.ops import Ops, operations
from vit.backend.probe import UncapturableError, guarded_array
from vit.backend.program import PRODUCTS, CapturedProgram, Opcode
from vit.lane import Lane
from vit.model import capture_error, capture_problem, one_hot
from vit.positions import POSITIONS as REGISTRY
from vit.positions import BlockHook, Position, TokenHook, _encoding
from vit.positions.learned import LearnedPosition
from vit.positions.rope import RotaryPosition
from vit.workspace import Draws, Workspace

DRAWS = Draws((0,), 1, 0)
NOT_ON_A_TAPE = ("add", "sum_of_squares", "adamw")
"""Work of the optimiser, which the engine does outside a pass."""

both_types = pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 1e-5)])


class TableHookByHand(TokenHook):
    """Adds a table with array expressions of its own, which no program can contain."""

    def __init__(self, workspace: Workspace) -> None:
        self.table, self.dtable = workspace.parameters["pos_embed"][:, 0], workspace.gradients["pos_embed"][:, 0]

    def forward(self, tokens: np.ndarray) -> None:
        tokens += self.table[:, None]

    def backward(self, dtokens: np.ndarray) -> None:
        self.dtable[...] = dtokens.sum(axis=1)


@dataclass(frozen=True)
class TableByHand(LearnedPosition):
    """The learned table with a hook of its own."""

    def token_hook(self, config: ViTConfig, workspace: Workspace) -> TokenHook:
        return TableHookByHand(workspace)


@pytest.fixture
def by_hand(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(REGISTRY, "by hand", TableByHand)
    yield
    _encoding.cache_clear()
    capture_problem.cache_clear()


def gradients_of(lane: Lane, model: ViT, run: int = 0) -> dict[str, np.ndarray]:
    return {name: lane.network.workspace.gradients[name][run].copy() for name in model.layout.parameters}


def train(lane: Lane, images: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    targets = one_hot(labels, classes).astype(images.dtype)
    return lane.train(images, targets, 1 / images.shape[1], DRAWS).copy()


def capture(record: Callable[[NumpyOps], object], dtype: str = "float64") -> CapturedProgram:
    ops = NumpyOps(dtype)
    ops.program = CapturedProgram(ops.dtype)
    record(ops)
    return ops.program


class TestLanes:
    @pytest.mark.parametrize(("position", "pool"), BOTH)
    @both_types
    def test_replays_the_eager_pass(self, position: str, pool: str, dtype: str, tolerance: float) -> None:
        """For three runs, in a lane of another size, the first time and again."""
        small = config(position=position, pool=pool)
        model = scrambled(small, (3, 4, 5), dtype)
        images, labels = batch(small, 5, runs=3, dtype=dtype)
        loss, logits = model.loss_and_gradients(images, labels), model.forward(images)
        lane = Lane(model, 7)
        lane.network.workspace.gradients.flat[...] = np.nan
        for _ in range(2):
            assert distance(lane.logits(images), logits) < tolerance
            losses = train(lane, images, labels, small.classes)
            assert distance(losses.mean(axis=1), loss) < tolerance
            for run in range(3):
                assert worst(gradients_of(lane, model, run), model.gradients(run=run)) < 10 * tolerance
        assert len(lane.tapes) == 2

    @both_types
    @pytest.mark.usefixtures("by_hand")
    def test_an_encoding_with_array_expressions_runs_directly(self, dtype: str, tolerance: float) -> None:
        """And equals the encoding with operations that computes the same."""
        own, learned = config(position="by hand"), config(position="learned")
        model, twin = scrambled(own, dtype=dtype), scrambled(learned, dtype=dtype)
        images, labels = batch(own, 5, dtype=dtype)
        lane, replaying = Lane(model, 5), Lane(twin, 5)
        for _ in range(2):
            assert distance(lane.logits(images), replaying.logits(images)) < tolerance
            losses = [train(each, images, labels, own.classes) for each in (lane, replaying)]
            assert distance(*losses) < tolerance
            assert worst(gradients_of(lane, model), gradients_of(replaying, twin)) < 10 * tolerance
        assert not lane.tapes
        assert replaying.tapes

    @pytest.mark.parametrize("field", ["dropout", "drop_path"])
    def test_dropout_draws_anew_instead_of_being_replayed(self, field: str) -> None:
        small = config(**{field: 0.5})
        lane = Lane(scrambled(small), 4)
        images, labels = batch(small, 4)
        targets = one_hot(labels, small.classes)
        losses = [lane.train(images, targets, 0.25, Draws((0,), step, 0)).sum() for step in (1, 2, 1)]
        assert losses[0] != losses[1]
        assert losses[0] == losses[2]
        assert not lane.tapes

    @pytest.mark.parametrize("sizes", list(itertools.permutations((1, 3, 8))))
    def test_any_order_of_sizes(self, sizes: tuple[int, ...]) -> None:
        """A lane has a program for each number of images, and they share its buffers."""
        small = config(position="rope", pool="cls")
        model, images, labels = scrambled(small), *batch(small, 8)
        lane, whole = Lane(model, 8), model.forward(images)
        for size in (*sizes, *sizes):
            part = slice(8 - size, 8)
            loss = model.loss_and_gradients(images[:, part], labels[:, part])
            assert distance(train(lane, images[:, part], labels[:, part], small.classes).mean(axis=1), loss) < 1e-12
            assert worst(gradients_of(lane, model), model.gradients(run=0)) < 1e-11
            assert distance(lane.logits(images[:, part]), whole[:, part]) < 1e-12
        assert len(lane.tapes) == 6

    def test_another_scale_is_another_gradient(self) -> None:
        small = config()
        model, images, labels = scrambled(small), *batch(small, 3)
        lane, targets = Lane(model, 3), one_hot(labels, small.classes)
        lane.train(images, targets, 1.0, DRAWS)
        whole = gradients_of(lane, model)
        for scale in (0.125, 1.0, 0.125):
            lane.train(images, targets, scale, DRAWS)
            scaled = {name: value * scale for name, value in whole.items()}
            assert worst(gradients_of(lane, model), scaled) < 1e-11

    def test_another_size_of_the_same_scale_is_another_pass(self) -> None:
        small = config()
        model, images, labels = scrambled(small), *batch(small, 4)
        lane, targets = Lane(model, 4), one_hot(labels, small.classes)
        for size in (4, 2, 4):
            losses = lane.train(images[:, :size], targets[:, :size], 1 / size, DRAWS).copy()
            again = lane.train(images[:, :size], targets[:, :size], 0.5, DRAWS)
            assert losses.shape == (1, size)
            assert np.array_equal(again, losses)
            model.loss_and_gradients(images[:, :size], labels[:, :size])
            halved = {name: value * size / 2 for name, value in model.gradients(run=0).items()}
            assert worst(gradients_of(lane, model), halved) < 1e-11

    def test_replays_new_weights(self) -> None:
        small = config(position="learned")
        model, other = scrambled(small), scrambled(small, (9,))
        images, labels = batch(small, 3)
        lane = Lane(model, 3)
        before = lane.logits(images).copy()
        train(lane, images, labels, small.classes)
        model.load_state_dict(other.state_dict(run=0), run=0)
        loss = other.loss_and_gradients(images, labels)
        assert distance(lane.logits(images), other.forward(images)) < 1e-12
        assert distance(train(lane, images, labels, small.classes).mean(axis=1), loss) < 1e-12
        assert worst(gradients_of(lane, model), other.gradients(run=0)) < 1e-11
        assert distance(lane.logits(images), before) > 0.01

    def test_lanes_of_one_model_do_not_disturb_each_other(self) -> None:
        """Four threads, each with a lane and images of its own, over the same parameters."""
        small = config(position="rope")
        model = scrambled(small)
        batches = [batch(small, 6, seed=seed) for seed in range(4)]
        expected = []
        for images, labels in batches:
            model.loss_and_gradients(images, labels)
            expected.append(model.gradients(run=0))
        errors: list[float] = []

        def work(images: np.ndarray, labels: np.ndarray, gradients: dict[str, np.ndarray]) -> None:
            lane = Lane(model, 6)
            for _ in range(20):
                train(lane, images, labels, small.classes)
                errors.append(worst(gradients_of(lane, model), gradients))

        threads = [threading.Thread(target=work, args=(*b, g)) for b, g in zip(batches, expected, strict=True)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(errors) == 80
        assert max(errors) < 1e-11

    def test_a_capture_that_fails_leaves_nothing_behind(self, monkeypatch: pytest.MonkeyPatch) -> None:
        small = config(position="learned")
        model, (images, _) = scrambled(small), batch(small, 3)
        lane = Lane(model, 3)

        def fail(tokens: np.ndarray) -> None:
            raise ArithmeticError("once")

        with monkeypatch.context() as patch:
            patch.setattr(lane.network.patch_embed.hook, "forward", fail)
            with pytest.raises(ArithmeticError, match="once"):
                lane.logits(images)
        assert lane.ops.program is None
        assert not lane.tapes
        assert distance(lane.logits(images), model.forward(images)) < 1e-12


class TestTape:
    @pytest.mark.parametrize(("method", "make"), CASES, ids=NAMES)
    @pytest.mark.parametrize("runs", [1, 2])
    @both_types
    def test_every_operation(self, method: str, make: Maker, runs: int, dtype: str, tolerance: float) -> None:
        """Recording computes nothing, replaying computes what the operation does, and what cannot is refused."""
        for case in cases_of(method, make, runs):
            eager = case.run(NumpyOps(dtype), method).written(case)
            ops = NumpyOps(dtype)
            ops.program, arrays = CapturedProgram(ops.dtype), case.cast(ops)
            if method in NOT_ON_A_TAPE:
                with pytest.raises((ValueError, NotImplementedError)):
                    self.record_and_replay(ops, method, arrays, case)
                continue
            self.record_and_replay(ops, method, arrays, case)
            for name, value in eager.items():
                scale = max(1, np.abs(value).max(), arrays.get("rstd", np.ones(1)).max())
                assert np.abs(arrays[name] - value).max() < tolerance * scale, name

    def record_and_replay(self, ops: NumpyOps, method: str, arrays: dict[str, np.ndarray], case: Case) -> None:
        before = {name: array.copy() for name, array in arrays.items()}
        getattr(ops, method)(**arrays, **case.other)
        for name, array in arrays.items():
            assert np.array_equal(array, before[name], equal_nan=True), name
        assert ops.program is not None
        ops.program.replay()

    def test_order_is_that_of_recording(self) -> None:
        x, bias = np.zeros((1, 2, 3, 4)), np.ones((1, 4))

        def record(ops: NumpyOps) -> None:
            ops.fill(x, 2)
            ops.add_bias(x, bias)
            ops.add_bias(x, bias)

        program = capture(record)
        assert not x.any()
        for _ in range(3):
            program.replay()
            assert (x == 4).all()

    def test_keeps_its_arrays_alive(self) -> None:
        """Nobody else holds the arrays in the middle when the program is replayed."""
        x, out = np.ones((1, 1, 40, 50)), np.zeros((1, 1, 40, 50))

        def record(ops: NumpyOps) -> None:
            middle = np.empty((1, 1, 40, 50))
            ops.copy_tokens(x, out=middle)
            ops.add_bias(middle, np.full((1, 50), 2.0))
            ops.matmul(middle, np.eye(50)[None, None] * 3, out=out)

        program = capture(record)
        gc.collect()
        others = [np.full(shape, np.nan) for shape in ((1, 1, 40, 50), (1, 50), (50, 50)) for _ in range(20)]
        program.replay()
        np.testing.assert_allclose(out, 9)
        assert all(np.isnan(other).all() for other in others)

    def test_of_nothing(self) -> None:
        CapturedProgram(np.dtype("float32")).replay()

    @both_types
    @pytest.mark.parametrize("trans_a", [False, True])
    @pytest.mark.parametrize("trans_b", [False, True])
    @pytest.mark.parametrize("inner", [1, 2, 5])
    @pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 4), (4, 1), (3, 4)])
    def test_products_of_views(
        self, trans_a: bool, trans_b: bool, inner: int, rows: int, columns: int, dtype: str, tolerance: float
    ) -> None:
        """Parts of larger arrays, transposed or not, over three axes of which one is broadcast."""
        rng = np.random.default_rng(0)
        a_shape = (inner, rows) if trans_a else (rows, inner)
        b_shape = (columns, inner) if trans_b else (inner, columns)
        a = rng.normal(size=(2, 3, 4, 9, 7)).astype(dtype)[:, :, 1:3, 2 : 2 + a_shape[0], 1 : 1 + a_shape[1]]
        b = rng.normal(size=(2, 3, 1, 9, 7)).astype(dtype)[..., : b_shape[0], 2 : 2 + b_shape[1]]
        memory = np.full((2, 3, rows, 2, columns + 3), 7, dtype)
        out = memory[..., 1 : 1 + columns].swapaxes(2, 3)
        capture(lambda ops: ops.matmul(a, b, trans_a=trans_a, trans_b=trans_b, out=out), dtype).replay()
        expected = (a.swapaxes(-1, -2) if trans_a else a) @ (b.swapaxes(-1, -2) if trans_b else b)
        assert distance(out, expected) < tolerance
        assert (memory[..., 0] == 7).all()
        assert (memory[..., 1 + columns :] == 7).all()

    def test_copies_parts_of_images(self) -> None:
        """A class token to and from its place before the patches."""
        rng = np.random.default_rng(0)
        tokens, patches, token = (
            rng.normal(size=(2, 3, 5, 4)),
            rng.normal(size=(2, 3, 4, 4)),
            rng.normal(size=(2, 1, 1, 4)),
        )
        back = np.full((2, 3, 4, 4), np.nan)

        def record(ops: NumpyOps) -> None:
            ops.copy_tokens(token, out=tokens[:, :, :1])
            ops.copy_tokens(patches, out=tokens[:, :, 1:])
            ops.copy_tokens(tokens[:, :, 1:], out=back)

        capture(record).replay()
        assert np.array_equal(tokens, np.concatenate([np.repeat(token, 3, axis=1), patches], axis=2))
        assert np.array_equal(back, patches)

    def test_products_are_the_products_alone(self) -> None:
        a, x, y = np.full((1, 1, 2, 2), 2.0), np.full((1, 1, 2, 2), 1.0), np.full((1, 1, 2, 2), 5.0)

        def record(ops: NumpyOps) -> None:
            ops.add_bias(x, np.full((1, 2), 10.0))
            ops.matmul(a, a, out=y)
            ops.softmax(a)

        program = capture(record)
        program.products().replay()
        assert (x == 1).all()
        assert (a == 2).all()
        assert (y == 8).all()
        program.replay()
        assert (x == 11).all()
        assert (a == 0.5).all()

    def test_products_of_a_pass(self) -> None:
        """Two for the embedding and the head, and for a block four of weights and two of attention, each once an image
        and head."""
        small = config(depth=3)
        lane = Lane(scrambled(small), 4)
        lane.logits(batch(small, 4)[0])
        (program,) = lane.tapes.values()
        opcodes = [row[0] for row in program._rows]
        assert len(program.products()._rows) == 2 + 3 * 6
        assert all(row[0] in PRODUCTS for row in program.products()._rows)
        assert sum(opcode in PRODUCTS for opcode in opcodes) == 2 + 3 * 6
        assert opcodes.count(Opcode.SOFTMAX) == 3


class TestRefusals:
    """A program reads and writes memory by address: what it cannot address it must refuse, when it is recorded."""

    @pytest.mark.parametrize(
        "array",
        [
            np.zeros((4, 6))[:, ::2],
            np.zeros((6, 4)).T,
            np.zeros((4, 6), "float32"),
            np.zeros((4, 6), "int64"),
            np.zeros((4, 6), ">f8"),
        ],
        ids=["strided", "transposed", "float32", "int64", "bytes the other way"],
    )
    def test_kernels(self, array: np.ndarray) -> None:
        with pytest.raises(ValueError, match=r"ADD_BIAS.*contiguous.*float64"):
            CapturedProgram(np.dtype("float64")).append(Opcode.ADD_BIAS, (array, np.zeros(array.shape[1])))
        with pytest.raises(ValueError, match=r"ADD_BIAS.*contiguous.*float64"):
            CapturedProgram(np.dtype("float64")).append(Opcode.ADD_BIAS, (np.zeros((4, 6)), array))

    @pytest.mark.parametrize("wrong", ["a", "b", "out"])
    def test_products_of_another_type(self, wrong: str) -> None:
        arrays = {name: np.zeros((1, 4, 4), "float32" if name == wrong else "float64") for name in ("a", "b", "out")}
        with pytest.raises(ValueError, match="float64"):
            capture(lambda ops: ops.matmul(**arrays))

    @pytest.mark.parametrize("wrong", ["source", "out"])
    def test_copies_of_another_type(self, wrong: str) -> None:
        arrays = {name: np.zeros((1, 2, 3, 4), "float32" if name == wrong else "float64") for name in ("source", "out")}
        with pytest.raises(ValueError, match="float64"):
            capture(lambda ops: ops.copy_tokens(**arrays))

    @pytest.mark.parametrize("wrong", ["source", "out"])
    def test_copies_of_parts_of_tokens(self, wrong: str) -> None:
        """The (n, D) of an image must lie together."""
        arrays = {name: np.zeros((1, 2, 3, 8))[..., : 4 if name == wrong else None] for name in ("source", "out")}
        arrays = {name: a if name == wrong else a[..., :4].copy() for name, a in arrays.items()}
        with pytest.raises(ValueError, match="contiguous"):
            capture(lambda ops: ops.copy_tokens(**arrays))

    def test_a_product_without_a_place(self) -> None:
        with pytest.raises(ValueError, match="out"):
            capture(lambda ops: ops.matmul(np.zeros((2, 2)), np.zeros((2, 2))))

    def test_a_product_into_columns(self) -> None:
        with pytest.raises(ValueError, match="out"):
            capture(lambda ops: ops.matmul(np.zeros((3, 3)), np.zeros((3, 3)), out=np.zeros((3, 3)).T))

    @pytest.mark.parametrize(
        "matrix",
        [
            np.zeros((6, 6))[::2, ::2],
            np.broadcast_to(np.zeros(3), (3, 3)),
            np.broadcast_to(np.zeros((3, 1)), (3, 3)),
            np.zeros((3, 3))[::-1],
            np.zeros((3, 3))[:, ::-1],
        ],
        ids=["strided both ways", "one row repeated", "one column repeated", "rows reversed", "columns reversed"],
    )
    def test_matrices_that_blas_cannot_read(self, matrix: np.ndarray) -> None:
        for a, b in ((matrix, np.zeros((3, 3))), (np.zeros((3, 3)), matrix)):
            with pytest.raises(ValueError, match="matmul"):
                capture(lambda ops, a=a, b=b: ops.matmul(a, b, out=np.zeros((3, 3))))

    def test_shapes_that_do_not_multiply(self) -> None:
        for a, b, out in [((3, 4), (5, 6), (3, 6)), ((3, 4), (4, 6), (3, 5)), ((3, 4), (4, 6), (2, 6))]:
            with pytest.raises(ValueError, match="matmul"):
                capture(lambda ops, a=a, b=b, out=out: ops.matmul(*map(np.zeros, (a, b)), out=np.zeros(out)))

    def test_a_table_that_would_be_copied_on_the_way(self) -> None:
        """Refused or read anew: a program of a copy would replay the values of today for ever."""
        x, table = np.zeros((1, 2, 3, 4)), np.zeros((1, 3, 8))[..., :4]
        try:
            program = capture(lambda ops: ops.add_table(x, table))
        except ValueError:
            return
        table[...] = 1
        program.replay()
        assert (x == 1).all()


class Scores(BlockHook):
    """The default hook, and then `change` on the scores."""

    change: ClassVar[Callable[..., None]]

    def scores(self, scores: np.ndarray, qkv: np.ndarray) -> None:
        super().scores(scores, qkv)
        type(self).change(self, scores)


def position_with(change: Callable[..., None]) -> type[Position]:
    """Rope that also applies a function to the scores."""
    hook = type("Hook", (Scores,), {"change": change})

    @dataclass(frozen=True)
    class Changed(RotaryPosition):
        def block_hooks(self, config: ViTConfig, workspace: Workspace) -> list[BlockHook]:
            return [hook(workspace, config, of.rotation) for of in super().block_hooks(config, workspace)]

    return Changed


def shift(hook: BlockHook, scores: np.ndarray) -> None:
    scores -= np.arange(scores.shape[-1])


def shift_plainly(hook: BlockHook, scores: np.ndarray) -> None:
    """The same through a plain view of the array."""
    plain = np.asarray(scores)
    plain -= np.arange(scores.shape[-1])


def shift_by_a_copy(hook: BlockHook, scores: np.ndarray) -> None:
    """Adds what is computed from a plain copy: a program would add the values of the first step for ever."""
    hook.ops.add_score_bias(scores, np.ascontiguousarray(np.array(scores)[:, 0]))


def shift_unseen(hook: BlockHook, scores: np.ndarray) -> None:
    """The same, but not in the pass over arrays without values."""
    if np.asarray(scores).flags.writeable:
        np.asarray(scores)[...] -= np.arange(scores.shape[-1])


def reference_operation(hook: BlockHook, scores: np.ndarray) -> None:
    """An operation that exists only as a formula."""
    scores_of_now = hook.ops.erf(scores)
    assert scores_of_now is not None


class TestWhatAProgramWouldLose:
    """A program contains operations with an instruction only; anything else must not vanish."""

    @pytest.fixture(autouse=True)
    def forget(self) -> Iterator[None]:
        yield
        _encoding.cache_clear()
        capture_problem.cache_clear()

    def model(self, monkeypatch: pytest.MonkeyPatch, change: Callable[..., None], **changes: Any) -> ViT:
        monkeypatch.setitem(REGISTRY, "changed", position_with(change))
        return scrambled(config(position="changed", **changes))

    @pytest.mark.parametrize("change", [shift, shift_plainly, shift_by_a_copy, reference_operation])
    def test_is_found_and_runs_directly(self, monkeypatch: pytest.MonkeyPatch, change: Callable[..., None]) -> None:
        model = self.model(monkeypatch, change)
        images, labels = batch(model.config, 5)
        lane = Lane(model, 5)
        losses = train(lane, images, labels, model.config.classes)
        assert distance(losses.mean(axis=1), model.loss_and_gradients(images, labels)) < 1e-12
        assert worst(gradients_of(lane, model), model.gradients()) < 1e-11
        assert not lane.tapes
        assert capture_error(model.config, "numpy").__traceback__ is not None
        problem = capture_problem(model.config, "numpy")
        assert (
            problem
            == {
                shift: "an array expression (numpy.subtract)",
                shift_plainly: "an assignment to an array",
                shift_by_a_copy: "an array that is computed or made outside ops, in ops.add_score_bias",
                reference_operation: "ops.erf, which has no kernel on the numpy backend",
            }[change]
        )
        assert capture_problem(config(position="rope"), "numpy") is None

    def test_a_replay_that_differs_is_an_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model = self.model(monkeypatch, shift_unseen)
        images, labels = batch(model.config, 5)
        lane = Lane(model, 5)
        assert lane.captures
        with pytest.raises(
            RuntimeError, match="position 'changed' computes something that a captured program does not"
        ):
            train(lane, images, labels, model.config.classes)
        assert not lane.tapes

    @pytest.mark.parametrize("name", ["erf", "patchify", "dropout", "attention", "add", "sum_of_squares", "adamw"])
    def test_operations_without_an_instruction_raise_while_recording(self, name: str) -> None:
        with pytest.raises(ValueError, match=f"{name} must not be called while a program is captured"):
            capture(lambda ops: getattr(ops, name)())

    def test_a_new_operation_does_not_vanish(self) -> None:
        """Every operation is an instruction, or raises."""
        assert {"softmax", "matmul", "qkv_bias_rotate"} <= INSTRUCTIONS
        for name in {*operations()} - INSTRUCTIONS:
            assert getattr(NumpyOps, name) is not getattr(Ops, name), name

    def test_what_a_guarded_array_allows(self) -> None:
        """Views are free; reading or changing values is not."""
        x = guarded_array((2, 3, 4), "float32")
        assert x[:, 1:].reshape(2, 8).swapaxes(0, 1)[None].shape == (1, 8, 2)
        changes: list[Callable[[], object]] = [
            lambda: x + 1,
            lambda: np.einsum("ijk->k", x),
            lambda: x.sum(),
            lambda: x.copy(),
            lambda: x.astype("float64"),
            lambda: x.fill(0),
            lambda: x.__setitem__(0, 1),
            lambda: np.copyto(x, 1),
            lambda: x @ x.swapaxes(1, 2),
            lambda: float(x[0, 0, 0]),
            lambda: x.take([0, 1], axis=2),
            lambda: x[:, [0, 2]],
            lambda: x.flatten(),
            lambda: x.transpose(2, 1, 0).reshape(4, 6),
            lambda: x.repeat(2),
            lambda: x.tolist(),
            lambda: x.item(0),
            lambda: x.dot(np.ones(4)),
        ]
        for change in changes:
            with pytest.raises(UncapturableError):
                change()


@pytest.mark.slow
def test_an_edit_of_a_kernel_reaches_the_compiled_tape(tmp_path: Path) -> None:
    """Numba's cache stamps a function with its own file alone."""
    shutil.copytree(Path(vit.__file__).parent, tmp_path / "vit", ignore=shutil.ignore_patterns("__pycache__"))
    program = (
        "import numpy as np; from vit import *; from vit.engine import *; "
        "c = ViTConfig(image_size=4, patch_size=2, channels=1, classes=2, width=8, depth=1, heads=2, init_std=1.0); "
        "x = np.random.default_rng(0).standard_normal((1, 2, 4, 4, 1)).astype('float32'); "
        "print(float(Engine(ViT(c, get_ops(), [0]), AdamWConfig(), 2).logits(x)[0, 0, 0]))"
    )

    def run() -> float:
        environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
        command = [sys.executable, "-c", program]
        return float(subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True).stdout)

    before = run()
    assert run() == before
    kernels = tmp_path / "vit/backend/cpu_kernels.py"
    source = kernels.read_text()
    assert source.count("x[i, j] *= inverse") == 1
    kernels.write_text(source.replace("x[i, j] *= inverse", "x[i, j] *= inverse * x.dtype.type(0.5)"))
    assert run() != before
