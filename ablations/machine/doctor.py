"""What `vitab doctor` looks at."""

import platform
import re
from dataclasses import dataclass, field
from importlib import metadata

from ablations.machine.cpu import available_cores, blas, cpu_model
from ablations.machine.gpus import cuda_extras, devices, driver, gpu_problem
from ablations.machine.memory import available_memory, format_bytes
from ablations.machine.packages import CUDA_PACKAGES, git_state, versions

LEAST_BF16 = 8
"""The first compute capability, before the dot, whose tensor cores multiply bf16 and TF32."""


@dataclass
class Examination:
    """Lines to print, required packages that are missing, and the command that installs them."""

    lines: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    remedy: str = "pip install vitab"


def diagnose() -> Examination:
    """Look at Python, packages, processor, threads, BLAS and GPUs."""
    found = Examination()
    packages = required_packages()
    installed = versions(tuple(packages))
    found.missing = [package for package in packages if package not in installed]
    found.remedy = "pip install " + " ".join(f"'{packages[name]}'" for name in found.missing)
    state = git_state()
    say = found.lines.append
    say(f"vitab     {', '.join(versions(('vitab',)).values()) or 'not installed: run from its folder'}")
    if state:
        say(f"commit    {state['commit'][:12]}{' with uncommitted changes' if state['dirty'] else ''}")
    say(f"python    {platform.python_version()} on {platform.platform()}")
    say(f"packages  {', '.join(f'{name} {version}' for name, version in installed.items())}")
    say(f"cpu       {cpu_model()}, {available_cores()} cores available")
    if "numpy" in installed and "threadpoolctl" in installed:
        say(f"blas      {'; '.join(blas()) or 'none found'}")
    room = available_memory()
    say(f"memory    {'unknown' if room is None else format_bytes(room)} available to runs")
    found.lines += gpu_lines()
    return found


def gpu_lines() -> list[str]:
    """Describe the GPUs, their driver, CuPy, and what is missing for training on them."""
    version, cupy = driver(), versions(CUDA_PACKAGES)
    lines = [
        f"gpu       {device.name} (compute capability {device.capability}), {format_bytes(device.memory)}, "
        f"{format_bytes(device.free)} free"
        for device in devices()
    ]
    lines = lines or ["gpu       no NVIDIA GPU found; training runs on the CPU"]
    served = [f"CUDA {extra.removeprefix('cuda')}" for extra in reversed(cuda_extras(version or ""))]
    if version is not None:
        lines.append(
            f"driver    {version}, which supports {' and '.join(served) or 'no CUDA version that CuPy can use here'}"
        )
    else:
        lines.append("driver    no NVIDIA driver found" + (": install it from nvidia.com first" if devices() else ""))
    packages = ", ".join(f"{name} {number}" for name, number in cupy.items()) or "not installed"
    problem = gpu_problem()
    if problem is None:
        lines.append(f"cupy      {packages}, ready: runs train on the GPU{_float32_only()}")
    elif version is None and not cupy:
        lines.append("cupy      not installed (not needed without a GPU)")
    else:
        lines.append(f"cupy      {packages}; the GPU is not used, as {problem}")
    return lines


def _float32_only() -> str:
    """Return a clause for machines whose GPUs have no tensor cores for bf16, else an empty text."""
    majors = [device.capability.partition(".")[0] for device in devices()]
    old = bool(majors) and all(major.isdecimal() and int(major) < LEAST_BF16 for major in majors)
    return f" in float32 only: bf16 and tf32 require compute capability {LEAST_BF16}.0" if old else ""


def required_packages() -> dict[str, str]:
    """Return the requirements of vitab by package name, such as {"numpy": "numpy>=2.0"}."""
    try:
        lines = metadata.requires("vitab") or []
    except metadata.PackageNotFoundError:
        lines = ["numpy>=2.0", "scipy>=1.13", "numba>=0.61", "pandas>=2.2", "scikit-learn>=1.5", "threadpoolctl>=3.5"]
    plain = [line for line in lines if "extra ==" not in line]
    return {re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0]: line.split(";")[0].strip() for line in plain}
