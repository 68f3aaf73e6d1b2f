"""The field of view of a fundus photograph."""

import numpy as np
import pytest
from numpy.typing import NDArray

from medpipe.errors import ReasonCode, Refused
from medpipe.inference.field import find_field, is_inside


def test_a_disc_cut_off_at_top_and_bottom_is_found(fundus: NDArray[np.uint8]) -> None:
    field = find_field(fundus)
    assert np.abs(np.array(field.box) - (0, 20, 240, 320)).max() <= 2
    inside = is_inside(field, (field.box[2] - field.box[0], field.box[3] - field.box[1]))
    truth = fundus[0, field.box[0] : field.box[2], field.box[1] : field.box[3]] > 0
    assert (inside == truth).mean() > 0.98


def test_dark_lesions_shadows_and_noise_leave_it_whole(fundus: NDArray[np.uint8]) -> None:
    rng = np.random.default_rng(3)
    picture = fundus.astype(int) + rng.integers(0, 6, fundus.shape)
    picture[:, 100:140, 20:60] = 3  # a shadow that reaches the rim
    field = find_field(picture.clip(0, 255).astype(np.uint8))
    assert np.abs(np.array(field.box) - (0, 20, 240, 320)).max() <= 3
    inside = is_inside(field, (240, 300))
    assert inside[120, 100] and inside[120, 20]


def test_a_label_beside_the_field_does_not_widen_it(fundus: NDArray[np.uint8]) -> None:
    fundus[:, 5:25, 335:358] = 200
    fundus[:, 14:17, 270:340] = 200  # and it hangs on the field by a thread
    assert find_field(fundus).box[3] <= 322


@pytest.mark.parametrize(
    "label",
    [
        (slice(180, 240), slice(270, 361)),
        (slice(215, 240), slice(0, 361)),
        (slice(105, 135), slice(310, 335)),
        (slice(0, 50), slice(0, 85)),
    ],
    ids=["a box over the rim", "a strip below", "a tab at the side", "a box in the corner"],
)
@pytest.mark.parametrize("shade", [70, 255])
def test_a_label_that_touches_the_field_does_not_widen_it(
    label: tuple[slice, slice], shade: int, fundus: NDArray[np.uint8]
) -> None:
    """Else all would be seen at the wrong size: the circle within the sharp rim is the field."""
    fundus[:, *label] = shade
    assert np.abs(np.array(find_field(fundus).box) - (0, 20, 240, 320)).max() <= 2


@pytest.mark.parametrize("between", [0, 40])
def test_a_stereo_pair_is_refused(between: int, fundus: NDArray[np.uint8]) -> None:
    """One of the two fields would be passed over."""
    gap = np.zeros((3, 240, between), np.uint8)
    pair = np.concatenate([fundus[..., 20:320], gap, fundus[..., 20:320]], axis=-1)
    with pytest.raises(Refused, match="two fields of view on one picture"):
        find_field(pair)


@pytest.mark.parametrize("light", [1.0, 0.4])
@pytest.mark.parametrize("ground", [(5, 20, 8), (15, 15, 15), (12, 35, 15), (40, 40, 40)])
def test_a_ground_that_is_not_black_is_no_part_of_it(
    ground: tuple[int, int, int], light: float, fundus: NDArray[np.uint8]
) -> None:
    """Other cameras' grounds: with the whole picture for its field, its lesions would be seen far too small."""
    rng = np.random.default_rng(4)
    noise = rng.integers(0, 4, fundus.shape)
    picture = np.where(fundus.max(axis=0) > 0, light * fundus, np.array(ground)[:, None, None] + noise)
    assert np.abs(np.array(find_field(picture.astype(np.uint8)).box) - (0, 20, 240, 320)).max() <= 2


def test_a_white_ground_is_refused(fundus: NDArray[np.uint8]) -> None:
    """With the whole page for its field, lesions would be seen too small."""
    picture = np.where(fundus.max(axis=0) > 0, fundus, 250).astype(np.uint8)
    with pytest.raises(Refused, match="ground is white"):
        find_field(picture)
    picture = fundus.copy()
    picture[:, :40, :60] = 255  # a label is no ground
    assert find_field(picture).box[3] <= 322


def test_labels_in_two_corners_do_not_hide_the_ground(fundus: NDArray[np.uint8]) -> None:
    picture = np.where(fundus.max(axis=0) > 0, 0.4 * fundus, 20).astype(np.uint8)
    picture[:, :10, :14] = picture[:, -10:, -14:] = 255
    assert np.abs(np.array(find_field(picture).box) - (0, 20, 240, 320)).max() <= 2


def test_a_whole_circle_may_be_small_in_its_frame() -> None:
    j, i = np.mgrid[:480, :720]
    disc = np.hypot(j - 240, i - 360) < 122
    picture = (np.array([160, 70, 30])[:, None, None] * disc).astype(np.uint8)
    assert np.abs(np.array(find_field(picture).box) - (118, 238, 362, 482)).max() <= 3
    picture[:, :, 430:] = 0  # a part of one, as small, is refused
    with pytest.raises(Refused, match="no round field"):
        find_field(picture)
    picture[:] = 0
    picture[0, 140:340, 260:460], picture[1, 140:340, 260:460] = 160, 70  # nor is a square one
    with pytest.raises(Refused, match="no round field"):
        find_field(picture)


def test_light_is_that_of_the_bright_parts(fundus: NDArray[np.uint8]) -> None:
    assert find_field(fundus).light == pytest.approx(160)
    assert find_field(fundus // 2).light == pytest.approx(80)


def test_a_field_without_a_rim_that_fades_towards_the_corners_is_all_field() -> None:
    rng = np.random.default_rng(5)
    j, i = np.mgrid[:480, :512]
    fading = np.exp(-((np.hypot(j - 240, i - 256) / 300) ** 2)) * (1 + 0.1 * rng.standard_normal((480, 512)))
    picture = np.array([180, 90, 40])[:, None, None] * fading
    field = find_field(picture.clip(0, 255).astype(np.uint8))
    assert field.box == (0, 0, 480, 512) and field.mask.all()


def test_size_of_the_reduced_picture_does_not_matter() -> None:
    j, i = np.mgrid[:1999, :2801]
    disc = np.hypot(j - 1000, i - 1500) < 900
    field = find_field((np.array([120, 60, 30])[:, None, None] * disc).astype(np.uint8))
    assert np.abs(np.array(field.box) - (100, 600, 1900, 2400)).max() <= 8


def test_a_full_frame_in_fundus_colours_is_all_field() -> None:
    picture = np.full((3, 200, 260), 30, np.uint8)
    picture[0] = 150
    assert find_field(picture).box == (0, 0, 200, 260)


@pytest.mark.parametrize(
    ("picture", "says"),
    [
        (np.zeros((3, 100, 100), np.uint8), "almost black"),
        (np.full((3, 100, 100), 128, np.uint8), "colours"),
        (np.array([0, 128, 0], np.uint8)[:, None, None] * np.ones((100, 100), np.uint8), "colours"),
        (np.array([60, 128, 40], np.uint8)[:, None, None] * np.ones((100, 100), np.uint8), "colours"),
        (np.array([128, 0, 0], np.uint8)[:, None, None] * np.ones((100, 100), np.uint8), "is alone"),
        (np.pad(np.full((3, 20, 90), 200, np.uint8), ((0, 0), (40, 40), (5, 5))), "no round field"),
    ],
)
def test_what_is_no_fundus_photograph_is_refused(picture: NDArray[np.uint8], says: str) -> None:
    with pytest.raises(Refused, match=says) as caught:
        find_field(picture)
    assert caught.value.reason is ReasonCode.FOV_NOT_FOR_BUNDLE
