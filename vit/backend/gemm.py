"""Matrix products at the speed of the core, for the low and wide matrices of small models.

The loops of Goto and van de Geijn (2008, doi 10.1145/1356052.1356053), cut to what such products need: op(B) is packed
a panel at a time, once for all rows, into the nearest cache; op(A) is read where it lies, or packed where its rows are
not contiguous; a tile of C stays in vector registers over the depth of a panel. The tiles are LLVM vectors of the width
that the processor has.
"""

from collections.abc import Callable
from typing import Any

import llvmlite.binding
import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_FEATURES = llvmlite.binding.get_host_cpu_features()
_VECTOR = 64 if _FEATURES.get("avx512f") else 32 if _FEATURES.get("avx2") else 16
"""Bytes of a vector register."""

LINE = 2 * _VECTOR
"""Bytes of a row of a panel and of a tile: two vectors."""

ROWS = 6 if _VECTOR == 32 else 14
"""Rows of the largest tile: as many as the registers hold, beside a row of the panel and a number of A."""

DEPTH = 256
"""Rows of a panel, which then fills most of a first-level cache."""


@intrinsic
def pointer(typing_context, address, unit):
    """The address of numbers of the type of `unit`."""

    def codegen(context, builder, signature, args):
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return types.CPointer(unit)(types.int64, unit), codegen


def _tile(rows: int) -> Callable[..., Any]:
    """C (rows, a line) = A (rows, depth) panel (depth, a line), or += where `add` is not 0; strides in bytes."""

    @intrinsic
    def tile(typing_context, a, row_stride, column_stride, panel, depth, c, c_stride, add, unit):
        def codegen(context, builder, signature, args):
            a, row_stride, column_stride, panel, depth, c, c_stride, add, unit = args
            real, i64 = unit.type, ir.IntType(64)
            size = 4 if real == ir.FloatType() else 8
            lanes = _VECTOR // size
            vector = ir.VectorType(real, lanes)
            undefined = ir.Constant(vector, ir.Undefined)
            zeros = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
            fma = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fma.v{lanes}f{8 * size}"
            )
            halves = range(2)

            def at(base, stride, count):
                return builder.add(base, builder.mul(stride, ir.Constant(i64, count)))

            def load(address, kind):
                value = builder.load(builder.inttoptr(address, kind.as_pointer()))
                value.align = size
                return value

            def store(value, address):
                builder.store(value, builder.inttoptr(address, vector.as_pointer())).align = size

            def spread(number):
                single = builder.insert_element(undefined, number, ir.Constant(ir.IntType(32), 0))
                return builder.shuffle_vector(single, undefined, zeros)

            step, width = ir.Constant(i64, LINE), ir.Constant(i64, _VECTOR)
            before = builder.block
            loop, after = builder.append_basic_block("loop"), builder.append_basic_block("after")
            builder.branch(loop)
            builder.position_at_end(loop)
            index, column, line = (builder.phi(i64) for _ in range(3))
            sums = [[builder.phi(vector) for _ in halves] for _ in range(rows)]
            parts = [load(at(line, width, h), vector) for h in halves]
            numbers = [spread(load(at(column, row_stride, r), real)) for r in range(rows)]
            new = [[builder.call(fma, [numbers[r], parts[h], sums[r][h]]) for h in halves] for r in range(rows)]
            following = builder.add(index, ir.Constant(i64, 1))
            carried = [
                (index, ir.Constant(i64, 0), following),
                (column, a, builder.add(column, column_stride)),
                (line, panel, builder.add(line, step)),
                *((sums[r][h], ir.Constant(vector, [0.0] * lanes), new[r][h]) for r in range(rows) for h in halves),
            ]
            for phi, first, later in carried:
                phi.add_incoming(first, before)
                phi.add_incoming(later, loop)
            builder.cbranch(builder.icmp_signed("<", following, depth), loop, after)
            builder.position_at_end(after)
            with builder.if_else(builder.icmp_signed("!=", add, ir.Constant(i64, 0))) as (adding, writing):
                for branch, adds in ((adding, True), (writing, False)):
                    with branch:
                        for r in range(rows):
                            for h in halves:
                                address = at(at(c, c_stride, r), width, h)
                                value = builder.fadd(load(address, vector), new[r][h]) if adds else new[r][h]
                                store(value, address)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 8, unit), codegen

    return tile


_tile_full, _tile_8, _tile_4, _tile_2, _tile_1 = (_tile(rows) for rows in (ROWS, 8, 4, 2, 1))


@numba.njit(nogil=True, error_model="numpy")
def _rows_of_tile(left):
    """Rows of the next tile where so many are left."""
    if left >= ROWS:
        return ROWS
    if left >= 8 and ROWS > 8:
        return 8
    return 4 if left >= 4 else 2 if left >= 2 else 1


@numba.njit(nogil=True, error_model="numpy")
def _pack_left(a, column_a, m, depth, block, size, unit):
    """Where rows of op(A) lie side by side: tile after tile, each (depth, rows of the tile)."""
    i = 0
    while i < m:
        rows = _rows_of_tile(m - i)
        packed = numba.carray(pointer(block + size * i * DEPTH, unit), (depth, rows))
        for p in range(depth):
            source = numba.carray(pointer(a + size * (i + p * column_a), unit), rows)
            for r in range(rows):
                packed[p, r] = source[r]
        i += rows


@numba.njit(nogil=True, error_model="numpy")
def _pack_panel(b, row_b, column_b, depth, columns, panel, size, unit):
    """(depth, columns) of op(B) into lines, filled up with zeros."""
    width = LINE // size
    packed = numba.carray(pointer(panel, unit), (depth, width))
    if column_b == 1:
        for p in range(depth):
            source = numba.carray(pointer(b + size * p * row_b, unit), columns)
            for j in range(columns):
                packed[p, j] = source[j]
    else:
        for j in range(columns):
            source = numba.carray(pointer(b + size * j * column_b, unit), depth)
            for p in range(depth):
                packed[p, j] = source[p]
    for p in range(depth):
        for j in range(columns, width):
            packed[p, j] = 0


@numba.njit(nogil=True, error_model="numpy")
def gemm(a, row_a, column_a, b, row_b, column_b, c, row_c, m, n, k, buffer, size, unit):
    """C (m, n) = op(A) (m, k) op(B) (k, n), by addresses; strides in elements of `size` bytes, of the type of `unit`.

    One of the strides of op(A) and of op(B) is 1, and that of the columns of C. `buffer` has `buffer_bytes(m, size)`.
    """
    width = LINE // size
    panel, spill_address, block = buffer, buffer + DEPTH * LINE, buffer + (DEPTH + ROWS) * LINE
    spill = numba.carray(pointer(spill_address, unit), (ROWS, width))
    for k0 in range(0, k, DEPTH):
        depth = min(DEPTH, k - k0)
        if row_a == 1:
            _pack_left(a + size * k0 * column_a, column_a, m, depth, block, size, unit)
        for j0 in range(0, n, width):
            columns = min(width, n - j0)
            _pack_panel(b + size * (k0 * row_b + j0 * column_b), row_b, column_b, depth, columns, panel, size, unit)
            i = 0
            while i < m:
                rows = _rows_of_tile(m - i)
                if row_a == 1:
                    left, row_step, column_step = block + size * i * DEPTH, size, size * rows
                else:
                    left, row_step, column_step = a + size * (i * row_a + k0 * column_a), size * row_a, size * column_a
                corner = c + size * (i * row_c + j0)
                if columns == width:
                    out, out_step, add = corner, size * row_c, k0
                else:
                    out, out_step, add = spill_address, LINE, 0
                if rows == ROWS:
                    _tile_full(left, row_step, column_step, panel, depth, out, out_step, add, unit)
                elif rows == 8:
                    _tile_8(left, row_step, column_step, panel, depth, out, out_step, add, unit)
                elif rows == 4:
                    _tile_4(left, row_step, column_step, panel, depth, out, out_step, add, unit)
                elif rows == 2:
                    _tile_2(left, row_step, column_step, panel, depth, out, out_step, add, unit)
                else:
                    _tile_1(left, row_step, column_step, panel, depth, out, out_step, add, unit)
                if columns < width:
                    for r in range(rows):
                        line = numba.carray(pointer(corner + size * r * row_c, unit), columns)
                        for j in range(columns):
                            line[j] = line[j] + spill[r, j] if k0 else spill[r, j]
                i += rows


def is_faster(m: int, n: int, k: int, rows_side_by_side: bool) -> bool:
    """Whether `gemm` is faster than OpenBLAS, by measurement on cores with AVX-512 (0.9 to 1.5 times its speed).

    Small products do not repay packing, and deep ones would read rows of A that fall on each other in the cache.
    """
    return _VECTOR == 64 and m * n * k >= 2**20 and (rows_side_by_side or k <= 384)


def buffer_bytes(m: int, size: int) -> int:
    """Room that `gemm` needs for products with up to m rows."""
    return (DEPTH + ROWS) * LINE + size * m * DEPTH
