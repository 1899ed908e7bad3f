"""Runs trained as one model give what each gives alone; one that breaks or is asked to stop ends alone."""

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ablations.config import RunConfig
from ablations.data.loader import DataLoader
from ablations.storage import RunRecord
from ablations.training import stack
from ablations.training.checkpoint import Checkpointer
from ablations.training.stack import Stack, StackedRun
from ablations.training.timing import calibrate
from ablations.training.trainer import train, train_together
from tests.training.test_trainer import BASE, EVERYTHING, FEW, STEPS, outcome, same_bits
from vit.engine import Engine

FREE = {"learning_rate": 5e-3, "weight_decay": 0.5, "warmup_epochs": 0.5, "label_smoothing": 0.3}


def together(configs: list[RunConfig], threads: int = 1, **members: list[Any]) -> list[Any]:
    """The outcome of each run of a stack, in order."""
    made = [StackedRun(config, FEW, *extra) for config, *extra in zip(configs, *members.values(), strict=True)]
    ends: dict[int, Any] = {}
    train_together(made, FEW, lambda member, end: ends.setdefault(made.index(member), end), threads=threads)
    return [ends[i] for i in range(len(configs))]


def stopping_after(steps: int) -> Any:
    left = iter(range(steps - 1))
    return lambda: next(left, None) is None


@pytest.mark.parametrize(
    "changes",
    [{}, {"position": "learned", "pool": "cls", "clip_norm": 0.01}, {"depth": 2, "position": "none", **EVERYTHING}],
    ids=["plain", "learned", "with everything"],
)
@pytest.mark.parametrize("threads", [1, 2])
def test_seeds_side_by_side_give_the_bits_that_each_gives_alone(changes: dict[str, Any], threads: int) -> None:
    configs = [replace(BASE, seed=seed, **changes) for seed in (0, 3, 7)]
    for config, record in zip(configs, together(configs, threads), strict=True):
        assert same_bits(record, train(config, FEW, threads=1))
        assert (record.config, record.stack) == (config, 3)


def test_rates_decays_warm_ups_and_smoothings_are_each_run_s_own() -> None:
    configs = [BASE, *(replace(BASE, **{name: value}) for name, value in FREE.items())]
    records = together(configs)
    for config, record in zip(configs, records, strict=True):
        assert same_bits(record, train(config, FEW, threads=1))
    for one, other in itertools.combinations(records, 2):
        assert not np.array_equal(one.predictions["probabilities"], other.predictions["probabilities"])


@pytest.mark.parametrize("where", [0, 1, 2])
@pytest.mark.parametrize("changes", [{}, EVERYTHING], ids=["plain", "with everything"])
def test_a_run_that_diverges_ends_alone_and_at_once(where: int, changes: dict[str, Any]) -> None:
    configs = [replace(BASE, seed=seed, **changes) for seed in range(3)]
    configs[where] = replace(configs[where], learning_rate=1e30)
    ended: list[StackedRun] = []
    epochs: list[tuple[int, int]] = []
    members = [
        StackedRun(config, FEW, None, lambda metrics, i=i: epochs.append((i, metrics.epoch)))
        for i, config in enumerate(configs)
    ]
    outcomes: dict[StackedRun, Any] = {}

    def on_end(member: StackedRun, end: Any) -> None:
        ended.append(member)
        outcomes[member] = end

    train_together(members, FEW, on_end, threads=1)
    assert ended[0] is members[where]
    assert (outcomes[members[where]].diverged, outcomes[members[where]].stack) == (1, 3)
    assert same_bits(outcomes[members[where]], train(configs[where], FEW, threads=1))
    others = [i for i in range(3) if i != where]
    assert epochs == [(i, epoch) for epoch in (1, 2, 3) for i in others]
    for i in others:
        assert same_bits(outcomes[members[i]], train(configs[i], FEW, threads=1))


def test_all_may_diverge() -> None:
    ends = together([replace(BASE, seed=seed, learning_rate=1e30) for seed in range(2)])
    assert [end.diverged for end in ends] == [1, 1]


def test_one_whose_batches_fail_ends_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    original = DataLoader._plain

    def gathered(loader: DataLoader, order: np.ndarray, step: int) -> Any:
        return 1 / 0 if loader.config.seed == 0 and step == 3 else original(loader, order, step)

    monkeypatch.setattr(DataLoader, "_plain", gathered)
    members = [StackedRun(replace(BASE, seed=seed), FEW) for seed in range(2)]
    ends: list[Any] = []
    train_together(members, FEW, lambda member, end: ends.append((member.config.seed, type(end))), threads=1)
    assert ends == [(0, ZeroDivisionError), (1, RunRecord)]


@pytest.mark.parametrize("changes", [{}, EVERYTHING], ids=["plain", "with everything"])
@pytest.mark.parametrize("steps", [2, STEPS, 2 * STEPS + 1])
def test_a_stack_that_is_stopped_goes_on_in_any_other(tmp_path: Any, steps: int, changes: dict[str, Any]) -> None:
    configs = [replace(BASE, seed=seed, **changes) for seed in range(3)]

    def checkpointers(stop: Any = lambda: False) -> list[Checkpointer]:
        return [Checkpointer(tmp_path / f"{c.seed}.bin", {"key": str(c.seed)}, stop=stop) for c in configs]

    asked = {"times": 0}

    def stop() -> bool:
        asked["times"] += 1
        return asked["times"] > 3 * (steps - 1)  # each of three is asked once a step

    ends = together(configs, checkpointers=checkpointers(stop))
    assert [type(end) for end in ends] == [KeyboardInterrupt] * 3
    assert all(checkpointer.load().progress["optimizer_step"] == steps for checkpointer in checkpointers())
    alone = train(configs[0], FEW, threads=1, checkpointer=checkpointers()[0])
    pair = together(configs[1:], checkpointers=checkpointers()[1:])
    for config, record in zip(configs, [alone, *pair], strict=True):
        assert same_bits(record, train(config, FEW, threads=1))
    assert [record.stack for record in (alone, *pair)] == [1, 2, 2]


def test_runs_at_different_steps_go_one_pace_after_another(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    configs = [replace(BASE, seed=seed) for seed in range(4)]
    checkpointers = [Checkpointer(tmp_path / f"{c.seed}.bin", {"key": str(c.seed)}) for c in configs]
    for i, steps in ((1, 7), (3, 7), (2, 2)):
        stopping = Checkpointer(checkpointers[i].path, checkpointers[i].identity, stop=stopping_after(steps))
        with pytest.raises(KeyboardInterrupt):
            train(configs[i], FEW, threads=1, checkpointer=stopping)
    sizes: list[int] = []
    original = Stack.__init__
    monkeypatch.setattr(
        Stack, "__init__", lambda own, members, *rest: sizes.append(len(members)) or original(own, members, *rest)
    )
    for config, record in zip(configs, together(configs, checkpointers=checkpointers), strict=True):
        assert same_bits(record, train(config, FEW, threads=1))
    assert sizes[:3] == [1, 2, 1]


def test_one_that_is_asked_to_stop_leaves_the_others_at_work(tmp_path: Any) -> None:
    configs = [replace(BASE, seed=seed) for seed in range(3)]
    checkpointers = [Checkpointer(tmp_path / f"{c.seed}.bin", {"key": str(c.seed)}) for c in configs]
    checkpointers[1].stop = stopping_after(STEPS + 2)
    ends = together(configs, checkpointers=checkpointers)
    assert [type(end) for end in ends] == [RunRecord, KeyboardInterrupt, RunRecord]
    for i in (0, 2):
        assert same_bits(ends[i], train(configs[i], FEW, threads=1))
    assert checkpointers[1].load().progress["optimizer_step"] == STEPS + 2
    checkpointers[1].stop = lambda: False
    assert same_bits(
        train(configs[1], FEW, threads=1, checkpointer=checkpointers[1]), train(configs[1], FEW, threads=1)
    )


def test_a_stack_shares_its_time_among_its_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that goes one second at every look: training an epoch is one second, of which each has a quarter."""
    clock = itertools.count()
    monkeypatch.setattr(stack.time, "perf_counter", lambda: float(next(clock)))
    for record in together([replace(BASE, seed=seed) for seed in range(4)]):
        assert [(m.seconds, m.images_per_s) for m in record.metrics] == [(0.25, 4 * STEPS * 32.0)] * 3
        assert record.train_seconds == 0.75


def test_evaluation_in_parts_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train(BASE, FEW, threads=1)
    monkeypatch.setattr(stack, "EVALUATED", 50)  # of lanes of 8 images
    parts: list[int] = []
    original = Engine.logits
    monkeypatch.setattr(Engine, "logits", lambda own, images: parts.append(images.shape[1]) or original(own, images))
    assert same_bits(train(BASE, FEW, threads=1), whole)
    assert set(parts) > {48}


def test_calibration_counts_the_share_of_one_run(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count()
    monkeypatch.setattr("ablations.training.timing.time.perf_counter", lambda: float(next(clock)))
    assert calibrate(BASE, FEW, threads=1, stack=4) == pytest.approx((STEPS + 40 / 32 / 3) / 4)


def test_records_of_a_stack_share_no_memory() -> None:
    first, second = (outcome(record) for record in together([BASE, replace(BASE, seed=1)]))
    for name, value in first.items():
        assert not np.shares_memory(value, second[name]) or name == "labels"


@pytest.mark.parametrize("broken", [1, 8])
def test_a_stack_too_large_for_the_memory_goes_on_in_halves(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, broken: int
) -> None:
    """From its first step, and from the snapshot of an earlier one."""
    configs = [replace(BASE, seed=seed) for seed in range(5)]
    checkpointers = [Checkpointer(tmp_path / f"{c.seed}.bin", {"key": str(c.seed)}, interval=0.0) for c in configs]
    calls = itertools.count(1)
    original, taken = Stack.step, []

    def step(own: Stack, *arguments: Any) -> list[float]:
        taken.append(len(own.members))
        if len(own.members) > 2 and next(calls) >= broken:
            raise MemoryError
        return original(own, *arguments)

    monkeypatch.setattr(Stack, "step", step)
    records = together(configs, checkpointers=checkpointers)
    monkeypatch.undo()
    assert sorted(record.stack for record in records) == [1, 2, 2, 2, 2]
    assert set(taken) == {5, 3, 2, 1}
    assert taken.count(5) == broken
    for config, record in zip(configs, records, strict=True):
        assert same_bits(record, train(config, FEW, threads=1))


def test_a_single_run_too_large_for_the_memory_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def step(*_: Any) -> list[float]:
        raise MemoryError("no room")

    monkeypatch.setattr(Stack, "step", step)
    with pytest.raises(MemoryError, match="no room"):
        train(BASE, FEW)
