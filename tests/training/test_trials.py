"""Runs of trials: trained as any run, ended by thresholds that are known before, and never tested."""

from dataclasses import asdict, replace

import numpy as np
import pytest

from ablations.storage import TrialRecord
from ablations.training.checkpoint import Checkpointer
from ablations.training.outcome import is_pruned
from ablations.training.stack import Stack, StackedRun
from ablations.training.trainer import train, train_together, train_trial
from tests.training.test_trainer import BASE, FEW

TIMES = ("seconds", "images_per_s")


def curve(record):
    """The metrics of a record without times."""
    return [{name: value for name, value in asdict(one).items() if name not in TIMES} for one in record.metrics]


@pytest.fixture(autouse=True)
def untested(monkeypatch):
    """No trial evaluates the test images."""
    whole = Stack.test_probabilities

    def test_probabilities(stack):
        assert all(member.thresholds is None for member in stack.members)
        return whole(stack)

    monkeypatch.setattr(Stack, "test_probabilities", test_probabilities)


@pytest.fixture(scope="module")
def whole():
    return train(BASE, FEW, threads=1)


def test_a_trial_is_trained_as_a_run_and_has_no_test(whole):
    trial = train_trial(BASE, FEW, (), threads=1)
    assert curve(trial) == curve(whole)
    assert (trial.validation_accuracy, trial.flops) == (whole.validation_accuracy, whole.flops)
    assert (trial.pruned, trial.diverged) == (None, None)
    assert not any(name.startswith("test") or name in ("predictions", "state") for name in vars(trial))


def test_a_run_below_the_threshold_of_an_epoch_ends_after_it(whole):
    reached = [metrics.validation_accuracy for metrics in whole.metrics]
    best = np.maximum.accumulate(reached)
    just, above = (tuple(best), (0.0, best[1] + 1e-9, 1.0))
    assert train_trial(BASE, FEW, (*just[:2], 0.0), threads=1).pruned is None
    trial = train_trial(BASE, FEW, above, threads=1)
    assert trial.pruned == 2
    assert curve(trial) == curve(whole)[:2]
    assert trial.validation_accuracy == reached[1]
    assert trial.flops == whole.flops * 2 // 3
    assert train_trial(BASE, FEW, (0.0, 0.0, 1.0), threads=1).pruned is None  # after the last epoch nothing is saved


def test_the_best_accuracy_so_far_counts():
    assert not is_pruned((), [0.1])
    assert not is_pruned((0.0, 0.0, 0.5), [0.6, 0.2, 0.3])
    assert is_pruned((0.0, 0.0, 0.5), [0.4, 0.2, 0.3])
    assert not is_pruned((0.0, 0.0, 0.5), [0.4])


def test_trials_with_other_rates_decays_and_ends_in_one_stack_are_what_they_are_alone():
    """Bit for bit: one is pruned, one diverges, the others are trained to the end."""
    asked = [
        (replace(BASE, learning_rate=1e-3, weight_decay=0.0), ()),
        (replace(BASE, learning_rate=4e-3, weight_decay=0.3), (0.0, 1.0, 0.0)),
        (replace(BASE, learning_rate=1e25, clip_norm=0.0), ()),
        (replace(BASE, learning_rate=3e-3, weight_decay=0.05, seed=1), (0.0, 0.0, 0.0)),
    ]
    asked = [(replace(config, clip_norm=0.0), thresholds) for config, thresholds in asked]
    alone = [train_trial(config, FEW, thresholds, threads=1) for config, thresholds in asked]
    members = [StackedRun(config, FEW, thresholds=thresholds) for config, thresholds in asked]
    ended = {}
    train_together(members, FEW, lambda member, record: ended.update({member: record}), threads=1)
    assert [record.pruned for record in alone] == [None, 2, None, None]
    assert [record.diverged for record in alone] == [None, None, 1, None]
    assert alone[2].validation_accuracy == 1 / 10
    for member, record in zip(members, alone, strict=True):
        together = ended[member]
        assert isinstance(together, TrialRecord)
        assert curve(together) == curve(record)
        facts = ("validation_accuracy", "pruned", "diverged", "parameters", "flops")
        assert [getattr(together, name) for name in facts] == [getattr(record, name) for name in facts]


@pytest.mark.parametrize("after", [1, 6, 9])
def test_an_interrupted_trial_ends_after_the_same_epoch(tmp_path, after, whole):
    thresholds = (0.0, 1.0, 1.0)
    asked = iter(range(100))

    def stop():
        return next(asked) >= after

    first = Checkpointer(tmp_path / "resume.bin", stop=stop)
    with pytest.raises(KeyboardInterrupt):
        train_trial(BASE, FEW, thresholds, threads=1, checkpointer=first)
    assert (tmp_path / "resume.bin").exists()
    trial = train_trial(BASE, FEW, thresholds, threads=1, checkpointer=Checkpointer(tmp_path / "resume.bin"))
    assert trial.pruned == 2
    assert curve(trial) == curve(whole)[:2]
