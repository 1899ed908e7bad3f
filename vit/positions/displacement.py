"""Tables over the displacement of two patches, spread to all pairs of patches and summed back.

Entry (i, j) of a (2 g - 1) x (2 g - 1) table belongs to a query that is i - (g - 1) rows below and j - (g - 1) columns
right of the key, as in Swin and timm.
"""

from types import ModuleType

from vit.backend import Array


def spread(xp: ModuleType, table: Array, out: Array, prefix: int) -> None:
    """Write a table (..., 2 g - 1, 2 g - 1) to the patch pairs of `out` (..., T, T), T = prefix + g g."""
    grid = (table.shape[-1] + 1) // 2
    rows = xp.empty((*table.shape[:-1], grid, grid), table.dtype)  # displacement of rows, query column, key column
    for x in range(grid):
        rows[..., x, :] = table[..., x : x + grid][..., ::-1]
    for y in range(grid):
        to = slice(prefix + y * grid, prefix + (y + 1) * grid)
        pairs = rows[..., y : y + grid, :, :][..., ::-1, :, :]  # key row, query column, key column
        out[..., to, prefix:] = pairs.swapaxes(-3, -2).reshape(*table.shape[:-2], grid, grid * grid)


def sum_back(xp: ModuleType, dout: Array, prefix: int, grid: int) -> Array:
    """Return the gradient of the table (..., 2 g - 1, 2 g - 1) of `spread`, given that of `out` (..., T, T)."""
    lead, span = dout.shape[:-2], 2 * grid - 1
    pairs = dout[..., prefix:, prefix:].reshape(
        *lead, grid, grid, grid, grid
    )  # query row and column, key row and column
    rows = xp.zeros((*lead, grid, grid, span), dout.dtype)  # query row, key row, displacement of columns
    for x in range(grid):
        rows[..., x : x + grid] += pairs[..., x, :, ::-1]
    table = xp.zeros((*lead, span, span), dout.dtype)
    for y in range(grid):
        table[..., y : y + grid, :] += rows[..., y, ::-1, :]
    return table
