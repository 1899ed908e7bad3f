"""Stratified, reproducible selections of examples."""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ablations.errors import UsageError
from vit.random import stream

Indices = NDArray[np.int64]


def split(
    labels: NDArray[np.int64], fraction: float, seed: int, groups: NDArray[np.int64] | None = None
) -> tuple[Indices, Indices]:
    """Cut a validation part from the training part: ``(train, validation)``, sorted indices into ``labels``.

    The parts are stratified, their union is everything, and the draw is ``stream(seed, "validation")``, so
    that arms of one seed are validated on the same images. ``round(fraction * n)`` images are held out: one of each
    class at least, if there are as many, and never the last of a class. With groups, it is about as many.

    Args:
        groups: (n,), 0 to G - 1: images of a group are not divided. None: each image is on its own.

    Raises:
        UsageError: if ``fraction`` is not in [0, 1).
    """
    if not 0 <= fraction < 1:
        raise UsageError(f"validation must be at least 0 and below 1, got {fraction}")
    held = round(fraction * len(labels))
    at_least = int(held >= len(np.unique(labels)))
    draws = stream(seed, "validation").random(len(labels) if groups is None else groups.max() + 1)
    order = np.argsort(draws, kind="stable")
    if groups is None:
        validation = take(labels, order, held, at_least=at_least, leave=1)
    else:
        validation = take_groups(labels, groups, order, held, at_least=at_least)
    return np.setdiff1d(np.arange(len(labels)), validation), validation


def subsample(labels: NDArray[np.int64], fraction: float, seed: int) -> Indices:
    """Return a stratified share of the examples, sorted indices, drawn from ``stream(seed, "data-fraction")``.

    At least one image of each class is kept. Shares of one seed are nested, up to the rounding of class counts.

    Raises:
        UsageError: if ``fraction`` is not in (0, 1].
    """
    if not 0 < fraction <= 1:
        raise UsageError(f"data_fraction must be above 0 and at most 1, got {fraction}")
    order = np.argsort(stream(seed, "data-fraction").random(len(labels)), kind="stable")
    return take(labels, order, round(fraction * len(labels)), at_least=1)


def fixed_order(keys: Sequence[str]) -> Indices:
    """Return a shuffle that does not depend on library versions: positions sorted by the SHA-256 of their key."""
    digests = [hashlib.sha256(key.encode()).digest() for key in keys]
    return np.array(sorted(range(len(keys)), key=digests.__getitem__), dtype=np.int64)


def take(labels: NDArray[np.int64], order: Indices, total: int, *, at_least: int = 0, leave: int = 0) -> Indices:
    """Return the first ``total`` examples in ``order``, in proportion to the classes as `apportion` does; sorted."""
    counts = np.bincount(labels)
    quotas = apportion(counts, total, at_least=at_least, leave=leave)
    chosen = [order[labels[order] == label][:quota] for label, quota in enumerate(quotas)]
    return np.sort(np.concatenate(chosen)).astype(np.int64)


def take_groups(
    labels: NDArray[np.int64], groups: NDArray[np.int64], order: Indices, total: int, *, at_least: int = 0
) -> Indices:
    """Return about ``total`` examples in proportion to the classes, all or none of each group; sorted.

    Groups come in turn, and one is taken if that brings the numbers of examples of each class nearer to those of `take`
    (in squares), unless it holds the last examples of a class. With one example in each group this is `take`.

    Args:
        groups: (n,), 0 to G - 1.
        order: The order (G,) in which groups are considered.
        at_least: 1 to take a further group, the smallest, for each class without an example, where it has two groups.
    """
    counts = np.bincount(labels)
    pairs, numbers = np.unique(groups * len(counts) + labels, return_counts=True)
    bounds = np.searchsorted(pairs, np.arange(len(order) + 1) * len(counts)).tolist()
    lacking, left = apportion(counts, total, at_least=at_least, leave=1), counts.copy()
    taken = np.zeros(len(order), dtype=bool)

    def counted(group: int) -> tuple[Indices, Indices]:
        """Return the classes in a group and how many examples there are of each."""
        where = slice(bounds[group], bounds[group + 1])
        return pairs[where] % len(counts), numbers[where]

    def take_one(group: int, classes: Indices, number: Indices) -> None:
        taken[group] = True
        lacking[classes] -= number
        left[classes] -= number

    for group in order.tolist():
        classes, number = counted(group)
        if (number * (2 * lacking[classes] - number)).sum() > 0 and (left[classes] > number).all():
            take_one(group, classes, number)
    for label in np.flatnonzero(left == counts).tolist() if at_least else ():
        having = np.unique(groups[labels == label])
        possible = [(group, *counted(group)) for group in order[np.isin(order, having)].tolist()]
        possible = [found for found in possible if (left[found[1]] > found[2]).all()]
        if possible and left[label] == counts[label]:
            take_one(*min(possible, key=lambda found: int(found[2].sum())))
    return np.flatnonzero(taken[groups]).astype(np.int64)


def apportion(counts: NDArray[np.int64], total: int, *, at_least: int = 0, leave: int = 0) -> Indices:
    """Share ``total`` seats in proportion to ``counts`` by the largest remainder; ties go to the lower class.

    No class gets more than it has without the last ``leave``, nor fewer than ``at_least`` of those; ``total`` gives way
    to that.
    """
    most = np.maximum(counts - leave, 0)
    least = np.minimum(at_least, most)
    total = int(np.clip(total, least.sum(), most.sum()))
    exact = counts * (total / counts.sum())
    seats: Indices = np.clip(np.floor(exact + 1e-9).astype(np.int64), least, most)
    while (short := total - int(seats.sum())) != 0:
        step = 1 if short > 0 else -1
        movable = seats < most if short > 0 else seats > least
        gap = np.where(movable, step * (exact - seats), -np.inf)
        seats[np.argsort(-gap, kind="stable")[: min(abs(short), int(movable.sum()))]] += step
    return seats
