"""What the CUDA kernels that draw should make of their arguments: the same draws on the host, in float64."""

from dataclasses import dataclass
from itertools import count

import numpy as np

from ablations.data import augmentation
from ablations.data.augmentation import normalise
from ablations.data.trivial_augment import OPERATIONS
from tests.support.philox import AUGMENT, DROP_ELEMENTS, DROP_PATHS, MIX, philox
from vit.backend import Ops
from vit.model import one_hot


def uniform(words: np.ndarray) -> np.ndarray:
    """0 to 1, 1 excluded."""
    return (words >> 8) / 2.0**24


def dropped(
    x: np.ndarray,
    bias: np.ndarray | None,
    *,
    rate: float,
    path_rate: float,
    seeds: np.ndarray,
    step: np.ndarray,
    site: int,
) -> np.ndarray:
    """`dropout` of x (R, B, N, D)."""
    keep, at = np.empty(x.shape), int(step[0])
    for run, seed in enumerate(int(s) for s in seeds):
        words = philox(seed, np.arange(-(-x[0].size // 4)), site, at, DROP_ELEMENTS).ravel()[: x[0].size]
        path = philox(seed, np.arange(x.shape[1]), site, at, DROP_PATHS)[:, 0]
        keep[run] = np.where(words.reshape(x[0].shape) < rate * 2**32, 0, 1 / (1 - rate))
        keep[run] *= np.where(path < path_rate * 2**32, 0, 1 / (1 - path_rate))[:, None, None]
    return keep * (x if bias is None else x + bias[:, None, None])


def augmented(
    images: np.ndarray,
    seed: int,
    step: int,
    mean: np.ndarray,
    std: np.ndarray,
    *,
    crop_padding: int,
    flip: bool,
    trivial_augment: bool = False,
    erase: float = 0.0,
) -> np.ndarray:
    """One run's batch of uint8 images (B, h, w, c), normalised, before they are mixed."""
    size = images.shape[1]
    words = philox(seed, np.arange(len(images)), step, np.arange(3)[:, None], AUGMENT).astype(np.uint64)
    moved = np.stack([_moved(*pair, crop_padding, flip) for pair in zip(images, words[0], strict=True)])
    normal = normalise(changed(moved, words) if trivial_augment else moved, mean, std).astype(float)
    unit = uniform(words)
    areas = augmentation.ERASED_AREA[0] + unit[2, :, 0] * (1 / 3 - 0.02)
    rows, columns = augmentation._rectangle(areas, unit[2, :, 1], size, size)
    tops, lefts = unit[2, :, 2] * (size - rows + 1), unit[2, :, 3] * (size - columns + 1)
    for i in np.flatnonzero(unit[1, :, 2] < erase):
        top, left = int(tops[i]), int(lefts[i])
        normal[i, top : top + rows[i], left : left + columns[i]] = 0
    return normal


def _moved(image: np.ndarray, words: np.ndarray, padding: int, flip: bool) -> np.ndarray:
    padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    top, left = (int(word * (2 * padding + 1) >> 32) for word in words[:2])
    image = padded[top : top + len(image), left : left + len(image)]
    return image[:, ::-1] if flip and words[2] >> 31 else image


def changed(images: np.ndarray, words: np.ndarray) -> np.ndarray:
    """TrivialAugment of a batch by the draws `words` (3, B, 4)."""
    names = [name for name in OPERATIONS if name != "colour" or images.shape[-1] == 3]
    chosen = words[0, :, 3] * len(names) >> 32
    strengths = uniform(words[1, :, 0]).astype(np.float32)
    signs = np.where(words[1, :, 1] >> 31, 1, -1).astype(np.float32)
    out = np.empty_like(images)
    for i, image in enumerate(images):
        operation = OPERATIONS[names[int(chosen[i])]]
        out[i] = operation(image[None], strengths[i : i + 1], signs[i : i + 1], np)[0]
    return out


@dataclass(frozen=True)
class Mixing:
    """How a batch is mixed with itself moved on by `shift` places; a rectangle (rows, columns) is CutMix's."""

    share: float = 1.0
    shift: int = 0
    rectangle: tuple[slice, slice] | None = None

    @classmethod
    def drawn(cls, seed: int, step: int, mixup: float, cutmix: float, batch: int, size: int) -> "Mixing":
        if not (mixup or cutmix):
            return cls()
        words = philox(seed, 0, step, 0, MIX).astype(np.uint64)
        cut = cutmix > 0 and (mixup <= 0 or bool(words[0] >> 31))
        share = _beta(cutmix if cut else mixup, seed, step)
        shift = int(words[1] * batch >> 32)
        if not cut:
            return cls(share, shift)
        side = np.sqrt(np.float32(1 - share))
        rows, columns = (_interval(np.float32(uniform(word)), side, size) for word in words[2:])
        area = (rows.stop - rows.start) * (columns.stop - columns.start)
        return cls(1 - area / size**2, shift, (rows, columns))

    def images(self, images: np.ndarray) -> np.ndarray:
        partner = np.roll(images, -self.shift, axis=0)
        if self.rectangle is None:
            return self.share * images + (1 - self.share) * partner
        out = images.copy()
        out[(slice(None), *self.rectangle)] = partner[(slice(None), *self.rectangle)]
        return out

    def targets(self, targets: np.ndarray) -> np.ndarray:
        return self.share * targets + (1 - self.share) * np.roll(targets, -self.shift, axis=0)


def _interval(centre: float, side: float, length: int) -> slice:
    middle, half = int(centre * length), int(side * length) / 2
    return slice(int(max(middle - half, 0)), int(min(middle + half, length)))


def _gamma(shape: float, seed: int, which: int, step: int) -> float:
    """Marsaglia and Tsang 2000, "A simple method for generating gamma variables"."""
    d = (shape + 1 if shape < 1 else shape) - 1 / 3
    for attempt in count():
        u = uniform(philox(seed, which, step, attempt, MIX))
        normal = np.sqrt(-2 * np.log(1 - u[0])) * np.cos(2 * np.pi * u[1])
        root = 1 + normal / np.sqrt(9 * d)
        if root > 0 and np.log(1 - u[2]) < 0.5 * normal**2 + d * (1 - root**3 + np.log(root**3)):
            return float(d * root**3 * ((1 - u[3]) ** (1 / shape) if shape < 1 else 1))
    raise AssertionError


def _beta(shape: float, seed: int, step: int) -> float:
    first, second = _gamma(shape, seed, 1, step), _gamma(shape, seed, 2, step)
    return first / (first + second)


def loaded(
    images: np.ndarray,
    labels: np.ndarray,
    order: np.ndarray,
    step: np.ndarray,
    batch: int,
    classes: int,
    *,
    steps_per_epoch: int,
    patch: int,
    mean: np.ndarray,
    std: np.ndarray,
    smoothing: np.ndarray,
    crop_padding: int,
    flip: bool,
    seeds: np.ndarray,
    trivial_augment: bool = False,
    erase: float = 0.0,
    mixup: float = 0.0,
    cutmix: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """`load_batch`: patches (R, B, N, C p p) and targets (R, B, C)."""
    pictures, targets, at, size = [], [], int(step[0]), images.shape[1]
    start = at % steps_per_epoch * batch
    changes = {"crop_padding": crop_padding, "flip": flip, "trivial_augment": trivial_augment, "erase": erase}
    for run, seed in enumerate(int(s) for s in seeds):
        chosen = order[run, start : start + batch]
        mixing = Mixing.drawn(seed, at, mixup, cutmix, batch, size)
        pictures.append(mixing.images(augmented(images[chosen], seed, at, mean[run], std[run], **changes)))  # type: ignore[arg-type]
        targets.append(mixing.targets(one_hot(labels[chosen], classes, float(smoothing[run]))))
    whole = np.stack(pictures)
    out = np.empty((*whole.shape[:2], (size // patch) ** 2, whole.shape[-1] * patch**2))
    return Ops(np, "float64").patchify(whole, patch, out), np.stack(targets)
