"""Images that are alike: the same pixels, or the same picture after small changes.

Near-duplicates are found in two steps. The difference hash (dHash) of an image says, for each of 8 x 8 places, whether
the next place to the right is brighter; images that agree in any of several selections of its 64 bits are candidates.
They are near-duplicates if thumbnails of 16 x 16 pixels correlate at 0.97 or more, over all channels, each without its
mean, and so do their colours at 0.6 or more, where both have some: what is left of each channel without the mean
of the three. In CIFAR-100, the pairs above the first bound are copies of one picture with another compression,
brightness, white balance or crop, or in grey; below it, different objects of one design begin to appear. The
second bound separates one shape in two colours, such as a red can and a black one: it removes 4 of 241 pairs there, and
keeps most changes of the white balance. A hash alone would name more pairs that are not alike than are.
Sources: N. Krawetz, Kind of Like That, hackerfactor.com, 2013 (dHash); P. Indyk, R. Motwani, STOC 1998 (selections).
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ablations.data.heartbeat import send_heartbeat
from ablations.data.split import fixed_order

CORRELATION = 0.97
COLOUR_CORRELATION = 0.6
COLOURED = 5.0
"""Standard deviation of what is left of channels without the mean of the three, in grey levels, to compare colours."""
THUMBNAIL = 16
"""Pixels a side. Of smaller images only those with the same pixels are found: there is too little to tell alike by."""
BANDS, BAND_BITS = 16, 16
"""Selections of the 64 bits: two hashes that differ in 4 bits meet in one of them with 99.8 %, in 6 bits with 96 %."""
DISTANCE = 12
"""Bits in which hashes of candidates differ, at most."""
NEIGHBOURS = 100
"""Images with which each is compared in a selection, which bounds the time for images that are all alike."""
FLAT = 4.0
"""Standard deviation of thumbnails, in grey levels, below which there is nothing to compare."""
BLOCK = 1024
"""Images read at once."""
GREY = np.array([0.299, 0.587, 0.114], dtype=np.float32)

Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Twins:
    """Pairs of images that are alike: each image with the most alike one before it, in its part and in earlier parts.

    Images are numbered through all parts. An image that is like none is not listed.
    """

    sizes: tuple[int, ...]
    """Number of images in each part."""
    image: Indices
    """(p,)"""
    twin: Indices
    """(p,), smaller than `image`."""
    exact: NDArray[np.bool_]
    """(p,), whether the pixels are the same."""

    def part(self, images: Indices) -> Indices:
        """Return the part of each image."""
        return np.searchsorted(np.cumsum(self.sizes), images, side="right")

    def between(self, earlier: int, later: int) -> "Twins":
        """Return the pairs of an image in a part with one in an earlier part, or the same."""
        chosen = (self.part(self.twin) == earlier) & (self.part(self.image) == later)
        return Twins(self.sizes, self.image[chosen], self.twin[chosen], self.exact[chosen])


def find_twins(parts: Sequence[NDArray[np.uint8]]) -> Twins:
    """Return the images (n, h, w, c) of several parts that are alike."""
    sizes = tuple(len(images) for images in parts)
    digests, hashes, thumbnails = _describe(parts)
    starts = np.cumsum((0, *sizes[:-1]))
    image, twin = _same_pixels(digests, sizes, starts)
    closeness = np.full(len(image), 2.0, dtype=np.float32)
    if parts[0].shape[1] >= THUMBNAIL:
        near = [(image, twin, closeness)]
        for first, second in _candidates(hashes):
            correlation = _correlate(thumbnails, first, second)
            alike = correlation >= CORRELATION
            near.append((second[alike], first[alike], correlation[alike]))
            send_heartbeat()
        image, twin, closeness = (np.concatenate(arrays) for arrays in zip(*near, strict=True))
    of = np.searchsorted(starts, twin, side="right")
    order = np.lexsort((twin, -closeness, of, image))
    image, twin, closeness, of = image[order], twin[order], closeness[order], of[order]
    best = np.r_[True, (np.diff(image) != 0) | (np.diff(of) != 0)][: len(image)]
    return Twins(sizes, image[best], twin[best], closeness[best] > 1)


def _describe(parts: Sequence[NDArray[np.uint8]]) -> tuple[Indices, NDArray[np.uint64], NDArray[np.uint8]]:
    """Return a number (n,) that is the same for the same pixels, hashes (n,) and thumbnails (n, t, t, c)."""
    side, channels = parts[0].shape[2:]
    size = min(THUMBNAIL, side)
    to_hash = _averaging(side, 9).T, _averaging(side, 8)
    to_thumbnail = _averaging(side, size)
    numbers: dict[bytes, int] = {}
    digests, hashes, thumbnails = [], [], []
    for images in parts:
        for start in range(0, len(images), BLOCK):
            block = images[start : start + BLOCK]
            for image in block:
                digest = hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16).digest()
                digests.append(numbers.setdefault(digest, len(numbers)))
            planes = np.moveaxis(block.astype(np.float32), 3, 1)
            small = to_thumbnail @ planes @ to_thumbnail.T
            thumbnails.append(np.moveaxis(small.round().astype(np.uint8), 1, 3))
            grey = np.tensordot(planes, GREY, (1, 0)) if channels == 3 else planes.mean(axis=1)
            places = to_hash[1] @ grey @ to_hash[0]
            bits = (places[:, :, 1:] > places[:, :, :-1]).reshape(len(block), 64)
            hashes.append(np.packbits(bits, axis=1).copy().view(np.uint64).ravel())
            send_heartbeat()
    return np.array(digests, dtype=np.int64), np.concatenate(hashes), np.concatenate(thumbnails)


def _averaging(length: int, places: int) -> NDArray[np.float32]:
    """Return the matrix (places, length) that averages pixels over intervals of equal length."""
    edges = np.linspace(0, length, places + 1)
    pixels = np.arange(length)
    shared = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return (np.maximum(shared, 0) * places / length).astype(np.float32)


def _same_pixels(digests: Indices, sizes: Sequence[int], starts: Indices) -> tuple[Indices, Indices]:
    """Return images and, for each part up to theirs, the first image before them with the same pixels."""
    number = np.arange(len(digests))
    image, twin = [], []
    for start, size in zip(starts.tolist(), sizes, strict=True):
        first = np.full(int(digests.max(initial=-1)) + 1, len(digests))
        own = digests[start : start + size]
        np.minimum.at(first, own, number[start : start + size])
        found = first[digests]
        later = (found < number) & (number >= start)
        image.append(number[later])
        twin.append(found[later])
    return np.concatenate(image), np.concatenate(twin)


def _candidates(hashes: NDArray[np.uint64]) -> Iterator[tuple[Indices, Indices]]:
    """Yield pairs of images whose hashes agree in a selection of bits and differ little, the smaller number first."""
    bits = np.unpackbits(hashes.view(np.uint8).reshape(-1, 8), axis=1)
    for band in range(BANDS):
        chosen = fixed_order([f"band {band}, bit {bit}" for bit in range(64)])[:BAND_BITS]
        selected = np.packbits(bits[:, chosen], axis=1).copy().view(np.uint16).ravel()
        order = np.lexsort((hashes, selected))
        keys, ordered = selected[order], hashes[order]
        at = np.arange(len(hashes))
        for step in range(1, NEIGHBOURS + 1):
            at = at[at + step < len(hashes)]
            at = at[keys[at] == keys[at + step]]
            if not len(at):
                break
            near = at[np.bitwise_count(ordered[at] ^ ordered[at + step]) <= DISTANCE]
            pair = np.stack([order[near], order[near + step]])
            yield pair.min(axis=0), pair.max(axis=0)


def _correlate(thumbnails: NDArray[np.uint8], first: Indices, second: Indices) -> NDArray[np.float32]:
    """Return the correlation (p,) of the thumbnails of pairs; 0 if one is flat, or their colours differ."""
    found = np.zeros(len(first), dtype=np.float32)
    for start in range(0, len(first), 8 * BLOCK):
        chosen = slice(start, start + 8 * BLOCK)
        pairs = [thumbnails[images].astype(np.float32) for images in (first[chosen], second[chosen])]
        correlation, deviation = _correlation(*pairs)
        colours, coloured = _correlation(*(values - values.mean(axis=3, keepdims=True) for values in pairs))
        other = (deviation < FLAT) | ((coloured >= COLOURED) & (colours < COLOUR_CORRELATION))
        found[chosen] = np.where(other, 0, correlation)
    return found


def _correlation(
    first: NDArray[np.float32], second: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the correlation (p,) of pairs of images (p, h, w, c), each channel without its mean.

    And the lower of their standard deviations (p,), below which it says little.
    """
    centred = [values - values.mean(axis=(1, 2), keepdims=True) for values in (first, second)]
    deviation = [np.sqrt((values**2).mean(axis=(1, 2, 3))) for values in centred]
    product = np.einsum("phwc,phwc->p", *centred) / first[:1].size
    return product / np.maximum(deviation[0] * deviation[1], 1e-6), np.minimum(*deviation)
