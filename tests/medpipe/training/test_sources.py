"""Pictures of a folder as `process` reads them; masks whose values say what they are, and masks that do not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as Pillow

from medpipe.errors import ConfigError
from medpipe.training.sources import Pictures


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
    return tmp_path


def ramp(rows: int = 40, columns: int = 60) -> NDArray[np.float64]:
    return np.linspace(0, 1, rows * columns).reshape(rows, columns)


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_grey_of_16_bits_keeps_its_values_and_its_range(ending: str, folder: Path) -> None:
    values = (ramp() * 65535).astype(np.uint16)
    Pillow.fromarray(values).save(folder / "images" / f"one.{ending}")
    image = Pictures(folder, "US").image("one")
    assert np.array_equal(image.array[0, 0], values)
    assert image.value_range == (0, 65535)


def test_a_picture_is_read_as_it_is_shown(folder: Path) -> None:
    """Orientation 6: the first row that is stored is the last column that is shown; the mask is drawn on that."""
    stored = np.zeros((40, 60), np.uint8)
    stored[:10] = 200
    picture = Pillow.fromarray(stored)
    orientation = picture.getexif()
    orientation[274] = 6
    picture.save(folder / "images" / "one.png", exif=orientation)
    shown = np.rot90(stored, -1)
    Pillow.fromarray((shown > 100).astype(np.uint8)).save(folder / "masks" / "one.png")
    source = Pictures(folder, "OP")
    assert np.array_equal(source.image("one").array[0, 0], shown)
    assert np.array_equal(source.truth("one", 1)[0, 0], shown > 100)


def test_endings_may_be_in_capitals(folder: Path) -> None:
    Pillow.new("RGB", (30, 20)).save(folder / "images" / "UP.JPG")
    Pillow.new("L", (30, 20), 1).save(folder / "masks" / "UP.PNG")
    (folder / "images" / "._UP.JPG").write_bytes(b"a Mac's")
    source = Pictures(folder, "OP")
    assert source.groups() == {"UP": "UP"}
    assert source.image("UP").array.shape == (3, 1, 20, 30)
    assert source.truth("UP", 1).all()
    assert source.stamp("UP")


def test_a_truncated_picture_is_named(folder: Path) -> None:
    path = folder / "images" / "one.png"
    Pillow.fromarray((ramp() * 255).astype(np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ConfigError, match=r"images/one\.png: the picture does not decode"):
        Pictures(folder, "US").image("one")


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n broken"])
def test_a_broken_mask_is_named(content: bytes, folder: Path) -> None:
    (folder / "masks" / "one.png").write_bytes(content)
    with pytest.raises(ConfigError, match=r"masks/one\.png: cannot be read as a mask"):
        Pictures(folder, "US").truth("one", 1)


def save_mask(folder: Path, values: list[int]) -> None:
    Pillow.fromarray(np.array([values], np.uint8)).save(folder / "masks" / "one.png")


@pytest.mark.parametrize(
    ("values", "classes"),
    [
        ([0, 128], 1),  # a grey of its own for the class
        ([0, 1, 254, 255], 1),  # blurred edges
        ([0, 255], 3),  # white, but which of the classes?
        ([0, 1, 2, 3, 4], 2),  # numbers of labels
    ],
)
def test_grey_values_that_are_no_bits_of_the_classes_are_refused(
    values: list[int], classes: int, folder: Path
) -> None:
    save_mask(folder, values)
    with pytest.raises(ConfigError, match=rf"one\.png: .* are no mask of {classes} class\(es\)") as caught:
        Pictures(folder, "US").truth("one", classes)
    assert "\n" not in str(caught.value)


def test_the_values_of_a_mask_add_up(folder: Path) -> None:
    save_mask(folder, [0, 1, 2, 3, 4])
    truth = Pictures(folder, "US").truth("one", 3)
    assert [np.flatnonzero(mask[0, 0]).tolist() for mask in truth] == [[1, 3], [2, 3], [4]]
    save_mask(folder, [0, 255, 255])
    assert Pictures(folder, "US").truth("one", 1)[0, 0, 0].tolist() == [False, True, True]


@pytest.mark.parametrize(("factor", "white"), [(1, 255), (4, 1023), (16, 4095), (64, 16383), (257, 65535)])
@pytest.mark.parametrize("kind", [np.uint16, np.int32])
def test_white_is_of_the_bits_that_a_picture_uses(factor: int, white: int, kind: type, folder: Path) -> None:
    """Deep files do not say how many bits they use: those of a 12-bit camera are no black pictures."""
    values = np.rint(ramp() * 255).astype(kind) * factor
    Pillow.fromarray(values).save(folder / "images" / "a.tif")
    image = Pictures(folder, "US").image("a")
    assert image.value_range == (0, white)
    assert float(image.array.max()) / white > 0.98


def test_a_picture_with_values_that_are_no_numbers_is_refused(folder: Path) -> None:
    values = ramp().astype(np.float32)
    values[2, 2] = np.nan
    Pillow.fromarray(values).save(folder / "images" / "a.tif")
    with pytest.raises(ConfigError, match=r"images/a.tif: .*no numbers"):
        Pictures(folder, "US").image("a")


def test_masks_that_are_no_png_are_named(folder: Path) -> None:
    for part in ("images", "masks"):
        Pillow.fromarray(np.zeros((40, 60), np.uint8)).save(folder / part / "one.jpg")
    with pytest.raises(ConfigError, match=r"masks/one\.jpg: masks are PNG files"):
        Pictures(folder, "US").groups()
