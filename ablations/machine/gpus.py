"""NVIDIA GPUs, their driver, and whether CuPy can use them."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ablations.machine.packages import CUDA_PACKAGES, has_cupy, versions
from ablations.machine.processes import output


@cache
def describe_gpus() -> list[str]:
    """Name, memory and driver of each NVIDIA GPU; empty without a working driver."""
    text = output("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
    return text.splitlines()


LEAST_DRIVER = {"cuda13": 580, "cuda12": 525}
"""The first driver (its number before the dot) that serves an extra's CUDA, newest CUDA first. Source: NVIDIA, CUDA
Toolkit Release Notes, "CUDA Toolkit and Minimum Required Driver Version for CUDA Minor Version Compatibility"."""


@dataclass(frozen=True)
class Device:
    """A GPU that processes started here may use."""

    name: str
    memory: int
    """Bytes; 0 where the driver does not say."""
    free: int
    """Bytes that no process has now; 0 where the driver does not say."""
    capability: str
    """Such as 9.0."""
    chosen: str
    """What CUDA_VISIBLE_DEVICES must be for a process to use this one alone."""


@cache
def devices() -> tuple[Device, ...]:
    """Return the GPUs that nvidia-smi lists and CUDA_VISIBLE_DEVICES permits; none without a driver."""
    fields = "uuid,name,memory.total,memory.free,compute_cap"
    rows = output("nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits").splitlines()
    found = []
    for row in rows:
        uuid, name, *sizes, capability = (part.strip() for part in row.split(","))
        memory, free = (int(size) << 20 if size.isdecimal() else 0 for size in sizes)
        found.append(Device(name, memory, free, capability, uuid))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return tuple(found)
    kept = []
    for choice in filter(None, (part.strip() for part in visible.split(","))):
        numbered = {str(i): device for i, device in enumerate(found)}
        device = numbered.get(choice) or next((one for one in found if one.chosen.startswith(choice)), None)
        if device is None:
            break  # as CUDA does: what follows an invalid choice is not visible
        kept.append(Device(device.name, device.memory, device.free, device.capability, choice))
    return tuple(kept)


def least_used_gpu(chosen: Sequence[str], taken: Sequence[str | None]) -> str | None:
    """Return the GPU with the fewest workers; None if there is no GPU to choose."""
    return min(chosen, key=taken.count, default=None)


def driver() -> str | None:
    """Return the version of the NVIDIA driver, such as 580.65.06; None without one."""
    if describe_gpus():
        return describe_gpus()[0].rsplit(",", 1)[-1].strip()
    try:
        text = Path("/proc/driver/nvidia/version").read_text()
    except OSError:
        return None
    found = re.search(r"\b\d{3,}\.\d+(\.\d+)?\b", text)
    return found[0] if found else None


def cuda_extras(version: str) -> list[str]:
    """Return the extras of vitab whose CUDA version this driver supports, newest first."""
    major = version.split(".")[0]
    return [extra for extra, least in LEAST_DRIVER.items() if major.isdecimal() and int(major) >= least]


def installation() -> str:
    """Return the command that installs CuPy for this driver, or the commands for all without a driver."""
    fitting = cuda_extras(driver() or "")
    return f"pip install 'vitab[{fitting[0]}]'" if fitting else "pip install 'vitab[cuda12]' or 'vitab[cuda13]'"


def gpu_problem() -> str | None:
    """Return why the cupy backend cannot train here and what to do, in one line; None if it can."""
    if not has_cupy():
        return f"CuPy is not installed: {installation()}"
    version = driver()
    if version is not None:
        fitting = cuda_extras(version)
        wheels = [name for name in versions(CUDA_PACKAGES) if name.startswith("cupy-cuda")]
        if not fitting:
            return f"the NVIDIA driver {version} is too old: CUDA 12 needs {LEAST_DRIVER['cuda12']} or newer"
        if wheels and not any(name.removeprefix("cupy-").removesuffix("x") in fitting for name in wheels):
            return (
                f"the NVIDIA driver {version} is too old for {', '.join(wheels)}: "
                f"pip uninstall -y {' '.join(wheels)} && {installation()}"
            )
    from vit.backend import cupy_problem

    return cupy_problem()


def unused_gpu() -> str | None:
    """Return a message that a GPU is not used by a run on the CPU; None without a GPU."""
    problem = gpu_problem() if devices() else None
    return f"this machine's {devices()[0].name} is not used: {problem}" if problem else None
