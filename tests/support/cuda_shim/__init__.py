"""Runs the CUDA kernels on the CPU: `shim_kernels()` are CudaKernels on NumPy arrays, compiled by g++ on demand."""

import ctypes
import fcntl
import hashlib
import mmap
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from vit.backend.cuda import sources as cuda_sources
from vit.backend.cuda.kernels import CudaKernels

HEADER = Path(__file__).parent / "cuda_shim.h"
FLAGS = ("-std=c++20", "-O1", "-fPIC", "-shared", "-fno-strict-aliasing", "-w")
MULTIPROCESSORS = 4
_libc = ctypes.CDLL(None, use_errno=True)


def compiler() -> str | None:
    return shutil.which("g++")


class Shim:
    """A `Launch` on NumPy arrays. Kernels are compiled when first launched, or by `compile` many at a time."""

    def __init__(self, folder: Path, *, backwards: bool = False) -> None:
        """`folder` keeps compiled kernels, by the digest of their source; with `backwards`, threads and blocks run in
        the reverse order."""
        self.folder, self.backwards = folder, backwards
        self._entries: dict[str, tuple[ctypes.CDLL, int]] = {}

    def __call__(
        self, kernel: str, grid: Sequence[int], block: Sequence[int], shared_bytes: int, args: Sequence[Any]
    ) -> None:
        if kernel not in self._entries:
            self.compile([kernel])
        library, index = self._entries[kernel]
        pointers, kinds, keep = [], [], []
        for value in args:
            kind, size, cell = _argument(value)
            keep.append(cell)
            pointers.append(ctypes.cast(ctypes.byref(cell), ctypes.c_void_p))
            kinds.append((kind, size))
        count = len(args)
        error = library.shim_launch(
            index,
            (ctypes.c_uint * 3)(*grid),
            (ctypes.c_uint * 3)(*block),
            ctypes.c_size_t(shared_bytes),
            (ctypes.c_void_p * count)(*pointers),
            (_Parameter * count)(*kinds),
            count,
            self.backwards,
        )
        if error:
            raise RuntimeError(f"{kernel}: {error.decode()}")

    def compile(self, kernels: Iterable[str]) -> None:
        """Compiles kernels (name expressions), one library for each source, as far as they are not known."""
        by_file: dict[str, set[str]] = {}
        for kernel in kernels:
            if kernel not in self._entries:
                by_file.setdefault(cuda_sources.file_of(kernel), set()).add(kernel)
        self.add({file: (cuda_sources.text(file), sorted(names)) for file, names in by_file.items()})

    def add(self, sources: Mapping[str, tuple[str, Sequence[str]]]) -> None:
        """Compile, all at once, sources given by file name with their texts and kernels."""
        libraries, translated = {}, {}
        for file, (text, names) in sources.items():
            source = translate(text, names)
            digest = hashlib.sha256(source.encode() + HEADER.read_bytes() + repr(FLAGS).encode()).hexdigest()[:16]
            library = libraries[file] = self.folder / f"{file}-{digest}.so"
            translated[library] = source
        with ExitStack() as locks:
            for library in sorted(translated):  # in one order in all processes, so that none waits for another forever
                if not library.exists():
                    locks.enter_context(_locked(library))
            building = [
                (library, _build(library, source)) for library, source in translated.items() if not library.exists()
            ]
            for library, process in building:
                _, errors = process.communicate()
                if process.returncode:
                    raise RuntimeError(f"g++ fails for {library.name}:\n{errors}")
                _unfinished(library).replace(library)
                _unfinished(library).with_suffix(".cpp").unlink()
        for file, library in libraries.items():
            loaded = ctypes.CDLL(str(library))
            loaded.shim_launch.restype = ctypes.c_char_p
            self._entries |= {name: (loaded, index) for index, name in enumerate(sources[file][1])}


class _Parameter(ctypes.Structure):
    _fields_ = (("kind", ctypes.c_char), ("size", ctypes.c_int))


def _argument(value: Any) -> tuple[bytes, int, Any]:
    """Kind, size (of what is pointed to; 0 for a null pointer) and a cell with the value."""
    if isinstance(value, np.ndarray):
        return b"p", value.dtype.itemsize, ctypes.c_void_p(value.ctypes.data)
    if isinstance(value, np.uintp):
        return b"p", 0, ctypes.c_void_p(int(value))
    if not isinstance(value, np.generic):
        raise TypeError(f"{value!r} of {type(value)} given as a kernel's argument, valid are arrays and NumPy scalars")
    cell = (ctypes.c_char * value.dtype.itemsize).from_buffer_copy(value.tobytes())
    return value.dtype.kind.encode(), value.dtype.itemsize, cell


def translate(text: str, kernels: Sequence[str]) -> str:
    """CUDA to C++: shared memory comes from the shim, and a table names the kernels."""
    text = re.sub(
        r"extern __shared__ (?:__align__\(\d+\) )?([\w ]+?) (\w+)\[\];",
        r"\1* \2 = reinterpret_cast<\1*>(shim::dynamic_shared());",
        text,
    )
    text = re.sub(r"__shared__ (?:__align__\(\d+\) )?([^;]+);", _shared, text)
    entries = "\n".join(f'    shim::describe<{k}>("{k}", {k}),' for k in kernels)
    return f"""#include "{HEADER}"
{text}
static const shim::Kernel kernels[] = {{
{entries}
}};
extern "C" const char* shim_launch(int kernel, const unsigned* grid, const unsigned* block, size_t shared,
                                   void** values, const shim::Parameter* given, int count, bool backwards) {{
    return shim::launch(kernels[kernel], grid, block, shared, values, given, count, backwards);
}}
"""


def _shared(match: re.Match[str]) -> str:
    """`float a[8], b[9][2]` as references to memory of the block."""
    kind, _, names = match[1].partition(" ")
    declared = re.findall(r"(\w+)((?:\[[^\]]*\])*)", re.sub(r"\[[^\]]*\]", lambda m: m[0].replace(" ", ""), names))
    return " ".join(f"auto& {name} = shim::shared<__COUNTER__, {kind} {size}>();" for name, size in declared if name)


def _build(library: Path, source: str) -> "subprocess.Popen[str]":
    path = _unfinished(library).with_suffix(".cpp")
    path.write_text(source)
    command = [str(compiler()), *FLAGS, str(path), "-o", str(_unfinished(library))]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def _unfinished(library: Path) -> Path:
    """Where this process builds: one that is killed leaves no library that is half written."""
    return library.with_name(f"{library.stem}-{os.getpid()}.new")


@contextmanager
def _locked(library: Path) -> Iterator[None]:
    """Hold the lock of a library; other processes wait for it instead of compiling the same."""
    with library.with_suffix(".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def device(array: np.ndarray) -> np.ndarray:
    """A copy that ends (to 16 bytes) where memory ends, with forbidden pages around it: a stray access faults."""
    array = np.ascontiguousarray(array)
    page, size = mmap.PAGESIZE, -(-array.nbytes // 16) * 16
    inner = max(1, -(-size // page)) * page
    memory = mmap.mmap(-1, inner + 2 * page)
    base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for start in (base, base + page + inner):
        if _libc.mprotect(ctypes.c_void_p(start), ctypes.c_size_t(page), 0):
            raise OSError(ctypes.get_errno(), "mprotect")
    begin = page + inner - size
    copy = np.frombuffer(memory, array.dtype, array.size, begin).reshape(array.shape)
    copy[...] = array
    return copy


def scratch(elements: int) -> np.ndarray:
    """Memory of NaN, as `CudaKernels` asks for it."""
    return device(np.full(elements, np.nan, dtype=np.float32))


def shim_kernels(folder: Path, *, backwards: bool = False, multiprocessors: int = MULTIPROCESSORS) -> CudaKernels:
    return CudaKernels(Shim(folder, backwards=backwards), scratch, multiprocessors)


class Recorder:
    """A `Launch` that computes nothing and notes the kernels."""

    def __init__(self) -> None:
        self.kernels: set[str] = set()

    def __call__(self, kernel: str, *launch: Any) -> None:
        self.kernels.add(kernel)


def kernels_of(calls: Iterable[Callable[[CudaKernels], object]], multiprocessors: int = MULTIPROCESSORS) -> set[str]:
    """The kernels that calls launch."""
    recorder = Recorder()
    kernels = CudaKernels(recorder, lambda elements: np.empty(elements, dtype=np.float32), multiprocessors)
    for call in calls:
        call(kernels)
    return recorder.kernels
