"""Numbers of workers and stack sizes limited by the memory of the machine, its control groups and its GPUs."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ablations.config import RunConfig
from ablations.data import load
from ablations.data.loader import DataLoader, parts_of
from ablations.errors import UsageError
from ablations.execution import resources
from ablations.execution.tasks import Task
from ablations.machine import Device, available_memory, format_bytes
from ablations.training import memory
from ablations.training.memory import MemoryEstimate, estimate_memory

ROOT = Path(__file__).resolve().parents[2]
MB = 2**20


def tasks_of(*configs):
    return [Task(str(i), config, f"run {i}") for i, config in enumerate(configs)]


SEEDS = [RunConfig(seed=seed) for seed in range(6)]


@pytest.fixture
def machine(monkeypatch):
    """Function that sets cores, free memory, the memory of a run and of a run on a GPU, and free GPU memory, in MB."""

    def pretend(cores=8, free=None, run=100, device=0, gpus=()):
        found = tuple(Device(f"GPU {i}", 80_000 * MB, size * MB, "9.0", f"GPU-{i}") for i, size in enumerate(gpus))
        monkeypatch.setattr(resources, "available_cores", lambda: cores)
        monkeypatch.setattr(resources, "available_memory", lambda: None if free is None else free * MB)
        monkeypatch.setattr(resources, "devices", lambda: found)
        monkeypatch.setattr(
            memory,
            "estimate_memory",
            lambda config, dataset, runs, threads, backend: MemoryEstimate(
                dataset=10 * MB, runs=run * config.depth // 2 * runs * MB, device=(500 + device * runs) * MB
            ),
        )

    return pretend


def shared(tasks, workers="auto", stack="auto", backend="numpy"):
    return resources.plan_resources(tasks, workers=workers, stack=stack, backend=backend, data_dir=None)


def test_with_room_for_all_nothing_is_limited(machine):
    machine(free=100_000)
    found = shared(tasks_of(*SEEDS))
    assert (found.workers, found.threads, found.devices, found.lines) == (6, 1, (), [])
    assert [task.stack for task in found.tasks] == [1] * 6
    found = shared(tasks_of(*SEEDS), workers="2", stack="4")
    assert (found.workers, found.threads, found.lines) == (2, 4, [])
    assert [task.stack for task in found.tasks] == [4] * 6
    assert [task.key for task in found.tasks] == list("012345")


def test_workers_are_limited_to_what_fits(machine):
    one = (memory.PROCESS + 110 * MB) / MB  # a process with a run
    machine(free=int(3.5 * one / 0.9))
    found = shared(tasks_of(*SEEDS))
    assert (found.workers, found.threads) == (3, 2)
    assert found.lines == [
        "3 workers instead of 6: each of 6 would need about 370 MB, but only 1.3 GB of memory is available"
    ]
    machine(free=int(1.5 * one / 0.9))
    assert shared(tasks_of(*SEEDS)).workers == 1


def test_the_largest_shape_decides(machine):
    machine(free=2000)
    assert shared(tasks_of(*SEEDS), workers="4").workers == 4
    assert shared(tasks_of(*SEEDS, RunConfig(depth=10)), workers="4").workers == 2


def test_a_single_worker_is_this_process_which_has_the_data_and_the_packages_already(machine):
    machine(free=115)  # of which 100 for the run
    found = shared(tasks_of(*SEEDS), workers="2")
    assert found.workers == 1


def test_a_stack_is_limited_to_what_fits_in_one_worker(machine):
    machine(free=500)
    found = shared(tasks_of(*SEEDS, RunConfig(depth=4)), workers="1", stack="6")
    assert [task.stack for task in found.tasks] == [4] * 6 + [1]
    assert found.lines == ["training stacks of up to 4 runs instead of 6, limited by memory"]


def test_a_run_that_does_not_fit_is_refused_with_its_memory(machine):
    machine(free=1000)
    with pytest.raises(
        UsageError, match=r"^run 6 needs about 1.2 GB of memory for training, but only 900 MB is available"
    ):
        shared(tasks_of(*SEEDS, RunConfig(depth=25)), workers="1")


def test_unknown_memory_limits_nothing_and_nothing_to_do_needs_none(machine):
    machine(free=None, run=10**9)
    assert shared(tasks_of(*SEEDS), workers="3").workers == 3
    machine(free=1)
    assert shared([], stack="3").workers == 1


@pytest.mark.parametrize("bad", ["0", "-1", "x", "1.5", ""])
def test_bad_stacks(machine, bad):
    with pytest.raises(UsageError, match="--stack must be auto or an integer of at least 1"):
        shared(tasks_of(*SEEDS), stack=bad)


def test_gpus_get_a_worker_each_and_stacks_as_large_as_fit(machine):
    machine(free=100_000, device=1000, gpus=(80_000, 4000))
    found = shared(tasks_of(*SEEDS, RunConfig(depth=4)), backend="cupy")
    assert (found.workers, found.devices) == (2, ("GPU-0", "GPU-1"))
    assert [task.stack for task in found.tasks] == [3] * 6 + [1]  # 500 + 3 x 1000 of 0.9 x 4000
    assert found.lines == ["training stacks of up to 3 runs instead of 6, limited by memory"]
    machine(free=100_000, device=1000, gpus=(80_000,))
    found = shared(tasks_of(*SEEDS), backend="cupy")
    assert [task.stack for task in found.tasks] == [6] * 6
    assert found.lines == ["training stacks of up to 6 runs as one model"]
    found = shared(tasks_of(*SEEDS), workers="3", stack="6", backend="cupy")  # three share the GPU
    assert (found.workers, found.tasks[0].stack) == (3, 6)
    machine(free=100_000, device=1000, gpus=(1500,))
    with pytest.raises(UsageError, match=r"^run 0 needs about 1.5 GB of GPU memory for training, but only 1.3 GB"):
        shared(tasks_of(*SEEDS), backend="cupy")


def test_a_gpu_whose_memory_is_not_known_gets_no_stacks_unless_asked(machine):
    machine(free=100_000, device=1000, gpus=(0,))
    assert {task.stack for task in shared(tasks_of(*SEEDS), backend="cupy").tasks} == {1}
    assert {task.stack for task in shared(tasks_of(*SEEDS), stack="4", backend="cupy").tasks} == {4}


def files(root, **contents):
    for name, text in contents.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


MEMINFO = "MemTotal:       24683868 kB\nMemFree:        1000 kB\nMemAvailable:   8000000 kB\n"
GIB = 2**30


def test_available_memory_of_the_machine(tmp_path):
    assert available_memory(tmp_path) is None
    files(tmp_path, **{"proc/meminfo": MEMINFO})
    assert available_memory(tmp_path) == 8_000_000 * 1024
    assert available_memory() > 100 * MB


@pytest.mark.parametrize("group", ["/", "/user/job"])
def test_available_memory_in_a_control_group_of_version_2(tmp_path, group):
    where = f"sys/fs/cgroup{group}".rstrip("/")
    files(
        tmp_path,
        **{
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": f"0::{group}\n",
            f"{where}/memory.max": f"{4 * GIB}\n",
            f"{where}/memory.current": f"{3 * GIB}\n",
            f"{where}/memory.stat": f"anon 5\ninactive_file {GIB // 2}\n",
        },
    )
    assert available_memory(tmp_path) == 1.5 * GIB
    files(tmp_path, **{f"{where}/memory.max": "max\n"})
    assert available_memory(tmp_path) == 8_000_000 * 1024


def test_the_narrowest_of_nested_groups_counts(tmp_path):
    files(
        tmp_path,
        **{
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": "0::/outer/inner\n",
            "sys/fs/cgroup/outer/memory.max": str(2 * GIB),
            "sys/fs/cgroup/outer/memory.current": str(GIB),
            "sys/fs/cgroup/outer/inner/memory.max": str(6 * GIB),
            "sys/fs/cgroup/outer/inner/memory.current": "0",
        },
    )
    assert available_memory(tmp_path) == GIB


def test_available_memory_in_a_control_group_of_version_1(tmp_path):
    files(
        tmp_path,
        **{
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": "9:name=systemd:/\n4:cpu,memory:/job\n0::/\n",
            "sys/fs/cgroup/memory/job/memory.limit_in_bytes": str(2 * GIB),
            "sys/fs/cgroup/memory/job/memory.usage_in_bytes": str(GIB),
            "sys/fs/cgroup/memory/job/memory.stat": f"total_inactive_file {GIB // 4}\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": "0",
        },
    )
    assert available_memory(tmp_path) == 1.25 * GIB


def test_format_bytes():
    assert [format_bytes(size) for size in (0, 211.6 * MB, 999 * MB, 1500 * MB)] == [
        "0 MB",
        "212 MB",
        "999 MB",
        "1.5 GB",
    ]


@pytest.mark.parametrize("changes", [{}, {"data_fraction": 0.3, "validation": 0.4}], ids=str)
def test_memory_of_a_data_loader(changes):
    """Compare the estimate of a DataLoader with a real one."""
    digits, config = load("digits"), replace(RunConfig(), **changes)
    loader = DataLoader.of(config, digits)
    assert (len(loader.train), len(loader.validation)) == parts_of(config, len(digits.train_labels))
    held = [loader.train, loader.validation]
    one, two = (estimate_memory(config, digits, runs=runs) for runs in (1, 2))
    assert (
        one.dataset
        == two.dataset
        == sum(getattr(digits, f"{part}_{what}").nbytes for part in ("train", "test") for what in ("images", "labels"))
    )
    other = estimate_memory(replace(config, validation=1e-3, data_fraction=1e-3), digits)
    more = sum(array.nbytes for array in held)
    assert 0.9 * more <= one.runs - other.runs + 1e5  # except a few images


def test_larger_runs_need_more_memory():
    digits = load("digits")
    base = estimate_memory(RunConfig(), digits).runs
    for changes in ({"width": 128}, {"depth": 4}, {"ema": 0.9}, {"patch": 1}, {"batch_size": 256}):
        assert estimate_memory(replace(RunConfig(), **changes), digits).runs > base, changes
    assert estimate_memory(RunConfig(), digits, threads=2).runs > base
    assert estimate_memory(RunConfig(), digits, runs=2).runs > 1.5 * base
    on_gpu = estimate_memory(RunConfig(), digits, backend="cupy")
    assert on_gpu.device > memory.CONTEXT + estimate_memory(RunConfig(), digits, backend="cupy", runs=1).dataset
    assert estimate_memory(RunConfig(), digits, backend="numpy").device == 0


CHILD = """
import json, sys, tempfile
from pathlib import Path
import numpy as np
from ablations.machine.bench import peak_mb
from ablations.config.run_config import RunConfig
from ablations.data import Dataset, load
from ablations.training.memory import estimate_memory
from ablations.training.checkpoint import Checkpointer
from ablations.training.stack import StackedRun
from ablations.training.trainer import train_together
fields, count, side, runs, threads = json.loads(sys.argv[1])
load("digits")  # as every process does to read the fingerprint
rng = np.random.default_rng(0)
def part(n):
    return rng.integers(0, 256, (n, side, side, 3), dtype=np.uint8), np.arange(n) % 10
data = Dataset("noise", *part(count), *part(count // 5), tuple("abcdefghij"))
configs = [RunConfig(**fields, seed=seed) for seed in range(runs)]
folder = Path(tempfile.mkdtemp())
members = [StackedRun(c, data, Checkpointer(folder / str(c.seed), {}, interval=0.3)) for c in configs]
ends = []
train_together(members, data, lambda member, end: ends.append(end), threads=threads)
assert not [end for end in ends if isinstance(end, BaseException)], ends
print(json.dumps([estimate_memory(configs[0], data, runs=runs, threads=threads).process / 2**20, peak_mb()]))
"""
SHORT = {"epochs": 1, "warmup_epochs": 0.0}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of a process is read from /proc")
@pytest.mark.parametrize(
    ("fields", "count", "side", "runs", "threads"),
    [
        ({"width": 16, "depth": 1, "patch": 16, "heads": 1}, 16_000, 32, 1, 2),
        ({"width": 96, "depth": 4, "patch": 4, "ema": 0.9, "flip": True}, 500, 32, 3, 2),
        ({"width": 512, "depth": 2, "patch": 16, "heads": 8}, 300, 32, 2, 1),
    ],
)
@pytest.mark.slow
def test_a_process_needs_the_estimated_memory_within_15_percent(tmp_path, fields, count, side, runs, threads):
    done = subprocess.run(
        [sys.executable, "-c", CHILD, json.dumps([fields | SHORT, count, side, runs, threads])],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)},
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    estimate, peak = json.loads(done.stdout)
    assert estimate > 1.3 * memory.PROCESS / MB  # the estimate exceeds the process itself
    assert peak == pytest.approx(estimate, rel=0.15)
