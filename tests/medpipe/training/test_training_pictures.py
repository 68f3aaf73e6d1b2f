"""Reading pictures and masks, and bringing them to working size as the inference would."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from medpipe.errors import ConfigError
from medpipe.inference.field import find_field
from medpipe.samples.fundus import draw_fundus
from medpipe.training.drawn import draw_pictures
from medpipe.training.experiment import Data, Drawn
from medpipe.training.pictures import PRESENT, load_pictures, read_masks, read_photograph, reduce


def test_masks_are_read_as_bits_of_the_palette_index(tmp_path: Path) -> None:
    """Values 1, 2, 6, 8, 16: bit 0 is class 0; 6 is two classes at once; bit 4 is no class of ours."""
    (tmp_path / "masks").mkdir()
    values = np.array([[0, 1, 2, 6, 8, 16]], np.uint8)
    picture = Pillow.fromarray(values).convert("P")
    picture.putpalette([255 - n for n in range(256) for _ in range(3)])
    picture.putdata(values.ravel().tolist())
    picture.save(tmp_path / "masks" / "one.png")
    masks = read_masks(tmp_path, "one", 4)
    assert masks.shape == (4, 1, 6)
    assert [np.flatnonzero(m[0]).tolist() for m in masks] == [[1], [2, 3], [3], [4]]


def test_a_colour_mask_is_refused(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    Pillow.new("RGB", (4, 4)).save(tmp_path / "masks" / "one.png")
    with pytest.raises(ConfigError, match="not RGB"):
        read_masks(tmp_path, "one", 4)


def test_a_missing_picture_or_mask_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"images/gone\.jpg"):
        read_photograph(tmp_path, "gone")
    with pytest.raises(ConfigError, match=r"gone\.png"):
        read_masks(tmp_path, "gone", 4)


def test_the_field_of_view_is_cropped_and_its_longer_side_is_the_working_size() -> None:
    sample = draw_fundus(30, 768, 512)
    rgb = np.ascontiguousarray(sample.picture.transpose(2, 0, 1))
    image, masks, inside = reduce(rgb, sample.truth, working_side=200)
    j0, i0, j1, i1 = find_field(rgb).box
    assert max(image.shape[1:]) == 200
    assert image.shape[1] / image.shape[2] == pytest.approx((j1 - j0) / (i1 - i0), abs=0.01)
    assert image.shape[1:] == masks.shape[1:] == inside.shape
    assert not inside[0, 0], "the corner of a round field is outside"
    assert inside[inside.shape[0] // 2, inside.shape[1] // 2]


def test_masks_keep_their_area_and_their_place() -> None:
    sample = draw_fundus(31, 768, 512)
    rgb = np.ascontiguousarray(sample.picture.transpose(2, 0, 1))
    j0, i0, j1, i1 = find_field(rgb).box
    truth = np.zeros((1, 512, 768), np.bool_)
    middle, centre = (j0 + j1) // 2, (i0 + i1) // 2
    truth[0, middle : middle + 40, centre : centre + 60] = True
    _, masks, _ = reduce(rgb, truth, working_side=(i1 - i0) // 2)
    share = masks[0].astype(float) / 255
    assert share.sum() == pytest.approx(40 * 60 / 4, rel=0.02)
    rows, columns = np.nonzero(masks[0] >= PRESENT)
    assert rows.mean() == pytest.approx((middle - j0 + 20) / 2 - 0.5, abs=0.6)
    assert columns.mean() == pytest.approx((centre - i0 + 30) / 2 - 0.5, abs=0.6)


def test_pictures_are_read_once(drawn_data: Path, tmp_path: Path) -> None:
    first = load_pictures(drawn_data, ["drawn_2"], classes=4, working_side=200, cache=tmp_path)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    again = load_pictures(drawn_data, ["drawn_2"], classes=4, working_side=200, cache=tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == written
    assert np.array_equal(first[0].image, again[0].image)
    other = load_pictures(drawn_data, ["drawn_2"], classes=4, working_side=240, cache=tmp_path)
    assert max(other[0].image.shape) == 240, "another working size must not come from the cache"


def test_the_places_of_a_class_lie_in_its_mask(drawn_data: Path, tmp_path: Path) -> None:
    (picture,) = load_pictures(drawn_data, ["drawn_3"], classes=4, working_side=320, cache=tmp_path)
    assert any(len(places) for places in picture.places)
    for mask, places in zip(picture.masks, picture.places, strict=True):
        assert len(places) == int((mask >= PRESENT).sum())
        assert all(mask[j, i] >= PRESENT for j, i in places[:20])


def data_of(classes: tuple[str, ...]) -> Data:
    return Data(
        classes=classes,
        folds=Path("folds.toml"),
        working_side=160,
        mean=(0.4, 0.4, 0.4),
        std=(0.2, 0.2, 0.2),
    )


def test_drawn_pictures_follow_the_order_of_the_classes(tmp_path: Path) -> None:
    spec = Drawn(seeds=(1000,), rows=384, columns=576)
    (there,) = draw_pictures(spec, data_of(("MA", "HE", "EX", "SE")), tmp_path)
    (back,) = draw_pictures(spec, data_of(("SE", "EX")), tmp_path)
    assert there.masks.any()
    assert np.array_equal(there.masks[[3, 2]], back.masks)


def test_a_class_that_nobody_draws_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not with VB"):
        draw_pictures(Drawn(seeds=(1000,)), data_of(("MA", "VB")), tmp_path)
