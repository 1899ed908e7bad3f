"""The stage `scaling`: images per second of R runs trained as one model, over R."""

from collections.abc import Iterator
from functools import partial

from benchmarks.gpu import steps
from benchmarks.gpu.speed import POSITIONS, row_of, shapes_of
from benchmarks.gpu.worker import Context, Item, Row

RUNS = (1, 4, 16, 64, 128)


def items(context: Context) -> list[Item]:
    """Return an item for each shape, the smallest first, since R fills the GPU the more the smaller a model is."""
    shapes = [*reversed(shapes_of(context))]
    return [Item(f"{s}, {p}", partial(over_runs, context, s, p)) for p in POSITIONS for s in shapes]


def over_runs(context: Context, shape: str, position: str) -> Iterator[Row]:
    """Measure one R after the other, until memory ends."""
    about, ops, alone = shapes_of(context)[shape], context.fast_ops(), None
    for runs in context.options.get("runs", RUNS):
        context.note(f"{shape}, {position}, R={runs}", 60)
        together = None
        try:
            together = steps.RunsAsOne(about, position, runs, ops)
            row = row_of(shape, about, position, runs, steps.time_ways([together.way()])["vitab"], together)
        except MemoryError:
            yield {"shape": shape, "position": position, "note": f"no memory for R={runs}"}
            break
        finally:
            if together:
                together.close()
            steps.release(ops)
        alone = alone or row["images/s"]
        yield row | {"growth": row["images/s"] / alone}
