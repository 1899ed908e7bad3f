"""The stage `checks`: everything the GPU computes beside the same on NumPy, fastest precision first."""

from collections.abc import Iterator
from functools import partial

from benchmarks.gpu import comparisons
from benchmarks.gpu.smoke import checked, gpu
from benchmarks.gpu.worker import Context, Item, Row

WHOLE = ("operations", "draws", "stacks")
"""Checks that are one item; the others are one for each encoding."""


def items(context: Context) -> list[Item]:
    found = [Item("GPU", partial(gpu, context), needed=True)]
    for precision in context.options.get("precisions", context.precisions):
        found += [Item(f"{part}, {precision}", partial(whole, context, part, precision)) for part in WHOLE]
        found += [
            Item(f"{position}, {precision}", partial(of_encoding, context, position, precision))
            for position in context.options.get("encodings", comparisons.ENCODINGS)
        ]
    return [*found, Item("protocols", partial(protocols, context))]


def whole(context: Context, part: str, precision: str) -> Iterator[Row]:
    for check in comparisons.CHECKS[part](context.ops(precision)):
        yield checked(check, precision)


def of_encoding(context: Context, position: str, precision: str) -> Iterator[Row]:
    """Gradients, ten losses, and captured work of an encoding."""
    ops = context.ops(precision)
    for part in (comparisons.gradients, comparisons.training, comparisons.captured):
        for check in part(ops, (position,)):
            yield checked(check, precision)


def protocols(context: Context) -> Iterator[Row]:
    """What every protocol measures of a model, beside the same model on NumPy."""
    from ablations.evaluation.registry import PROTOCOLS
    from benchmarks.gpu.protocols import compared

    ops = context.ops()
    for name in context.options.get("protocols", PROTOCOLS):
        for check in compared(ops, name):
            yield checked(check, ops.precision) | {"protocol": name}
