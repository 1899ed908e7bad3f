"""IDX, the format of MNIST: zero, zero, a type, the number of axes, their big-endian lengths, the values.

Files may be compressed with gzip.
Source: Y. LeCun, C. Cortes, C. Burges, The MNIST database of handwritten digits, 1998.
"""

import gzip
import zlib
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from ablations.errors import UsageError

TYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
MOST_AXES = 4


def open_idx(path: Path) -> IO[bytes]:
    """Open a plain or gzipped file for its uncompressed content."""
    return cast(IO[bytes], gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


def read_header(file: IO[bytes], path: Path) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """Read the type of the values and the shape.

    Raises:
        UsageError: if the file is not IDX, or damaged.
    """
    try:
        start = file.read(4)
        if len(start) == 4 and not start[0] and not start[1] and start[2] in TYPES and 1 <= start[3] <= MOST_AXES:
            lengths = file.read(4 * start[3])
            if len(lengths) == 4 * start[3]:
                return np.dtype(TYPES[start[2]]), tuple(int(n) for n in np.frombuffer(lengths, dtype=">u4"))
    except (EOFError, OSError, zlib.error) as error:
        raise UsageError(f"{path}: damaged or truncated ({error})") from error
    raise UsageError(
        f"{path}: the header must be IDX: 0, 0, a type, the number of axes and their lengths; not an IDX file"
    )


def header(array: NDArray[np.uint8]) -> bytes:
    """Return the header of an array of bytes."""
    return bytes((0, 0, 8, array.ndim)) + np.array(array.shape, dtype=">u4").tobytes()


def read(path: Path, *, most: int | None = None) -> NDArray[Any]:
    """Read a whole file.

    Args:
        most: The most bytes of values that there may be; more are not read.

    Raises:
        UsageError: if the file is not IDX, damaged, or its size is not that of its shape.
    """
    with open_idx(path) as file:
        dtype, shape = read_header(file, path)
        promised = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        if most is not None and promised > most:
            raise UsageError(
                f"{path}: {promised:,} bytes for the shape {shape} in the header, at most {most:,} are valid"
            )
        try:
            data = file.read(promised + 1)
        except (EOFError, OSError, zlib.error) as error:
            raise UsageError(f"{path}: damaged or truncated ({error})") from error
    if len(data) != promised:
        raise UsageError(
            f"{path}: there must be {promised:,} bytes for the shape {shape} in the header, got "
            f"{'more' if len(data) > promised else f'{len(data):,}'}: truncated or damaged"
        )
    return np.frombuffer(data, dtype=dtype).reshape(shape)
