"""CUDA sources: the file of each kernel, source text with headers expanded, and compiler options."""

import re
from functools import cache
from pathlib import Path

DIRECTORY = Path(__file__).parent / "src"
OPTIONS = ("--std=c++17",)
"""Options of NVRTC, besides `--gpu-architecture=sm_NN`. The sources include no CUDA or system headers."""
CUPY_OPTIONS = ("-ftz=true", "--device-as-default-execution-space")
"""Options that CuPy adds."""

_INCLUDE = re.compile(r'^#include "([\w.]+)"\n', re.MULTILINE)
_KERNEL = re.compile(r"\b__global__\s+void\s+(?:__launch_bounds__\([^)]*\)\s*)?(\w+)\(")


def files() -> list[str]:
    """Return the names of the source files, such as "gelu.cu"."""
    return sorted(path.name for path in DIRECTORY.glob("*.cu"))


@cache
def text(file: str) -> str:
    """Return a source file with its headers expanded, each once.

    So the compiler needs no include path, and a changed header changes the key in the cache of compiled kernels.
    """
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
    """Return the names of all kernels, without template parameters."""
    return set(_file_of())


def file_of(kernel: str) -> str:
    """Return the source file of a kernel, given by name or name expression. Raise KeyError if there is none."""
    return _file_of()[kernel.partition("<")[0]]
