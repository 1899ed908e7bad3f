"""Pictures of every kind become arrays of the right values, or one line that names them."""

import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ablations.config.run_config import RESIZES as CHOICES
from ablations.data.pictures import RESIZES, decode, read_picture
from ablations.errors import UsageError


def saved(picture: Image.Image, path: Path, **options: object) -> Path:
    picture.save(path, **options)
    return path


def test_a_picture_of_the_size_keeps_its_bytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 256, (9, 9, 3)).astype(np.uint8)
    grey = rng.integers(0, 256, (9, 9)).astype(np.uint8)
    assert np.array_equal(read_picture(saved(Image.fromarray(colour), tmp_path / "c.png"), 9), colour)
    path = saved(Image.fromarray(grey), tmp_path / "g.png")
    assert np.array_equal(read_picture(path, 9, 1)[:, :, 0], grey)
    assert np.array_equal(read_picture(path, 9, 3), np.repeat(grey[:, :, None], 3, axis=2))
    assert np.array_equal(read_picture(io.BytesIO(path.read_bytes()), 9, 1)[:, :, 0], grey)


def test_sixteen_bits_are_scaled_to_eight(tmp_path: Path) -> None:
    values = np.array([[0, 256, 257, 65535], [128, 129, 32896, 4]], dtype=np.uint16).repeat(2, axis=0)
    path = saved(Image.fromarray(values), tmp_path / "deep.png")
    assert np.array_equal(read_picture(path, 4, 1)[:, :, 0], np.round(values / 257).astype(np.uint8))


def test_transparent_parts_are_white_and_palettes_are_colours(tmp_path: Path) -> None:
    clear = Image.new("RGBA", (5, 5), (10, 20, 30, 0))
    assert (read_picture(saved(clear, tmp_path / "a.png"), 5) == 255).all()
    half = Image.new("RGBA", (5, 5), (0, 0, 0, 128))
    assert (read_picture(saved(half, tmp_path / "h.png"), 5) == 127).all()
    palette = Image.new("RGB", (5, 5), (255, 0, 0)).convert("P")
    assert (read_picture(saved(palette, tmp_path / "p.png"), 5) == (255, 0, 0)).all()


def test_a_picture_is_turned_upright_and_its_centre_is_cut_out(tmp_path: Path) -> None:
    wide = np.zeros((8, 16, 3), dtype=np.uint8)
    wide[:, 4:12] = 200
    wide[:4, 4:12] = 100
    turned = Image.fromarray(np.rot90(wide).copy())
    exif = turned.getexif()
    exif[0x0112] = 6
    found = read_picture(saved(turned, tmp_path / "t.png", exif=exif), 8)
    assert (found[:4] == 100).all()
    assert (found[4:] == 200).all()


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n"])
def test_a_broken_picture_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"cannot read image .*broken\.png \(.*\); fix or remove it"):
        read_picture(path, 8)
    with pytest.raises(UsageError, match=r"cannot read image standard input \("):
        read_picture(io.BytesIO(content), 8, name="standard input")


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "tif", "gif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_format_gives_its_colours(tmp_path: Path, suffix: str, channels: int) -> None:
    picture = Image.new("RGB", (12, 8), (200, 100, 40))
    found = read_picture(saved(picture, tmp_path / f"p.{suffix}"), 8, channels)
    assert found.shape == (8, 8, channels)
    expected = picture.getpixel((0, 0)) if channels == 3 else picture.convert("L").getpixel((0, 0))
    assert np.abs(found.astype(int) - np.array(expected)).max() <= 4


def test_of_several_frames_the_first_is_read(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (6, 6), colour) for colour in ("red", "lime")]
    for name in ("a.gif", "a.tif"):
        path = saved(frames[0], tmp_path / name, save_all=True, append_images=frames[1:])
        assert (read_picture(path, 6) == (255, 0, 0)).all(), name


def test_cmyk_becomes_red_green_blue(tmp_path: Path) -> None:
    path = saved(Image.new("CMYK", (6, 6), (0, 255, 255, 0)), tmp_path / "c.tif")
    assert (read_picture(path, 6) == (255, 0, 0)).all()
    found = read_picture(saved(Image.new("CMYK", (6, 6), (0, 255, 255, 0)), tmp_path / "c.jpg"), 6)
    assert np.abs(found.astype(int) - (255, 0, 0)).max() <= 4


def test_floating_point_from_0_to_1_becomes_8_bits(tmp_path: Path) -> None:
    values = np.array([[0, 0.5], [1, 1 / 255]], dtype=np.float32).repeat(2, axis=0).repeat(2, axis=1)
    found = read_picture(saved(Image.fromarray(values), tmp_path / "f.tiff"), 4, 1)[:, :, 0]
    assert np.array_equal(found, np.array([[0, 128], [255, 1]], np.uint8).repeat(2, axis=0).repeat(2, axis=1))
    deep = np.array([[0, 65535], [257, 128]], dtype=np.uint16).repeat(2, axis=0).repeat(2, axis=1)
    found = read_picture(saved(Image.fromarray(deep), tmp_path / "d.tiff"), 4, 3)[:, :, 2]
    assert np.array_equal(found, np.array([[0, 255], [1, 0]], np.uint8).repeat(2, axis=0).repeat(2, axis=1))


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.full((4, 4), 1.5, np.float32), "floating-point pixels must be from 0 to 1, got 1.5 to 1.5"),
        (np.full((4, 4), np.nan, np.float32), "floating-point pixels must be from 0 to 1, got nan to nan"),
        (np.full((4, 4), 70000, np.int32), "pixels of more than 8 bits must be from 0 to 65535, got 70000 to 70000"),
        (np.full((4, 4), -1, np.int32), "pixels of more than 8 bits must be from 0 to 65535, got -1 to -1"),
    ],
)
def test_values_that_no_rule_scales_are_refused(tmp_path: Path, values: np.ndarray, reason: str) -> None:
    with pytest.raises(UsageError, match=re.escape(f"({reason})")):
        read_picture(saved(Image.fromarray(values), tmp_path / "f.tiff"), 4)


def test_a_picture_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read image .*No such file"):
        read_picture(tmp_path / "none.png", 4)


def test_ways_to_make_a_picture_square(tmp_path: Path) -> None:
    wide = np.zeros((4, 8), dtype=np.uint8)
    wide[:, :2], wide[:, 2:6], wide[:, 6:] = 50, 100, 150
    path = saved(Image.fromarray(wide), tmp_path / "wide.png")

    def square(side: int, resize: str) -> list[list[int]]:
        return read_picture(path, side, 1, resize=resize)[:, :, 0].tolist()

    assert square(4, "crop") == [[100] * 4] * 4
    assert square(8, "pad") == [[0] * 8] * 2 + wide.tolist() + [[0] * 8] * 2
    assert square(8, "stretch") == wide.repeat(2, axis=0).tolist()
    thin = saved(Image.new("L", (100, 1), 9), tmp_path / "thin.png")
    assert read_picture(thin, 8, 1, resize="pad")[:, :, 0].tolist() == [[0] * 8] * 3 + [[9] * 8] + [[0] * 8] * 4
    assert tuple(RESIZES) == CHOICES


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 255]], np.uint8), [0, 255]),
        (np.array([[False, True]]), [0, 255]),
        (np.array([[0, 65535]], np.uint16), [0, 255]),
        (np.array([[0.0, 1.0]], np.float64), [0, 255]),
        (np.array([[7, 255]], np.int64), [7, 255]),
        (np.array([[[7], [9]]], np.uint8), [7, 9]),
    ],
    ids=lambda value: str(getattr(value, "dtype", "")),
)
def test_arrays_of_every_type(values: np.ndarray, expected: list[int]) -> None:
    decoded = decode(values.repeat(2, axis=0), 2, 1)
    assert decoded.pixels[0, :, 0].tolist() == expected
    assert (decoded.width, decoded.height, decoded.mode) == (2, 2, f"{values.dtype.name} x 1")


def test_arrays_in_colour() -> None:
    colour = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    assert np.array_equal(decode(colour, 2, 3).pixels, colour)
    clear = np.concatenate([colour, np.zeros((2, 2, 1), np.uint8)], axis=2)
    assert (decode(clear, 2, 3).pixels == 255).all()


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.full((2, 2), 256, np.int64), "pixels of type int64 must be from 0 to 255, got 256 to 256"),
        (np.full((2, 2), 200.0), "floating-point pixels must be from 0 to 1, got 200 to 200"),
        (np.zeros((2, 2, 2)), "an image must be an array (h, w) or (h, w, c) with 1, 3 or 4 channels, got (2, 2, 2)"),
        (np.array([["a", "b"]]), "an image must be an array of numbers, got str32"),
    ],
    ids=["large", "float", "channels", "text"],
)
def test_arrays_that_are_no_pictures(values: np.ndarray, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)):
        decode(values, 2, 1)
