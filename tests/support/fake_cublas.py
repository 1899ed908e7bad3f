"""The stand-in for libcublas, compiled and loaded, and bf16 numbers as uint16 arrays."""

import ctypes
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import numpy as np

SOURCE = Path(__file__).with_name("fake_cublas.cpp")


@cache
def library() -> ctypes.CDLL:
    """Compiled with g++ once a process; unmapped files may go, so the folder is of this call alone."""
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder) / "libfakecublas.so"
        flags = ["-O2", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter"]
        subprocess.run(["g++", *flags, "-o", built, SOURCE], check=True)
        return ctypes.CDLL(str(built))


def bf16(x: np.ndarray) -> np.ndarray:
    """Rounded to bf16, to nearest and ties to even, as uint16."""
    bits = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def widened(x: np.ndarray) -> np.ndarray:
    """The numbers of a uint16 array of bf16, in float32; any other array as it is."""
    return (x.astype(np.uint32) << 16).view(np.float32) if x.dtype == np.uint16 else x
