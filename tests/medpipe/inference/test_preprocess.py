"""What a network is shown, and that what it finds comes back to the very place it was found at."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from medpipe.bundle import Bundle
from medpipe.errors import ReasonCode, Refused
from medpipe.inference.preprocess import WayBack, closest_canonical, prepare, working_shape
from medpipe.inference.resample import axis_weights, resample
from medpipe.types import Image

MakeImage = Callable[..., Image]
MakeBundle = Callable[..., Bundle]


def centre(array: NDArray[Any]) -> NDArray[np.float64]:
    places = np.indices(array.shape).reshape(array.ndim, -1)
    weights = array.ravel() / array.sum()
    return np.asarray(places @ weights)


def there_and_back(image: Image, bundle: Bundle) -> NDArray[np.float32]:
    prepared = prepare(image, bundle)
    out = np.empty(image.grid.shape, np.float32)
    prepared.way_back.to_source(prepared.array[0], out)
    return out


@pytest.mark.parametrize("size", [(100, 150), (101, 151), (97, 64), (333, 500)])
@pytest.mark.parametrize("working", [(48, 64), (67, 201), (301, 450)])
@pytest.mark.parametrize("place", [(20, 30), (51, 17), (80, 60)])
def test_a_box_comes_back_at_its_place(
    make_image: MakeImage,
    make_bundle: MakeBundle,
    size: tuple[int, int],
    working: tuple[int, int],
    place: tuple[int, int],
) -> None:
    array = np.zeros((1, 1, *size), np.uint8)
    j, i = (p if p < n - 15 else n - 20 for p, n in zip(place, size, strict=True))
    array[0, 0, j : j + 9, i : i + 11] = 255
    back = there_and_back(make_image(array), make_bundle(scale="fit", working_size=working))
    assert np.abs(centre(back[0]) - (j + 4, i + 5)).max() < 0.5


def test_a_box_in_a_fundus_comes_back_through_the_crop(
    make_image: MakeImage, make_bundle: MakeBundle, fundus: NDArray[np.uint8]
) -> None:
    bundle = make_bundle(channels=3, scale="fit", working_size=(64, 96), field="fundus")
    plain = there_and_back(make_image(fundus[:, None]), bundle)
    fundus[0, 100:111, 200:209] = 255
    marked = there_and_back(make_image(fundus[:, None]), bundle)
    assert np.abs(centre((marked - plain)[0]) - (105, 204)).max() < 0.5
    assert not plain[0, :, :15].any()


ORIENTATIONS = {
    "axial": [[0, 0, 1], [0, 1, 0], [1, 0, 0]],
    "axial, feet first": [[0, 0, -1], [0, 1, 0], [1, 0, 0]],
    "sagittal": [[-1, 0, 0], [0, 0, -1], [0, 1, 0]],
    "coronal": [[0, 1, 0], [0, 0, -1], [1, 0, 0]],
    "oblique": [[0.1, -0.2, 0.97], [0.05, 0.97, 0.2], [1.0, -0.05, -0.1]],
}


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_any_orientation_is_seen_as_lps_and_undone(
    make_image: MakeImage, make_bundle: MakeBundle, name: str
) -> None:
    """Rows of ORIENTATIONS are the patient directions (x, y, z) of the source's k, j and i axes."""
    spacing = np.array([3.0, 0.7, 1.1])  # k, j, i
    affine = np.eye(4)
    for column, (direction, step) in enumerate(zip(ORIENTATIONS[name][::-1], spacing[::-1], strict=True)):
        affine[:3, column] = np.array(direction) / np.linalg.norm(direction) * step
    array = np.zeros((1, 15, 40, 31), np.int16)
    array[0, 5:8, 10:20, 7:12] = 255
    bundle = make_bundle(dims=3, scale="spacing", spacing=(1, 1, 1), orientation="LPS", modality=["CT"])
    image = make_image(array, affine)
    prepared = prepare(image, bundle)
    back = np.empty(image.grid.shape, np.float32)
    prepared.way_back.to_source(prepared.array[0], back)
    assert np.abs(centre(back) - (6, 14.5, 9)).max() < 0.5
    # in the working grid, increasing k, j and i lead to the head, the back and the patient's left
    step = np.array([centre_in_patient(image, prepared.way_back, move) for move in np.eye(3)])
    start = centre_in_patient(image, prepared.way_back, np.zeros(3))
    assert (np.diag((step - start)[:, ::-1]) > 0.9).all()


def centre_in_patient(image: Image, way: WayBack, kji: NDArray[np.float64]) -> NDArray[np.float64]:
    """Patient place of a working-grid index, found through a coordinate picture rather than by a second formula."""
    grids = np.indices(image.grid.shape).astype(np.float32)
    place = np.array([resample(way.view(g), way.working)[tuple((kji + 3).astype(int))] for g in grids])
    return image.grid.to_patient(place.astype(np.float64))


def test_orientations_of_the_closest_axes() -> None:
    assert closest_canonical(np.diag([1.0, 1, 1, 1])) == ((0, 1, 2), (False, False, False))
    assert closest_canonical(np.diag([-1.0, -1, 2, 1])) == ((0, 1, 2), (False, True, True))
    sagittal = np.eye(4)
    sagittal[:3, :3] = np.array(
        [[0, 0, 1], [1, 0, 0], [0, -1, 0]]
    )  # i to the back, j to the feet, k to the left
    assert closest_canonical(sagittal) == ((1, 2, 0), (True, False, False))


def test_working_size_keeps_the_aspect_and_follows_the_longer_side(make_bundle: MakeBundle) -> None:
    spec = make_bundle(scale="fit", working_size=(960, 1440)).input
    assert working_shape((1, 2848, 3426), (1, 1, 1), spec) == (1, 1197, 1440)
    assert working_shape((1, 3426, 2848), (1, 1, 1), spec) == (1, 1440, 1197)
    assert working_shape((1, 2848, 3426), (1, 1, 1.005), spec) == (1, 1197, 1440), "square, but for rounding"
    spacing = make_bundle(dims=3, scale="spacing", spacing=(2, 1, 1)).input
    assert working_shape((30, 64, 65), (1.0, 0.5, 0.5), spacing) == (15, 32, 32)


def test_pixels_that_are_not_square_are_seen_square(make_image: MakeImage, make_bundle: MakeBundle) -> None:
    array = np.zeros((1, 1, 60, 120), np.uint8)
    array[0, 0, 20:30, 40:60] = 255  # a square of 20 x 20 mm
    affine = np.diag([1.0, 2.0, 1.0, 1.0])
    image = make_image(array, affine)
    prepared = prepare(image, make_bundle(scale="fit", working_size=(120, 120)))
    assert prepared.array.shape == (1, 1, 120, 120)
    rows, columns = (np.flatnonzero(prepared.array[0, 0].max(axis=axis) > 0.5) for axis in (1, 0))
    assert len(rows) == len(columns) == 20
    back = np.empty(image.grid.shape, np.float32)
    prepared.way_back.to_source(prepared.array[0], back)
    assert np.abs(centre(back[0]) - (24.5, 49.5)).max() < 0.3


def test_no_round_field_is_looked_for_where_pixels_are_not_square(
    make_image: MakeImage, make_bundle: MakeBundle, fundus: NDArray[np.uint8]
) -> None:
    image = make_image(fundus[:, None], np.diag([1.0, 1.2, 1.0, 1.0]))
    with pytest.raises(Refused, match=r"needs square pixels.* 1\.2 times as high as wide"):
        prepare(image, make_bundle(channels=3, scale="fit", working_size=(64, 96), field="fundus"))


@pytest.mark.parametrize(
    ("degrees", "part"),
    [(None, 1), (50.0, 1), (30.0, 0.6), (45.0, 0.9), (60.0, 1.2), (20.0, 0.5), (200.0, 1.25)],
)
def test_a_photograph_of_another_field_of_view_shows_lesions_at_the_same_size(
    make_image: MakeImage,
    make_bundle: MakeBundle,
    fundus: NDArray[np.uint8],
    degrees: float | None,
    part: float,
) -> None:
    image = make_image(fundus[:, None], field_degrees=degrees)
    fields: dict[str, Any] = {"channels": 3, "scale": "fit", "working_size": (200, 200), "field": "fundus"}
    assert max(prepare(image, make_bundle(**fields, field_degrees=50.0)).way_back.working) == 200 * part
    assert max(prepare(image, make_bundle(**fields)).way_back.working) == 200, (
        "nobody knows what it learned from"
    )


@pytest.mark.parametrize(("times", "seen"), [(1.0, 1.0), (0.5, 140 / 80), (0.125, 4.0)])
def test_a_dark_photograph_is_seen_in_the_light_that_the_networks_know(
    make_image: MakeImage, make_bundle: MakeBundle, fundus: NDArray[np.uint8], times: float, seen: float
) -> None:
    """Up to the light of the darkest picture learned from, four times at most; brighter ones stay as they are."""
    bundle = make_bundle(channels=3, scale="fit", working_size=(240, 240), field="fundus")
    prepared = prepare(make_image((times * fundus).astype(np.uint8)[:, None]), bundle)
    assert prepared.lightened == pytest.approx(seen, rel=1e-3)
    assert np.percentile(prepared.array[0], 90) == pytest.approx(160 * times * seen / 255, rel=0.01)
    square = make_bundle(channels=3)
    assert prepare(make_image((times * fundus).astype(np.uint8)[:, None]), square).lightened == 1


@pytest.mark.parametrize(("n", "m"), [(10, 10), (10, 23), (23, 10), (7, 3), (100, 33), (5, 1)])
def test_axis_weights_are_those_of_torch(n: int, m: int) -> None:
    signal = np.random.default_rng(n).random((1, 1, n)).astype(np.float32)
    ours = axis_weights(n, m) @ signal[0, 0]
    theirs = resample(np.repeat(signal, n, axis=1), (1, n, m))[0, 0]
    assert np.abs(ours - theirs).max() < 1e-5


def test_shrinking_averages_instead_of_skipping() -> None:
    stripes = np.zeros((1, 1, 64, 64), np.float32)
    stripes[..., ::2] = 1
    assert np.abs(resample(stripes[0], (1, 16, 16)) - 0.5).max() < 0.1


def test_bands_of_a_volume_give_the_same_as_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    volume = np.random.default_rng(0).random((13, 10, 11)).astype(np.float32)
    whole = resample(volume, (29, 12, 8))
    monkeypatch.setattr("medpipe.inference.resample.LARGEST_BAND", 300)
    assert np.abs(resample(volume, (29, 12, 8)) - whole).max() < 1e-6


@pytest.mark.parametrize(
    ("normalise", "expected"),
    [
        ({"kind": "window", "low": -100, "high": 300}, [0, 0.25, 0.5, 1]),
        ({"kind": "percentile", "low": 0, "high": 100}, [0, 0.5, 0.625, 1]),
        ({"kind": "mean-std", "mean": [0.5], "std": [0.25]}, [-2, 0, 0.5, 2]),
    ],
)
def test_normalisation(
    make_image: MakeImage, make_bundle: MakeBundle, normalise: Any, expected: list[float]
) -> None:
    array = np.array([-400, 0, 100, 400], np.int16).reshape(1, 1, 2, 2).repeat(8, axis=2).repeat(8, axis=3)
    image = make_image(array, value_range=(-400, 400))
    seen = prepare(image, make_bundle(normalise=normalise)).array[0, 0]
    assert np.allclose([seen[0, 0], seen[0, -1], seen[-1, 0], seen[-1, -1]], expected, atol=1e-5)


def test_z_score_leaves_padding_out(make_image: MakeImage, make_bundle: MakeBundle) -> None:
    array = np.random.default_rng(1).normal(50, 10, (1, 1, 32, 32)).astype(np.float32)
    padding = np.zeros((1, 32, 32), bool)
    padding[:, :8] = True
    array[0][padding] = -2000
    seen = prepare(make_image(array, padding=padding), make_bundle(normalise={"kind": "z-score"})).array[0]
    assert abs(seen[~padding].mean()) < 1e-4 and abs(seen[~padding].std() - 1) < 1e-4


def test_monochrome1_is_inverted_for_the_network_only(make_image: MakeImage, make_bundle: MakeBundle) -> None:
    array = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    plain, inverted = make_image(array), make_image(array, photometric="MONOCHROME1")
    for kind in (
        {"kind": "mean-std", "mean": [0], "std": [1]},
        {"kind": "percentile", "low": 0, "high": 100},
    ):
        seen = prepare(plain, make_bundle(normalise=kind)).array
        assert np.allclose(prepare(inverted, make_bundle(normalise=kind)).array, 1 - seen, atol=1e-6)
    z = make_bundle(normalise={"kind": "z-score"})
    assert np.allclose(prepare(inverted, z).array, -prepare(plain, z).array, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "given", "spec", "code"),
    [
        ((1, 1, 64, 64), {"modality": "US"}, {}, ReasonCode.NOT_FOR_BUNDLE),
        ((1, 1, 64, 64), {}, {"sop_classes": ["1.2.3"]}, ReasonCode.NOT_FOR_BUNDLE),
        ((1, 1, 64, 64), {}, {"dims": 3}, ReasonCode.NOT_FOR_BUNDLE),
        ((1, 1, 64, 64), {}, {"scale": "spacing", "spacing": (1, 1)}, ReasonCode.NOT_FOR_BUNDLE),
        ((1, 1, 64, 31), {}, {"minimum_size": (32, 32)}, ReasonCode.FOV_NOT_FOR_BUNDLE),
        ((1, 9, 64, 64), {}, {"dims": 3, "extent_mm": {"max": [50, 50, 50]}}, ReasonCode.FOV_NOT_FOR_BUNDLE),
    ],
)
def test_what_the_bundle_is_not_meant_for_is_refused(
    make_image: MakeImage, make_bundle: MakeBundle, shape: Any, given: Any, spec: Any, code: ReasonCode
) -> None:
    with pytest.raises(Refused) as caught:
        prepare(make_image(np.zeros(shape, np.uint8), **given), make_bundle(**spec))
    assert caught.value.reason is code


def test_a_spacing_that_would_fill_the_memory_is_refused(
    make_image: MakeImage, make_bundle: MakeBundle
) -> None:
    affine = np.diag([900.0, 900.0, 900.0, 1.0])
    image = make_image(np.zeros((1, 16, 64, 64), np.int16), affine)
    bundle = make_bundle(dims=3, scale="spacing", spacing=(1, 1, 1), modality=["CT"])
    with pytest.raises(Refused) as refused:
        prepare(image, bundle)
    assert refused.value.code == ReasonCode.TOO_LARGE


def coloured(shape: tuple[int, int] = (64, 64)) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A red picture (3, 1, J, I)."""
    picture = np.zeros((3, 1, *shape), np.uint8)
    picture[0] = 200
    return picture


def test_a_refusal_is_in_a_readers_words(make_image: MakeImage, make_bundle: MakeBundle) -> None:
    """No name of the image, so that the same refusal of many is told once; no letters for axes."""
    with pytest.raises(Refused) as colour:
        prepare(make_image(coloured()), make_bundle())
    assert str(colour.value) == "bundle spots is for grey pictures, not colour pictures"
    small = make_bundle(dims=3, orientation="RAS", extent_mm={"min": [20, 35, 25], "max": [56, 70, 52]})
    with pytest.raises(Refused) as extent:
        prepare(make_image(np.zeros((1, 9, 64, 64), np.uint8)), small)
    assert str(extent.value) == (
        "bundle spots is meant for 20 x 35 x 25 to 56 x 70 x 52 mm (head-foot x front-back x right-left); "
        "this image covers 9 x 64 x 64 mm"
    )


def test_a_grey_picture_that_is_stored_as_rgb_is_grey(make_image: MakeImage, make_bundle: MakeBundle) -> None:
    """As ultrasound machines store it. A JPEG's rounding may tint it by a level or two."""
    plane = np.random.default_rng(0).integers(0, 254, (1, 64, 64), np.uint8)
    tinted = np.stack([plane, plane + 1, plane + 2])
    seen = prepare(make_image(tinted), make_bundle()).array
    assert np.allclose(seen, prepare(make_image(plane[None] + 1), make_bundle()).array, atol=1e-6)


def test_marks_in_a_grey_picture_are_taken_by_their_luminance(
    make_image: MakeImage, make_bundle: MakeBundle
) -> None:
    """Calipers and arrows are burnt in in colour; a Doppler box is more than a hundredth of the picture."""
    picture = np.full((3, 1, 64, 64), 100, np.uint8)
    picture[:, 0, 5, :40] = np.array([[0], [200], [0]])
    grey = picture[:1].copy()
    grey[0, 0, 5, :40] = 117  # 0.587 x 200
    seen = prepare(make_image(picture), make_bundle()).array
    assert np.array_equal(seen, prepare(make_image(grey), make_bundle()).array)
    picture[:, 0, 6, :2] = np.array([[0], [200], [0]])
    with pytest.raises(Refused, match="not colour pictures"):
        prepare(make_image(picture), make_bundle())
