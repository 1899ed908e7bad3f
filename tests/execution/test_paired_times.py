"""Measured times of the arms: once for a study, whoever asks first."""

import json
import multiprocessing
import os
import time
from dataclasses import replace

import numpy as np
import pytest

from ablations.config import RelativeCost, RunConfig
from ablations.errors import UsageError, VitabError
from ablations.execution import paired_times
from ablations.execution.paired_times import PairedTimes, median_interval
from ablations.storage import Store

NONE = RunConfig(position="none", depth=1, patch=4, width=16, per_class=5)
ROPE, CPE = replace(NONE, position="rope"), replace(NONE, position="cpe(where=each)")
COSTS = {"none": 2.0, "rope": 3.0, "cpe(where=each)": 5.0}


@pytest.fixture
def measured(monkeypatch):
    """Pairs that were measured, with known times: no step is executed."""
    pairs = []

    def epoch_times(configs, datasets, **settings):
        pairs.append((*(config.position for config in configs), settings["threads"], settings["stack"]))
        return np.array([[COSTS[config.position] for config in configs]] * 20)

    monkeypatch.setattr("ablations.training.timing.epoch_times", epoch_times)
    monkeypatch.setattr("ablations.machine.compilation.compile_kernels", lambda say: None)
    monkeypatch.setattr(paired_times, "available_cores", lambda: 4)
    return pairs


def times(root, lines=None, **changes):
    say = [].append if lines is None else lines.append
    settings = {"data_dir": None, "backend": "numpy", "workers": "2", "stack": "auto", "seeds": 3} | changes
    return PairedTimes(Store(root), "s", say=say, **settings)


def test_a_time_is_relative_to_the_baseline_and_measured_once(tmp_path, measured):
    pairs = [(NONE, NONE), (ROPE, NONE), (CPE, NONE)]
    found = times(tmp_path)(pairs)
    assert [cost.value for cost in found] == [1.0, 1.5, 2.5]
    assert found[0] == RelativeCost(1.0)
    assert (found[1].low, found[1].high) == (1.5, 1.5)
    assert "(2 threads, NumPy" in found[1].where
    assert measured == [("rope", "none", 2, 1), ("cpe(where=each)", "none", 2, 1)]
    longer = [tuple(replace(config, epochs=50, seed=7, learning_rate=1.0) for config in pair) for pair in pairs]
    assert times(tmp_path)(longer) == found  # neither changes the time of a step
    assert len(measured) == 2


def test_a_new_arm_is_measured_and_the_others_keep_their_times(tmp_path, measured, monkeypatch):
    before = times(tmp_path)([(ROPE, NONE)])
    monkeypatch.setitem(COSTS, "rope", 4.0)
    after = times(tmp_path)([(ROPE, NONE), (CPE, NONE)])
    assert after[0] == before[0]
    assert [names[0] for names in measured] == ["rope", "cpe(where=each)"]
    wider = tuple(replace(config, width=32) for config in (ROPE, NONE))
    assert times(tmp_path)([wider])[0].value == 2.0  # another model


def test_a_dry_run_stores_nothing(tmp_path, measured):
    assert [cost.value for cost in times(tmp_path / "runs", keep=False)([(ROPE, NONE)])] == [1.5]
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_measurement_continues(tmp_path, measured, monkeypatch):
    def interrupted(self, pair, threads, stack):
        if pair[0] == CPE:
            raise KeyboardInterrupt
        return measure(self, pair, threads, stack)

    measure = PairedTimes._measure_pair
    with monkeypatch.context() as patch:
        patch.setattr(PairedTimes, "_measure_pair", interrupted)
        with pytest.raises(KeyboardInterrupt):
            times(tmp_path)([(ROPE, NONE), (CPE, NONE)])
    times(tmp_path)([(ROPE, NONE), (CPE, NONE)])
    assert [names[0] for names in measured] == ["rope", "cpe(where=each)"]


def test_stacks_are_timed_in_stacks_that_fit(tmp_path, measured, monkeypatch):
    def too_large(configs, datasets, *, stack, **settings):
        if stack > 1:
            raise MemoryError
        return np.array([[3.0, 2.0]] * 5)

    times(tmp_path, stack="2")([(ROPE, NONE)])
    assert measured[-1][-1] == 2
    monkeypatch.setattr("ablations.training.timing.epoch_times", too_large)
    assert times(tmp_path, stack="8")([(CPE, NONE)])[0].value == 1.5

    def nothing_fits(configs, datasets, **settings):
        raise MemoryError

    monkeypatch.setattr("ablations.training.timing.epoch_times", nothing_fits)
    wide = tuple(replace(config, width=32) for config in (ROPE, NONE))
    with pytest.raises(VitabError, match="rope and the baseline do not fit into memory together"):
        times(tmp_path)([wide])


def test_an_uncertain_time_is_told_of(tmp_path, measured, monkeypatch):
    def epoch_times(configs, datasets, **settings):
        return np.array([[1.0, 1.0], [1.3, 1.0]] * 10)

    lines = []
    monkeypatch.setattr("ablations.training.timing.epoch_times", epoch_times)
    times(tmp_path, lines)([(ROPE, NONE)])
    assert lines[0] == "measuring the time of an epoch in 1 pair of arm and baseline, up to 12 s each"
    assert lines[1].startswith("note: an epoch of rope takes 1.00 to 1.30 times as long as that of the baseline;")


def test_where_the_runs_are_trained_elsewhere_nothing_is_measured(tmp_path, measured):
    with pytest.raises(UsageError, match="match 'seconds' measures the arms on the machine that trains them"):
        times(tmp_path, here=False)([(ROPE, NONE)])
    found = times(tmp_path)([(ROPE, NONE)])
    assert times(tmp_path, here=False)([(ROPE, NONE)]) == found


@pytest.mark.parametrize("content", ["[]", "{", "{}", '{"pairs": {}, "sha256": "0"}'])
def test_a_damaged_file_is_named_and_not_measured_again(tmp_path, measured, content):
    path = times(tmp_path).path
    path.parent.mkdir(parents=True)
    path.write_text(content)
    with pytest.raises(UsageError, match=r"seconds.json is damaged; delete it to measure the arms again"):
        times(tmp_path)([(ROPE, NONE)])
    assert measured == []


def test_the_file_is_plain(tmp_path, measured):
    times(tmp_path)([(ROPE, NONE)])
    ((key, cost),) = json.loads(times(tmp_path).path.read_text())["pairs"].items()
    assert len(key) == 64
    assert cost["value"] == 1.5
    assert Store(tmp_path).studies() == []


def _measure(root, barrier, answers, dies):
    """Another process: its own times, which differ from those of any other."""

    def epoch_times(configs, datasets, **settings):
        if dies:
            os._exit(1)
        time.sleep(0.2)
        return np.array([[1.0 + os.getpid(), 1.0]] * 20)

    import ablations.machine.compilation
    import ablations.training.timing

    ablations.training.timing.epoch_times = epoch_times
    ablations.machine.compilation.compile_kernels = lambda say: None
    paired_times.POLL = 0.02
    barrier.wait()
    answers.put(times(root)([(ROPE, NONE)])[0].value)


@pytest.mark.serial
def test_processes_that_start_together_agree_and_a_killed_one_leaves_no_trace(tmp_path, measured):
    context = multiprocessing.get_context("fork")
    barrier, answers = context.Barrier(3), context.Queue()
    others = [
        context.Process(target=_measure, args=(tmp_path, barrier, answers, dies)) for dies in (True, False, False)
    ]
    for process in others:
        process.start()
    found = {answers.get(timeout=60) for _ in range(2)}
    for process in others:
        process.join()
    assert len(found) == 1
    assert times(tmp_path)([(ROPE, NONE)])[0].value in found
    assert measured == []


def test_the_interval_of_a_median():
    values = np.arange(1.0, 21.0)
    assert median_interval(np.random.default_rng(0).permutation(values)) == (10.5, 6.0, 15.0)  # ranks 6 and 15 of 20
    assert median_interval(np.array([3.0, 1.0, 2.0])) == (2.0, 1.0, 3.0)
    rng = np.random.default_rng(1)
    covered = [low <= 0 <= high for _, low, high in (median_interval(rng.normal(size=31)) for _ in range(1000))]
    assert np.mean(covered) >= 0.94
