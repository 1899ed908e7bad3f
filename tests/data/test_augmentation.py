"""Each field of the recipe does what its name says, from draws that are the same for every arm."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from ablations.data.augmentation import (
    ERASED_AREA,
    augment,
    cutmix,
    mixup,
    normalise,
    random_crop,
    random_erase,
    random_flip,
)
from ablations.data.trivial_augment import OPERATIONS, trivial_augment
from vit.random import stream

OFF = {"crop_padding": 0, "flip": False, "erase": 0.0, "mixup": 0.0, "cutmix": 0.0, "trivial_augment": False}
FIELDS = {"crop_padding": 4, "flip": True, "erase": 0.5, "mixup": 0.8, "cutmix": 1.0, "trivial_augment": True}
MEAN, STD = np.array([0.5, 0.4, 0.3], np.float32), np.array([0.2, 0.3, 0.4], np.float32)
B = 64


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(1).integers(1, 256, (B, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def targets() -> np.ndarray:
    return np.eye(B, dtype=np.float32)


def draws(counter: int = 0) -> np.random.Generator:
    return stream(0, "augmentation", counter)


def apply(images: np.ndarray, targets: np.ndarray, counter: int = 0, **fields: Any) -> tuple[np.ndarray, np.ndarray]:
    config: Any = SimpleNamespace(**(OFF | fields))
    return augment(images, targets, config, draws(counter), MEAN, STD)


def test_all_off_only_normalises(images: np.ndarray, targets: np.ndarray) -> None:
    changed, same = apply(images, targets)
    np.testing.assert_allclose(changed, (images / 255.0 - MEAN) / STD, atol=2e-6)
    assert changed.dtype == np.float32
    assert same is targets
    floats, _ = apply(images.astype(np.float32), targets)
    np.testing.assert_array_equal(changed, floats)


@pytest.mark.parametrize("fields", [{name: value} for name, value in FIELDS.items()] + [FIELDS])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_every_field_is_seeded_changes_something_and_keeps_the_contract(
    images: np.ndarray, targets: np.ndarray, fields: dict[str, Any], dtype: type
) -> None:
    before, labels_before = images.astype(dtype), targets.copy()
    first, labels = apply(before, targets, **fields)
    again, _ = apply(before, targets, **fields)
    other, _ = apply(before, targets, 1, **fields)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first, apply(before, targets)[0])
    assert (first.shape, first.dtype, labels.dtype) == (images.shape, np.float32, np.float32)
    np.testing.assert_allclose(labels.sum(axis=1), 1, rtol=1e-6)
    assert (labels >= 0).all()
    np.testing.assert_array_equal(before, images.astype(dtype))
    np.testing.assert_array_equal(targets, labels_before)


def test_switching_one_on_changes_no_draw_of_another(images: np.ndarray, targets: np.ndarray) -> None:
    mixed = apply(images, targets, mixup=0.8)[1]
    np.testing.assert_array_equal(mixed, apply(images, targets, mixup=0.8, flip=True, erase=1.0, crop_padding=4)[1])
    flipped, both = apply(images, targets, flip=True)[0], apply(images, targets, flip=True, erase=1.0)[0]
    seen = both != 0
    np.testing.assert_array_equal(both[seen], flipped[seen])


def test_grey_and_tiny_images_work(targets: np.ndarray) -> None:
    digits = np.random.default_rng(2).integers(0, 256, (B, 8, 8, 1), dtype=np.uint8)
    config: Any = SimpleNamespace(**(FIELDS | {"crop_padding": 1}))
    for counter in range(20):
        changed, labels = augment(digits, targets, config, draws(counter), MEAN[:1], STD[:1])
        assert changed.shape == (B, 8, 8, 1)
        assert np.isfinite(changed).all()
        np.testing.assert_allclose(labels.sum(axis=1), 1, rtol=1e-6)


def test_normalise_gives_mean_zero_and_deviation_one(images: np.ndarray) -> None:
    scaled = images / 255.0
    out = normalise(images, scaled.mean(axis=(0, 1, 2)), scaled.std(axis=(0, 1, 2)))
    np.testing.assert_allclose(out.mean(axis=(0, 1, 2), dtype=np.float64), 0, atol=1e-6)
    np.testing.assert_allclose(out.std(axis=(0, 1, 2), dtype=np.float64), 1, atol=1e-6)


def test_crop_shifts_each_image_and_fills_with_black(images: np.ndarray) -> None:
    padding = 3
    cropped = random_crop(images, padding, draws())
    padded = np.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    places = set()
    for image, source in zip(cropped, padded, strict=True):
        found = [
            (y, x)
            for y in range(2 * padding + 1)
            for x in range(2 * padding + 1)
            if np.array_equal(image, source[y : y + 32, x : x + 32])
        ]
        assert len(found) == 1
        places.add(found[0])
    assert {y for y, _ in places} == {x for _, x in places} == set(range(7))


def test_flip_mirrors_half_of_the_images(images: np.ndarray) -> None:
    flipped = random_flip(images, draws())
    mirrored = [np.array_equal(a, b[:, ::-1]) for a, b in zip(flipped, images, strict=True)]
    kept = [np.array_equal(a, b) for a, b in zip(flipped, images, strict=True)]
    assert [m != k for m, k in zip(mirrored, kept, strict=True)] == [True] * B
    share = np.mean([(random_flip(images[:, :1, :2], draws(i)) != images[:, :1, :2]).any((1, 2, 3)) for i in range(50)])
    assert abs(share - 0.5) < 0.03


@pytest.mark.parametrize(("height", "width"), [(32, 32), (8, 8), (28, 28), (64, 64), (16, 32)])
def test_erasing_clears_one_rectangle_of_the_stated_area(height: int, width: int) -> None:
    ones = np.ones((2000, height, width, 3), np.float32)
    erased = random_erase(ones, 1.0, draws()) == 0
    assert (erased.all(axis=-1) == erased.any(axis=-1)).all()
    holes = erased[..., 0]
    rows, columns = holes.any(axis=2), holes.any(axis=1)
    tall, wide = rows.sum(axis=1), columns.sum(axis=1)
    area = holes.sum(axis=(1, 2))
    np.testing.assert_array_equal(area, tall * wide)
    assert (np.abs(np.diff(rows.astype(int), axis=1, prepend=0, append=0)).sum(axis=1) == 2).all()
    share = area / (height * width)
    assert share.min() >= ERASED_AREA[0]
    assert share.max() <= ERASED_AREA[1]
    assert abs(share.mean() - sum(ERASED_AREA) / 2) < 0.01
    assert (tall > wide).any()
    assert (wide > tall).any()
    assert rows.any(axis=0).all()
    assert columns.any(axis=0).all()


def test_erasing_has_the_stated_probability() -> None:
    ones = np.ones((4000, 8, 8, 1), np.float32)
    for probability in (0.0, 0.25, 1.0):
        share = (random_erase(ones, probability, draws()) == 0).any(axis=(1, 2, 3)).mean()
        assert abs(share - probability) < 0.03


def test_mixup_blends_images_and_targets_by_the_same_share(images: np.ndarray, targets: np.ndarray) -> None:
    floats = images.astype(np.float32)
    for counter in range(5):
        mixed, labels = mixup(floats, targets, 0.8, draws(counter))
        np.testing.assert_allclose(mixed, np.einsum("ij,jhwc->ihwc", labels, floats), rtol=1e-5, atol=1e-3)
        np.testing.assert_allclose(labels.sum(axis=1), 1, rtol=1e-6)
        own = np.diag(labels)
        alone = labels.max(axis=1) == 1
        np.testing.assert_allclose(own[~alone], own[~alone][0])
        assert alone.sum() < 5


def test_mixup_shares_follow_the_beta_distribution(images: np.ndarray) -> None:
    pair, one_hot = images[:2].astype(np.float32), np.eye(2, dtype=np.float32)
    lowest = [mixup(pair, one_hot, 0.2, draws(i))[1].min() for i in range(400)]
    assert np.mean(np.array(lowest) < 0.01) > 0.5
    middling = [mixup(pair, one_hot, 100.0, draws(i))[1].min() for i in range(100)]
    assert min(m for m in middling if m > 0) > 0.3


def test_cutmix_pastes_one_rectangle_and_labels_by_its_area(images: np.ndarray, targets: np.ndarray) -> None:
    areas = []
    for counter in range(30):
        mixed, labels = cutmix(images.astype(np.float32), targets, 1.0, draws(counter))
        pasted = (mixed != images).any(axis=-1)
        box = pasted.any(axis=0)
        area = box.sum()
        areas.append(area / box.size)
        assert area == box.any(axis=1).sum() * box.any(axis=0).sum()
        for i in range(B):
            partner = labels[i].copy()
            partner[i] = 0
            if partner.any():
                j = int(partner.argmax())
                np.testing.assert_allclose(partner[j], area / box.size, atol=1e-6)
                np.testing.assert_array_equal(mixed[i], np.where(box[..., None], images[j], images[i]))
    assert min(areas) < 0.1
    assert max(areas) > 0.5


def test_mixup_and_cutmix_together_take_turns(images: np.ndarray, targets: np.ndarray) -> None:
    plain = apply(images, targets)[0]
    kept = [(apply(images, targets, i, mixup=0.8, cutmix=1.0)[0] == plain).mean() for i in range(40)]
    cut = sum(share > 0.05 for share in kept)
    assert 8 < cut < 32


# TrivialAugment


def run(name: str, images: np.ndarray, strength: float, sign: float = 1.0) -> np.ndarray:
    full = np.full(len(images), strength, np.float32)
    return OPERATIONS[name](images, full, np.full(len(images), sign, np.float32), np)


def test_trivial_augment_gives_each_image_one_operation(images: np.ndarray) -> None:
    changed = trivial_augment(images, draws())
    assert (changed.dtype, changed.shape) == (np.uint8, images.shape)
    same = (changed == images).all(axis=(1, 2, 3)).mean()
    assert 0 < same < 0.3
    np.testing.assert_array_equal(changed, trivial_augment(images.astype(np.float32), draws()))


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_keeps_shape_and_leaves_its_input(images: np.ndarray, name: str) -> None:
    before = images.copy()
    for strength in (0.0, 0.3, 1.0):
        for sign in (-1.0, 1.0):
            changed = run(name, images, strength, sign)
            assert (changed.dtype, changed.shape) == (np.uint8, images.shape)
    np.testing.assert_array_equal(images, before)


@pytest.mark.parametrize("name", sorted(OPERATIONS.keys() - {"auto_contrast", "equalize"}))
def test_strength_zero_is_the_identity(images: np.ndarray, name: str) -> None:
    np.testing.assert_array_equal(run(name, images, 0.0), images)


def test_translations_move_by_whole_pixels(images: np.ndarray) -> None:
    np.testing.assert_array_equal(run("translate_x", images, 0.5)[:, :, :27], images[:, :, 5:])
    np.testing.assert_array_equal(run("translate_y", images, 1.0, -1)[:, 10:], images[:, :22])
    assert (run("translate_y", images, 1.0, -1)[:, :10] == 0).all()


def test_geometry_agrees_with_pillow(images: np.ndarray) -> None:
    smooth = np.stack([np.asarray(Image.fromarray(i[:4, :4]).resize((32, 32))) for i in images])
    for name, sign, matrix in (
        ("shear_x", 1, lambda s: (1, 0.3 * s, -0.3 * s * 16, 0, 1, 0)),
        ("shear_y", -1, lambda s: (1, 0, 0, 0.3 * s, 1, -0.3 * s * 16)),
    ):
        wanted = [
            np.asarray(Image.fromarray(i).transform((32, 32), Image.Transform.AFFINE, matrix(sign * 0.7)))
            for i in smooth
        ]
        assert np.mean(np.stack(wanted) != run(name, smooth, 0.7, sign)) < 0.01
    turned = np.stack([np.asarray(Image.fromarray(i).rotate(-21)) for i in smooth])
    back = np.stack([np.asarray(Image.fromarray(i).rotate(21)) for i in smooth])
    ours = run("rotate", smooth, 0.7)
    assert min(np.mean(ours != turned), np.mean(ours != back)) < 0.01


def test_levels_agree_with_pillow(images: np.ndarray) -> None:
    dull = images // 3 + 40
    dull[0] = 77
    pillow = [Image.fromarray(i) for i in dull]
    for name, strength, reference, tolerance in (
        ("equalize", 0.5, ImageOps.equalize, 0),
        ("auto_contrast", 0.5, ImageOps.autocontrast, 1),
        ("posterize", 0.5, lambda image: ImageOps.posterize(image, 6), 0),
        ("solarize", 0.75, lambda image: ImageOps.solarize(image, 64), 0),
    ):
        wanted = np.stack([np.asarray(reference(image)) for image in pillow])
        assert np.abs(wanted.astype(int) - run(name, dull, strength)).max() <= tolerance, name


def test_enhancements_agree_with_pillow(images: np.ndarray) -> None:
    from PIL import ImageEnhance

    enhancers = {
        "brightness": ImageEnhance.Brightness,
        "contrast": ImageEnhance.Contrast,
        "colour": ImageEnhance.Color,
        "sharpness": ImageEnhance.Sharpness,
    }
    for name, enhancer in enhancers.items():
        for sign in (-1, 1):
            wanted = [np.asarray(enhancer(Image.fromarray(i)).enhance(1 + sign * 0.45)) for i in images]
            gap = np.abs(np.stack(wanted).astype(int) - run(name, images, 0.5, sign))
            assert gap.max() <= 1, name
