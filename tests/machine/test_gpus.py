"""What is said of a machine's GPUs, drivers and CuPy, with stand-ins for nvidia-smi and for CuPy."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ablations.config import GRIDS, override
from ablations.execution import plan as study
from ablations.execution import pool as children
from ablations.execution.tasks import ExecutionSettings
from ablations.machine import describe_gpus, has_cupy
from ablations.machine import gpus as hardware
from ablations.storage import Store
from tests.execution.test_plan import Log
from tests.support import fake_trainer

ROOT = Path(__file__).resolve().parents[2]
SMI = """#!/bin/sh
case "$1" in
  --query-gpu=uuid*) printf '%s' "$ROWS" ;;
  *) printf '%s' "$GPUS" ;;
esac
"""
TWO = "GPU-aa11, NVIDIA H100 80GB HBM3, 81559, 80000, 9.0\nGPU-bb22, NVIDIA A100-SXM4-40GB, 40960, 1024, 8.0\n"
CUPY = """
class CUDARuntimeError(RuntimeError): ...
class runtime:
    CUDARuntimeError = CUDARuntimeError
    @staticmethod
    def driverGetVersion(): return {driver}
    @staticmethod
    def getDeviceCount(): {count}
    @staticmethod
    def runtimeGetVersion(): return 13000
class nvrtc:
    @staticmethod
    def getVersion(): return (13, 0)
class cuda:
    runtime, nvrtc = runtime, nvrtc
"""
PATHFINDER = """
class Found: abs_path = "libc.so.6"
def load_nvidia_dynamic_lib(name): return Found
def find_nvidia_header_directory(name): return {headers!r}
"""
NO_DRIVER = {"driver": 0, "count": "raise CUDARuntimeError('cudaErrorInsufficientDriver')"}
NO_GPU = {"driver": 12080, "count": "raise CUDARuntimeError('cudaErrorNoDevice: no CUDA-capable device is detected')"}
NONE_LEFT = {"driver": 12080, "count": "return 0"}
READY = {"driver": 13000, "count": "return 1"}


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A function that puts an nvidia-smi with these rows, and its driver, before all others."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def pretend(rows=TWO, driver="580.65.06"):
        (tmp_path / "nvidia-smi").write_text(SMI)
        (tmp_path / "nvidia-smi").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.setenv("ROWS", rows)
        monkeypatch.setenv("GPUS", "".join(f"{row.split(', ')[1]}, 1 MiB, {driver}\n" for row in rows.splitlines()))
        forget()

    forget()
    yield pretend
    monkeypatch.undo()
    forget()


def forget():
    hardware.devices.cache_clear()
    describe_gpus.cache_clear()


def vitab(folder, *arguments, cupy=None, headers="/include"):
    """The real program, with a stand-in for CuPy where one is given."""
    if cupy is not None:
        (folder / "modules" / "cuda").mkdir(parents=True, exist_ok=True)
        (folder / "modules" / "cuda" / "__init__.py").touch()
        (folder / "modules" / "cuda" / "pathfinder.py").write_text(PATHFINDER.format(headers=headers))
        text = cupy if isinstance(cupy, str) else CUPY.format(**cupy)
        (folder / "modules" / "cupy.py").write_text(text)
    path = os.pathsep.join([str(folder / "modules"), str(ROOT)])
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "ablations.cli", *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path},
        timeout=60,
        check=False,
    )


def test_devices_are_those_of_nvidia_smi(machine):
    machine()
    first, second = hardware.devices()
    assert (first.name, first.memory, first.free, first.capability, first.chosen) == (
        "NVIDIA H100 80GB HBM3",
        81559 * 2**20,
        80000 * 2**20,
        "9.0",
        "GPU-aa11",
    )
    assert (second.chosen, second.free) == ("GPU-bb22", 2**30)
    assert hardware.driver() == "580.65.06"


@pytest.mark.parametrize(
    ("visible", "chosen"),
    [("1", ["1"]), ("1,0", ["1", "0"]), ("", []), ("-1", []), ("GPU-bb", ["GPU-bb"]), ("0,7,1", ["0"])],
)
def test_only_visible_devices_count(machine, monkeypatch, visible, chosen):
    machine()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [device.chosen for device in hardware.devices()] == chosen
    names = {"1": "NVIDIA A100-SXM4-40GB", "GPU-bb": "NVIDIA A100-SXM4-40GB", "0": "NVIDIA H100 80GB HBM3"}
    assert [device.name for device in hardware.devices()] == [names[choice] for choice in chosen]


def test_a_driver_that_does_not_say_how_much_memory_there_is(machine):
    machine("GPU-cc33, NVIDIA GB10, [N/A], [N/A], 12.1\n")
    (device,) = hardware.devices()
    assert (device.memory, device.free, device.capability) == (0, 0, "12.1")


def test_no_nvidia_smi_no_devices(monkeypatch, tmp_path):
    forget()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert hardware.devices() == ()
    assert describe_gpus() == []
    forget()


@pytest.mark.parametrize(
    ("version", "served"),
    [("580.65.06", ["cuda13", "cuda12"]), ("579.99", ["cuda12"]), ("525.60", ["cuda12"]), ("470.1", []), ("", [])],
)
def test_what_a_driver_serves(version, served):
    assert hardware.cuda_extras(version) == served


def test_workers_get_the_gpu_that_fewest_have(tmp_path):
    assert hardware.least_used_gpu((), ["a"]) is None
    assert hardware.least_used_gpu(("a", "b", "c"), []) == "a"
    assert hardware.least_used_gpu(("a", "b", "c"), ["a", "c"]) == "b"
    assert hardware.least_used_gpu(("a", "b"), ["a", "b", "b"]) == "a"


@pytest.mark.slow
def test_each_child_sees_one_gpu_and_the_successor_of_a_dead_one_the_same(tmp_path):
    store = Store(tmp_path / "runs")
    grid = override(GRIDS["smoke"], settings={"per_class": 5}, axes={"position": ("none",)}, seeds=4)
    plan = study.make_plan(grid, study="s")
    store.write_study(plan)
    tasks = study.tasks_of(plan, study.survey(plan, store), store)
    setting = ExecutionSettings(store.root, devices=("GPU-aa", "GPU-bb"))
    children.run_in_pool(tasks, setting, Log(), workers=2, job=fake_trainer.job_that_tells_its_gpu)
    told = {path.name: path.read_text() for path in store.root.glob("gpu.*")}
    assert sorted(told[f"gpu.{seed}"] for seed in (0, 1)) == ["GPU-aa", "GPU-bb"]
    assert told["gpu.dead"] == told["gpu.again"]


BROKEN = "raise ImportError('libcudart.so.12: cannot open shared object file')"


@pytest.mark.parametrize(
    ("cupy", "reason"),
    [
        pytest.param(NO_DRIVER, "there is no NVIDIA driver", marks=pytest.mark.slow),
        (NO_GPU, "CUDA finds no usable GPU (cudaErrorNoDevice: no CUDA-capable device is detected)"),
        pytest.param(NONE_LEFT, "the NVIDIA driver finds no GPU", marks=pytest.mark.slow),
        pytest.param(BROKEN, "CuPy cannot be imported (libcudart.so", marks=pytest.mark.slow),
    ],
    ids=["no driver", "no GPU", "none visible", "broken"],
)
def test_a_gpu_that_cannot_be_used_is_one_line(tmp_path, cupy, reason):
    refused = vitab(tmp_path, "run", "--grid", "smoke", "--backend", "cupy", cupy=cupy)
    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (2, "", 1)
    assert refused.stderr.startswith(f"error: --backend cupy cannot be used on this machine: {reason}")
    assert refused.stderr.endswith("; use --backend numpy\n")
    assert [path.name for path in tmp_path.iterdir()] == ["modules"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "cupy", [NO_DRIVER, NO_GPU, NONE_LEFT, BROKEN], ids=["no driver", "no GPU", "none visible", "broken"]
)
def test_the_cpu_serves_where_a_gpu_cannot_be_used(tmp_path, cupy):
    doctor = vitab(tmp_path, "doctor", cupy=cupy)
    assert doctor.returncode == 0
    assert "gpu       no NVIDIA GPU found; training runs on the CPU" in doctor.stdout
    small = ("--grid", "smoke", "--position", "none", "--seeds", "1", "--set", "per_class=5", "--workers", "1")
    trained = vitab(tmp_path, "run", *small, cupy=cupy)
    assert trained.returncode == 0, trained.stderr
    assert "not used" not in trained.stderr  # there is no GPU that anybody could miss


@pytest.mark.slow
def test_no_cupy_is_one_line_with_the_command_for_this_driver(tmp_path, machine):
    if has_cupy():
        pytest.skip("CuPy is installed here")
    for driver, extra in (("580.65.06", "cuda13"), ("550.54", "cuda12")):
        machine(driver=driver)
        refused = vitab(tmp_path, "run", "--grid", "smoke", "--backend", "cupy")
        reason = f"CuPy is not installed: pip install 'vitab[{extra}]'"
        assert (
            refused.stderr == f"error: --backend cupy cannot be used on this machine: {reason}; use --backend numpy\n"
        )
        assert refused.returncode == 2
        doctor = vitab(tmp_path, "doctor")
        assert doctor.returncode == 0
        assert f"cupy      not installed; the GPU is not used, as {reason}\n" in doctor.stdout
    small = ("--position", "none", "--seeds", "1", "--set", "per_class=5", "--workers", "1")
    run = vitab(tmp_path, "run", "--grid", "smoke", *small)
    assert f"note: this machine's NVIDIA H100 80GB HBM3 is not used: {reason}\n" in run.stderr


def test_doctor_in_plain_words(tmp_path, machine):
    machine()
    lines = vitab(tmp_path, "doctor", cupy=READY).stdout.splitlines()
    assert lines[-4:-1] == [
        "gpu       NVIDIA H100 80GB HBM3 (compute capability 9.0), 79.6 GB, 78.1 GB free",
        "gpu       NVIDIA A100-SXM4-40GB (compute capability 8.0), 40.0 GB, 1.0 GB free",
        "driver    580.65.06, which supports CUDA 12 and CUDA 13",
    ]
    assert lines[-1].startswith("cupy      ")
    assert lines[-1].endswith(", ready: runs train on the GPU")
    bare = vitab(tmp_path, "doctor", cupy=READY, headers=None).stdout
    assert "the GPU is not used, as CuPy finds no CUDA headers: pip install 'vitab[cuda13]'" in bare
    machine("GPU-dd44, NVIDIA Tesla T4, 15360, 15000, 7.5\n")
    turing = vitab(tmp_path, "doctor", cupy=READY).stdout
    alone = "ready: runs train on the GPU in float32 only: bf16 and tf32 require compute capability 8.0\n"
    assert turing.endswith(alone)
    machine(driver="470.82")
    old = vitab(tmp_path, "doctor", cupy=READY).stdout
    assert "driver    470.82, which supports no CUDA version that CuPy can use here" in old
    assert "as the NVIDIA driver 470.82 is too old: CUDA 12 needs 525 or newer" in old


def test_a_wheel_of_another_cuda_is_named_with_the_way_out(machine, monkeypatch):
    machine(driver="550.54")
    monkeypatch.setattr(hardware, "has_cupy", lambda: True)
    monkeypatch.setattr(hardware, "versions", lambda packages: {"cupy-cuda13x": "14.2.0"})
    assert hardware.gpu_problem() == (
        "the NVIDIA driver 550.54 is too old for cupy-cuda13x: "
        "pip uninstall -y cupy-cuda13x && pip install 'vitab[cuda12]'"
    )


@pytest.mark.slow
def test_vit_works_where_importing_cupy_fails(tmp_path):
    (tmp_path / "cupy.py").write_text("raise ImportError('no driver')")
    code = (
        "import numpy as np, vit\n"
        "config = vit.ViTConfig(image_size=8, patch_size=4, channels=1, classes=3, width=8, depth=1, heads=2)\n"
        "model = vit.ViT(config, vit.get_ops('numpy'), seeds=[0])\n"
        "assert np.isfinite(model.forward(np.ones((1, 2, 8, 8, 1), np.float32))).all()\n"
        "try: vit.get_ops('cupy')\n"
        "except RuntimeError as error: assert 'cannot be imported (no driver)' in str(error), error\n"
        "else: raise SystemExit('no error')\n"
    )
    environ = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, env=environ, timeout=60)
