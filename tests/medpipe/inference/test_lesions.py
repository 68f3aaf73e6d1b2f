"""Connected components and what is measured of them."""

from collections.abc import Callable
from math import pi, sqrt

import numpy as np
import pytest
from numpy.typing import NDArray

from medpipe.inference.lesions import Identity, axes, label_components, measure
from medpipe.types import Image

MakeImage = Callable[..., Image]
WHO = Identity("2.25", "spots", "C0")


def disc(radius: float, size: int = 64) -> NDArray[np.bool_]:
    j, i = np.mgrid[:size, :size]
    return np.asarray(np.hypot(j - size // 2, i - size // 2) <= radius)


def test_corners_connect_and_small_components_are_dropped() -> None:
    mask = np.zeros((1, 10, 10), bool)
    mask[0, [1, 2, 3], [1, 2, 3]] = True  # a diagonal of three
    mask[0, 7, 7:9] = True
    assert label_components(mask, 1).max() == 2
    labels = label_components(mask, 3)
    assert labels.max() == 1 and labels[0, 2, 2] == 1 and labels[0, 7, 7] == 0


def test_a_volume_connects_over_slices() -> None:
    mask = np.zeros((3, 5, 5), bool)
    mask[0, 1, 1] = mask[1, 2, 2] = mask[2, 3, 3] = True
    assert label_components(mask, 3).max() == 1


def test_no_lesion_no_label() -> None:
    assert not label_components(np.zeros((1, 5, 5), bool), 1).any()


@pytest.mark.parametrize(
    ("shape", "long_axis", "short_axis"),
    [(disc(10), 21, 21), (disc(0), 1, 1), (np.pad(np.ones((4, 20), bool), 5), None, None)],
)
def test_axes_of_simple_shapes(
    shape: NDArray[np.bool_], long_axis: float | None, short_axis: float | None
) -> None:
    found = axes(shape[None], (1.0, 1.0))
    if long_axis is None:
        assert found[0] == pytest.approx(sqrt(19**2 + 3**2) + 1, rel=0.01)  # corner to corner
        assert found[1] < 9
    else:
        assert found == pytest.approx((long_axis, short_axis), abs=0.5)


def test_axes_of_a_tilted_ellipse_in_uneven_pixels() -> None:
    j, i = np.mgrid[-50:51, -50:51]
    y, x = j * 0.5, i * 1.0  # mm
    along, across = (x + y) / sqrt(2), (x - y) / sqrt(2)
    ellipse = (along / 20) ** 2 + (across / 6) ** 2 <= 1
    long_axis, short_axis = axes(ellipse[None], (0.5, 1.0))
    assert long_axis == pytest.approx(40, abs=1) and short_axis == pytest.approx(12, abs=1.2)


def test_a_volume_is_measured_in_the_slice_where_it_is_longest() -> None:
    volume = np.zeros((3, 64, 64), bool)
    volume[0, 10, 10:14], volume[1] = True, disc(8)
    assert axes(volume, (1, 1)) == pytest.approx((17, 17), abs=0.5)


def test_an_uncalibrated_picture_is_measured_in_pixels(make_image: MakeImage) -> None:
    shape = disc(10)[None]
    image = make_image(np.zeros((3, 1, 64, 64), np.uint8))
    (lesion,) = measure(shape.astype(np.int32), shape * np.float32(0.75), image, WHO)
    assert lesion.voxels == shape.sum() and lesion.area_mm2 is None and lesion.volume_ml is None
    assert lesion.box == (0, 22, 22, 1, 43, 43)
    assert lesion.mean_probability == lesion.max_probability == 0.75


def test_a_calibrated_picture_has_an_area_and_a_volume_a_volume(make_image: MakeImage) -> None:
    affine = np.diag([0.5, 0.5, 1.0, 1.0])
    picture = make_image(np.zeros((1, 1, 64, 64), np.uint8), affine)
    shape = disc(10)[None]
    (lesion,) = measure(shape.astype(np.int32), shape.astype(np.float32), picture, WHO)
    assert lesion.area_mm2 == pytest.approx(pi * 100 * 0.25, rel=0.02) and lesion.volume_ml is None
    assert lesion.long_axis == pytest.approx(10.5, abs=0.3)
    affine[2, 2] = 5.0
    volume = make_image(np.zeros((2, 1, 64, 64), np.int16).transpose(1, 0, 2, 3), affine)
    both = np.stack([disc(10), disc(10)])
    (lesion,) = measure(both.astype(np.int32), both.astype(np.float32), volume, WHO)
    assert (
        lesion.volume_ml == pytest.approx(2 * pi * 100 * 0.25 * 5 / 1000, rel=0.02)
        and lesion.area_mm2 is None
    )


def test_the_tracking_uid_follows_the_content_and_nothing_else(make_image: MakeImage) -> None:
    image = make_image(np.zeros((3, 1, 64, 64), np.uint8))

    def uid(radius: float, who: Identity = WHO, of: Image = image) -> str:
        shape = disc(radius)[None]
        return measure(shape.astype(np.int32), shape.astype(np.float32), of, who)[0].tracking_uid

    assert uid(10) == uid(10)
    other = make_image(np.zeros((3, 1, 64, 64), np.uint8), name="1.2.3.5")
    assert len({uid(10), uid(9), uid(10, Identity("2.25", "spots", "C1")), uid(10, of=other)}) == 4
    assert uid(10, Identity("1.2.826", "spots", "C0")).startswith("1.2.826.")


def test_hundreds_of_lesions_keep_their_order(make_image: MakeImage) -> None:
    mask = np.zeros((1, 200, 200), bool)
    mask[0, ::5, ::5] = True
    labels = label_components(mask, 1)
    image = make_image(np.zeros((3, 1, 200, 200), np.uint8))
    lesions = measure(labels, mask.astype(np.float32), image, WHO)
    assert len(lesions) == 1600 and len({lesion.tracking_uid for lesion in lesions}) == 1600
    assert [lesion.box for lesion in lesions] == sorted(lesion.box for lesion in lesions)
