"""The CUDA sources: which file has which kernel, their text with headers in place, and how they are compiled."""

import re
from functools import cache
from pathlib import Path

DIRECTORY = Path(__file__).parent / "src"
OPTIONS = ("--std=c++17",)
"""NVRTC's, besides `--gpu-architecture=sm_NN`. The sources include no header of CUDA's or of the system's."""
CUPY_OPTIONS = ("-ftz=true", "--device-as-default-execution-space")
"""What CuPy adds to them."""

_INCLUDE = re.compile(r'^#include "([\w.]+)"\n', re.MULTILINE)
_KERNEL = re.compile(r"\b__global__\s+void\s+(?:__launch_bounds__\([^)]*\)\s*)?(\w+)\(")


def files() -> list[str]:
    """The names of the sources, such as "gelu.cu"."""
    return sorted(path.name for path in DIRECTORY.glob("*.cu"))


@cache
def text(file: str) -> str:
    """A source with every header of its own directory put in place once, so that a compiler needs no include path and
    a cache of compiled sources notices a changed header."""
    seen: set[str] = set()

    def expand(name: str) -> str:
        seen.add(name)
        source = (DIRECTORY / name).read_text()
        return _INCLUDE.sub(lambda match: "" if match[1] in seen else expand(match[1]), source)

    return expand(file)


@cache
def _file_of() -> dict[str, str]:
    return {name: file for file in files() for name in _KERNEL.findall((DIRECTORY / file).read_text())}


def kernel_names() -> set[str]:
    """Every kernel, without template parameters."""
    return set(_file_of())


def file_of(kernel: str) -> str:
    """The source of a kernel, given by name or as a name expression. KeyError where there is none."""
    return _file_of()[kernel.partition("<")[0]]
