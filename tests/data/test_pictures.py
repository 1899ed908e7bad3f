"""Pictures of every kind become arrays of the right values, or one line that names them."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ablations.data.pictures import read_picture
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


def test_pixels_that_are_not_whole_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read image"):
        read_picture(saved(Image.fromarray(np.ones((4, 4), np.float32)), tmp_path / "f.tiff"), 4)
    with pytest.raises(UsageError, match=r"cannot read image .*No such file"):
        read_picture(tmp_path / "none.png", 4)
