"""What `vitab doctor` looks at."""

import platform
import re
from dataclasses import dataclass, field
from importlib import metadata

from ablations.environment import CUDA_PACKAGES, available_cores, blas, cpu_model, git_state, gpus, versions


@dataclass
class Examination:
    """Lines to print, required packages that are missing, and the command that installs them."""

    lines: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    remedy: str = "pip install vitab"


def examine() -> Examination:
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
        say(f"commit    {state['commit'][:12]}{' with changes' if state['dirty'] else ''}")
    say(f"python    {platform.python_version()} on {platform.platform()}")
    say(f"packages  {', '.join(f'{name} {version}' for name, version in installed.items())}")
    say(f"cpu       {cpu_model()}, {available_cores()} cores to use")
    if "numpy" in installed and "threadpoolctl" in installed:
        say(f"blas      {'; '.join(blas()) or 'none found'}")
    cupy = versions(CUDA_PACKAGES)
    say(f"gpu       {'; '.join(gpus()) or 'no NVIDIA GPU found'}")
    if cupy:
        say(f"cupy      {', '.join(f'{name} {version}' for name, version in cupy.items())}")
    else:
        hint = ": pip install 'vitab[cuda12]' or 'vitab[cuda13]' to use the GPU" if gpus() else " (not needed)"
        say(f"cupy      not installed{hint}")
    return found


def required_packages() -> dict[str, str]:
    """What vitab requires by package name, such as {"numpy": "numpy>=2.0"}."""
    try:
        lines = metadata.requires("vitab") or []
    except metadata.PackageNotFoundError:
        lines = ["numpy>=2.0", "scipy>=1.13", "numba>=0.61", "pandas>=2.2", "scikit-learn>=1.5", "threadpoolctl>=3.5"]
    plain = [line for line in lines if "extra ==" not in line]
    return {re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0]: line.split(";")[0].strip() for line in plain}
