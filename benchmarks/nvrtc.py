"""Compilation of CUDA sources with NVRTC, which needs neither a GPU nor a driver."""

import ctypes
import importlib.util
import os
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from vit.backend.cuda import sources as cuda_sources

REMEDY = "pip install 'vitab[cuda-compile]'"


def library() -> Path | None:
    """Return the path of the NVRTC library installed by pip (nvidia-cuda-nvrtc or a variant), or None."""
    spec = importlib.util.find_spec("nvidia")
    folders = spec.submodule_search_locations if spec else None
    found = [path for folder in folders or () for path in Path(folder).glob("*/lib/libnvrtc.so.*")]
    return min(found, default=None)


@dataclass(frozen=True)
class Compiled:
    """Resources of a kernel in a cubin, as reported by ptxas."""

    kernel: str
    registers: int
    shared: int
    """Static shared memory in bytes."""
    spilled: int
    """Bytes of spill stores and spill loads per thread."""


@dataclass(frozen=True)
class Cubin:
    """Compiled source file, with the resources of its kernels."""

    file: str
    architecture: str
    kernels: list[Compiled]
    code: bytes
    warnings: str
    """Compiler messages other than the resources."""


class Nvrtc:
    """Interface to the NVRTC library. The constructor raises RuntimeError if NVRTC is not installed."""

    def __init__(self) -> None:
        path = library()
        if path is None:
            raise RuntimeError(f"NVRTC is not installed: {REMEDY}")
        # NVRTC opens its builtins library by name, and some wheels do not set a search path for it. A library that is
        # already loaded is found.
        for builtins in path.parent.glob("libnvrtc-builtins.so.*"):
            ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)
        self._library = ctypes.CDLL(str(path))
        declare(self._library)

    @cached_property
    def architectures(self) -> list[str]:
        """Supported architectures, such as "sm_90"."""
        count = ctypes.c_int()
        self._call("GetNumSupportedArchs", ctypes.byref(count))
        numbers = (ctypes.c_int * count.value)()
        self._call("GetSupportedArchs", numbers)
        return [f"sm_{number}" for number in numbers]

    def compile(self, file: str, kernels: Sequence[str], architecture: str) -> Cubin:
        """Compile some kernels of a source file. Raise RuntimeError with the compiler log if the compilation fails."""
        program = ctypes.c_void_p()
        source = cuda_sources.text(file).encode()
        self._call("CreateProgram", ctypes.byref(program), source, file.encode(), 0, None, None)
        try:
            for kernel in kernels:
                self._call("AddNameExpression", program, kernel.encode())
            chosen = (*cuda_sources.OPTIONS, *cuda_sources.CUPY_OPTIONS)
            options = [*chosen, f"--gpu-architecture={architecture}", "--ptxas-options=-v"]
            encoded = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
            failed = self._library.nvrtcCompileProgram(program, len(options), encoded)
            log = self._text(program, "ProgramLog").decode()
            if failed:
                raise RuntimeError(f"{file} does not compile for {architecture}:\n{log}")
            names = {self._lowered(program, kernel): kernel for kernel in kernels}
            resources = {names[n]: Compiled(names[n], *numbers) for n, numbers in _resources(log) if n in names}
            return Cubin(
                file, architecture, [resources[k] for k in kernels], self._text(program, "CUBIN"), _warnings(log)
            )
        finally:
            self._library.nvrtcDestroyProgram(ctypes.byref(program))

    def _lowered(self, program: ctypes.c_void_p, kernel: str) -> str:
        name = ctypes.c_char_p()
        self._call("GetLoweredName", program, kernel.encode(), ctypes.byref(name))
        return (name.value or b"").decode()

    def _text(self, program: ctypes.c_void_p, what: str) -> bytes:
        size = ctypes.c_size_t()
        self._call(f"Get{what}Size", program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        self._call(f"Get{what}", program, buffer)
        return buffer.raw if what == "CUBIN" else buffer.value

    def _call(self, name: str, *arguments: object) -> None:
        if code := getattr(self._library, f"nvrtc{name}")(*arguments):
            raise RuntimeError(f"nvrtc{name}: {self._library.nvrtcGetErrorString(code).decode()}")


def declare(library: Any) -> None:
    """Declare the C signatures of nvrtc.h."""
    pointer, whole, text = ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p
    signatures = {
        "nvrtcGetNumSupportedArchs": [pointer],
        "nvrtcGetSupportedArchs": [pointer],
        "nvrtcCreateProgram": [pointer, text, text, whole, pointer, pointer],
        "nvrtcDestroyProgram": [pointer],
        "nvrtcAddNameExpression": [pointer, text],
        "nvrtcCompileProgram": [pointer, whole, pointer],
        "nvrtcGetLoweredName": [pointer, text, pointer],
        "nvrtcGetProgramLogSize": [pointer, pointer],
        "nvrtcGetProgramLog": [pointer, pointer],
        "nvrtcGetCUBINSize": [pointer, pointer],
        "nvrtcGetCUBIN": [pointer, pointer],
    }
    for name, kinds in signatures.items():
        function = getattr(library, name)
        function.argtypes, function.restype = kinds, whole
    library.nvrtcGetErrorString.argtypes = [whole]
    library.nvrtcGetErrorString.restype = text


def by_file(kernels: Iterable[str]) -> dict[str, list[str]]:
    """Return the kernels (name expressions), grouped by source file."""
    files: dict[str, list[str]] = {}
    for kernel in sorted(kernels):
        files.setdefault(cuda_sources.file_of(kernel), []).append(kernel)
    return files


def compile_all(nvrtc: Nvrtc, kernels: Iterable[str], architectures: Sequence[str]) -> list[Cubin]:
    """Compile each source file with its kernels for each architecture, using all cores."""
    files = by_file(kernels)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = [pool.submit(nvrtc.compile, file, names, a) for a in architectures for file, names in files.items()]
        return [job.result() for job in jobs]


_ENTRY = re.compile(
    r"Compiling entry function '(?P<name>\w+)'.*?(?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads"
    r".*?Used (?P<registers>\d+) registers(?P<used>[^\n]*)",
    re.DOTALL,
)


def _resources(log: str) -> Iterable[tuple[str, tuple[int, int, int]]]:
    """Yield the mangled name of each kernel with its registers, bytes of shared memory and bytes spilled."""
    for entry in _ENTRY.finditer(log):
        shared = re.search(r"(\d+) bytes smem", entry["used"])
        yield (
            entry["name"],
            (int(entry["registers"]), int(shared[1]) if shared else 0, int(entry["stores"]) + int(entry["loads"])),
        )


def _warnings(log: str) -> str:
    lines = [line for line in log.splitlines() if line.strip() and not re.match(r"ptxas (info|\s+\.)\s*:?", line)]
    return "\n".join(lines).strip("\0")
