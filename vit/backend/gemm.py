"""Single-threaded matrix products for the matrices of small models, which have few rows and many columns.

The algorithm is that of Goto and van de Geijn (2008, doi 10.1145/1356052.1356053), simplified. Panels of op(B) are
packed into the first-level cache, each once for all rows; op(A) is read in place, or packed if its rows are not
contiguous; a tile of C stays in vector registers over the depth of a panel. Tiles consist of LLVM vectors of the
processor's width.
"""

import llvmlite.binding
import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from threadpoolctl import threadpool_info

_FEATURES = llvmlite.binding.get_host_cpu_features()
_VECTOR = 64 if _FEATURES.get("avx512f") else 32 if _FEATURES.get("avx2") else 16
"""Bytes of a vector register."""

LINE = 2 * _VECTOR
"""Bytes of a row of a panel and of a tile: two vectors."""

ROWS = 6 if _VECTOR == 32 else 14
"""Rows of the largest tile, which fits in the registers together with one row of the panel and one element of A."""

DEPTH = 256
"""Rows of a panel, which then fills most of a first-level cache."""


@intrinsic
def pointer(typing_context, address, unit):
    """Convert an integer address to a pointer to elements of the type of `unit`."""

    def codegen(context, builder, signature, args):
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return types.CPointer(unit)(types.int64, unit), codegen


def _emit_tile(builder, rows, real, a, row_stride, column_stride, panel, depth, c, c_stride, add):
    """Emit the instructions that compute one tile with `rows` rows."""
    i64 = ir.IntType(64)
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

    def broadcast(number):
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
    numbers = [broadcast(load(at(column, row_stride, r), real)) for r in range(rows)]
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


@intrinsic
def _tile(typing_context, rows, a, row_stride, column_stride, panel, depth, c, c_stride, add, unit):
    """Compute C (rows, a line) = A (rows, depth) panel (depth, a line), or += if `add` is not 0; strides in bytes."""

    def codegen(context, builder, signature, args):
        rows, *others, unit = args
        end = builder.append_basic_block("end")
        choice = builder.switch(rows, end)
        for count in range(1, ROWS + 1):
            block = builder.append_basic_block(f"rows_{count}")
            choice.add_case(ir.Constant(rows.type, count), block)
            builder.position_at_end(block)
            _emit_tile(builder, count, unit.type, *others)
            builder.branch(end)
        builder.position_at_end(end)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 9, unit), codegen


@numba.njit(nogil=True, error_model="numpy", forceinline=True)
def _rows_of_tile(left):
    """Return the rows of the next tile: the `left` rows are divided evenly into the fewest possible tiles."""
    tiles = (left + ROWS - 1) // ROWS
    return (left + tiles - 1) // tiles


@intrinsic
def _transpose(typing_context, source, source_stride, target, target_stride, unit):
    """Transpose a square matrix, as wide as a vector, from one address to another; strides in bytes.

    Row i of the first half is interleaved with row i of the second half, log2(width) times. Each pass rotates the bits
    of an element's index (row, column) by one, so all passes exchange row and column.
    """

    def codegen(context, builder, signature, args):
        source, source_stride, target, target_stride, unit = args
        size = 4 if unit.type == ir.FloatType() else 8
        lanes = _VECTOR // size
        vector = ir.VectorType(unit.type, lanes)

        def at(base, stride, count):
            address = builder.add(base, builder.mul(stride, ir.Constant(ir.IntType(64), count)))
            return builder.inttoptr(address, vector.as_pointer())

        def interleaved(first, second, start):
            order = [start + i // 2 + lanes * (i % 2) for i in range(lanes)]
            return builder.shuffle_vector(first, second, ir.Constant(ir.VectorType(ir.IntType(32), lanes), order))

        rows = [builder.load(at(source, source_stride, i)) for i in range(lanes)]
        for row in rows:
            row.align = size
        for _ in range(lanes.bit_length() - 1):
            pairs = zip(rows[: lanes // 2], rows[lanes // 2 :], strict=True)
            rows = [interleaved(*pair, start) for pair in pairs for start in (0, lanes // 2)]
        for i, row in enumerate(rows):
            builder.store(row, at(target, target_stride, i)).align = size
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4, unit), codegen


@intrinsic
def _copy_row(typing_context, source, target, count, unit):
    """Copy `count` elements, at most `ROWS`, from one address to another."""

    def codegen(context, builder, signature, args):
        source, target, count, unit = args
        i1, i32, i64 = ir.IntType(1), ir.IntType(32), ir.IntType(64)
        size = 4 if unit.type == ir.FloatType() else 8
        lanes = _VECTOR // size
        vector, mask, numbers = (ir.VectorType(kind, lanes) for kind in (unit.type, i1, i64))
        place = vector.as_pointer()
        name = f"v{lanes}f{8 * size}.p0"
        load, store = (
            cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, kinds), f"llvm.masked.{verb}.{name}")
            for verb, kind, kinds in (
                ("load", vector, [place, i32, mask, vector]),
                ("store", ir.VoidType(), [vector, place, i32, mask]),
            )
        )
        single = builder.insert_element(ir.Constant(numbers, ir.Undefined), count, ir.Constant(i32, 0))
        counts = builder.shuffle_vector(single, single, ir.Constant(ir.VectorType(i32, lanes), [0] * lanes))
        alignment = ir.Constant(i32, size)
        for first in range(0, ROWS, lanes):
            wanted = builder.icmp_signed("<", ir.Constant(numbers, list(range(first, first + lanes))), counts)
            here, there = (
                builder.inttoptr(builder.add(base, ir.Constant(i64, first * size)), place) for base in (source, target)
            )
            value = builder.call(load, [here, alignment, wanted, ir.Constant(vector, [0.0] * lanes)])
            builder.call(store, [value, there, alignment, wanted])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 3, unit), codegen


@numba.njit(nogil=True, error_model="numpy", forceinline=True)
def _pack_left(a, column_a, m, depth, block, size, unit):
    """Pack op(A), if its columns are contiguous, tile by tile, each tile as (depth, rows of the tile)."""
    i = 0
    while i < m:
        rows = _rows_of_tile(m - i)
        for p in range(depth):
            _copy_row(a + size * (i + p * column_a), block + size * (i * DEPTH + p * rows), rows, unit)
        i += rows


@numba.njit(nogil=True, error_model="numpy", forceinline=True)
def _pack_panel(b, row_b, column_b, depth, columns, panel, size, unit):
    """Pack (depth, columns) of op(B) into lines. Elements of a line beyond `columns` are not set; none is used."""
    width, lanes = LINE // size, _VECTOR // size
    packed = numba.carray(pointer(panel, unit), (depth, width))
    if column_b == 1:
        for p in range(depth):
            source = numba.carray(pointer(b + size * p * row_b, unit), columns)
            if columns == width:
                for j in range(width):
                    packed[p, j] = source[j]
            else:
                for j in range(columns):
                    packed[p, j] = source[j]
    else:
        squares = columns // lanes
        deep = depth // lanes * lanes
        for h in range(squares):
            for p in range(0, deep, lanes):
                corner = b + size * (h * lanes * column_b + p)
                _transpose(corner, size * column_b, panel + p * LINE + h * _VECTOR, LINE, unit)
        for j in range(columns):
            source = numba.carray(pointer(b + size * j * column_b, unit), depth)
            for p in range(deep if j < squares * lanes else 0, depth):
                packed[p, j] = source[p]


@numba.njit(nogil=True, error_model="numpy", forceinline=True)
def gemm(a, row_a, column_a, b, row_b, column_b, c, row_c, m, n, k, buffer, size, unit):
    """Compute C (m, n) = op(A) (m, k) op(B) (k, n), given addresses; strides in elements of `size` bytes.

    Elements have the type of `unit`. One of the two strides of op(A) and of op(B) must be 1, and the columns of C must
    be contiguous. `buffer` is the address of `buffer_bytes(m, size)` bytes.
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
                _tile(rows, left, row_step, column_step, panel, depth, out, out_step, add, unit)
                if columns < width:
                    for r in range(rows):
                        line = numba.carray(pointer(corner + size * r * row_c, unit), columns)
                        for j in range(columns):
                            line[j] = line[j] + spill[r, j] if k0 else spill[r, j]
                i += rows


def _blas_uses_the_widest_vectors() -> bool:
    """Return whether BLAS uses AVX-512. OpenBLAS uses AVX2 kernels on some processors that have AVX-512."""
    openblas = {library.get("architecture") for library in threadpool_info() if library["internal_api"] == "openblas"}
    return not openblas or bool(openblas & {"SkylakeX", "Cooperlake", "SapphireRapids"})


_BLAS_IS_WIDE = _blas_uses_the_widest_vectors()


_IS_ZEN = llvmlite.binding.get_host_cpu_name().startswith("znver")


def is_faster(m: int, n: int, k: int, trans_a: bool, trans_b: bool) -> bool:
    """Return whether `gemm` is faster than BLAS, according to measurements on processors with AVX-512.

    `gemm` is twice as fast as AVX2 kernels, except for the smallest products. Its speed is 0.9 to 1.5 times that of
    AVX-512 kernels: for small products, packing takes too long; for large k, rows of A conflict in the cache. On Zen,
    such conflicts cost little (1.05 to 1.25 times at any k), and OpenBLAS is slow with small transposed B.
    """
    if _VECTOR < 64:
        return False
    size = m * n * k
    if not _BLAS_IS_WIDE:
        return size >= 2**12
    if _IS_ZEN:
        return size >= (2**17 if trans_b else 2**20)
    return size >= 2**20 and (trans_a or k <= 384)


def buffer_bytes(m: int, size: int) -> int:
    """Return the size of the buffer that `gemm` needs for products with up to m rows."""
    return (DEPTH + ROWS) * LINE + size * m * DEPTH
