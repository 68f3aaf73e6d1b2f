"""The contact sheet: contours in the class's colour around what was found, and the counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from medpipe.bundle import Bundle
from medpipe.results import write_preview
from medpipe.results.overlay import outlined, resized_mask, srgb
from medpipe.results.preview import slices_with_most

Make = Callable[..., Any]


def test_cielab_becomes_the_colour_everybody_knows() -> None:
    """Values of B. Lindbloom's CIE colour calculator for sRGB under D50."""
    assert srgb((100, 0, 0)) == pytest.approx((255, 255, 255), abs=1)
    assert srgb((0, 0, 0)) == (0, 0, 0)
    assert srgb((54.29, 80.81, 69.89)) == pytest.approx((255, 0, 0), abs=2)
    assert srgb((29.57, 68.30, -112.03)) == pytest.approx((0, 0, 255), abs=2)


def test_the_smallest_lesion_survives_being_shown_small() -> None:
    mask = np.zeros((2848, 4288), bool)
    mask[1234, 3456] = True
    small = resized_mask(mask, (712, 1072))
    assert np.argwhere(small).tolist() == [[308, 864]]


def test_a_contour_goes_around_a_lesion_and_not_over_it() -> None:
    picture = np.full((40, 40, 3), 90, np.uint8)
    mask = np.zeros((40, 40), bool)
    mask[10:20, 12:24] = True
    drawn = outlined(picture, [mask], [(255, 0, 0)], width=2)
    assert (drawn[mask] == 90).all()
    assert drawn[9, 15].tolist() == [255, 0, 0]
    assert drawn[21, 15].tolist() == [255, 0, 0]
    assert (drawn[30:, 30:] == 90).all()


def test_each_class_is_on_a_slice() -> None:
    mask = np.zeros((3, 40, 8, 8), bool)
    mask[0, 10:30, :5] = True
    mask[1, 3, 2, 2] = True
    mask[2, 37, 2, 2] = True
    chosen = slices_with_most(mask)
    assert len(chosen) == 6
    assert {3, 37} <= set(chosen)
    assert chosen == sorted(chosen)
    assert slices_with_most(np.zeros((2, 9, 4, 4), bool)) == [4]


@pytest.mark.parametrize("kind", ["OP", "CR", "volume"])
def test_the_sheet_shows_the_classes_that_were_found(
    kind: str, picture: Make, volume: Make, prediction: Make, bundle: Bundle, tmp_path: Path
) -> None:
    image = volume() if kind == "volume" else picture(kind, size=(300, 400))
    image = replace(
        image, array=np.random.default_rng(0).integers(80, 120, image.array.shape, image.array.dtype)
    )
    made = prediction(image)
    path = write_preview(made, tmp_path / "sheet.png", bundle)
    sheet = np.asarray(PIL.Image.open(path))
    assert sheet.shape[1:] == (1600, 3)
    for spec in bundle.classes:
        assert (sheet[:, :1200] == srgb(spec.colour_cielab)).all(axis=-1).sum() > 100
    assert write_preview(made, tmp_path / "again.png", bundle).read_bytes() == path.read_bytes()

    nothing = np.asarray(
        PIL.Image.open(write_preview(prediction(image, empty=True), tmp_path / "none.png", bundle))
    )
    for spec in bundle.classes:
        assert not (nothing[:, :1200] == srgb(spec.colour_cielab)).all(axis=-1).any()
    assert nothing.shape[0] < sheet.shape[0]
