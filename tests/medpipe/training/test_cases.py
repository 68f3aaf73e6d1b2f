"""Reading images and truth, and bringing them to the working grid as the inference would."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from PIL import Image as Pillow

from medpipe.bundle import InputSpec
from medpipe.errors import ConfigError, Refused
from medpipe.inference.field import find_field
from medpipe.inference.preprocess import to_working_grid
from medpipe.samples.fundus import draw_fundus
from medpipe.training.cases import PRESENT, TrainingCase, load_cases, reduce
from medpipe.training.drawn import draw_pictures
from medpipe.training.experiment import Drawn, Patches
from medpipe.training.patches import PatchSampler
from medpipe.training.sources import open_source, photograph
from medpipe.types import Grid, Image, SourceFrame


def fundus(side: int) -> InputSpec:
    return InputSpec.model_validate(
        {
            "modality": ["OP"],
            "channels": 3,
            "spatial_dims": 2,
            "working_size": [side, side],
            "scale": "fit",
            "field": "fundus",
            "normalise": {"kind": "mean-std", "mean": [0.4, 0.4, 0.4], "std": [0.2, 0.2, 0.2]},
        }
    )


GREY = InputSpec.model_validate(
    {
        "modality": ["US"],
        "channels": 1,
        "spatial_dims": 2,
        "working_size": [32, 32],
        "scale": "fit",
        "normalise": {"kind": "mean-std", "mean": [0.4], "std": [0.2]},
    }
)
VOLUME = InputSpec.model_validate(
    {
        "modality": ["MR"],
        "channels": 1,
        "spatial_dims": 3,
        "scale": "spacing",
        "spacing": [1, 1, 1],
        "orientation": "LPS",
        "normalise": {"kind": "z-score"},
    }
)


def folder_with_mask(folder: Path, mask: Pillow.Image) -> Path:
    for part in ("images", "masks"):
        (folder / part).mkdir()
    Pillow.new("RGB", mask.size).save(folder / "images" / "one.png")
    mask.save(folder / "masks" / "one.png")
    return folder


def test_masks_are_read_as_bits_of_the_palette_index(tmp_path: Path) -> None:
    """Values 1, 2, 6, 8, 16: bit 0 is class 0; 6 is two classes at once; bit 4 is no class of ours."""
    values = np.array([[0, 1, 2, 6, 8, 16]], np.uint8)
    picture = Pillow.fromarray(values).convert("P")
    picture.putpalette([255 - n for n in range(256) for _ in range(3)])
    picture.putdata(values.ravel().tolist())
    masks = open_source(folder_with_mask(tmp_path, picture), fundus(64)).truth("one", 4)
    assert masks.shape == (4, 1, 1, 6)
    assert [np.flatnonzero(m[0, 0]).tolist() for m in masks] == [[1], [2, 3], [3], [4]]


@pytest.mark.parametrize("mode", ["1", "L"])
def test_black_and_white_masks_are_one_class(mode: str, tmp_path: Path) -> None:
    white = Pillow.fromarray(np.array([[0, 255, 255, 0]], np.uint8)).convert(mode)
    masks = open_source(folder_with_mask(tmp_path, white), GREY).truth("one", 1)
    assert masks[0, 0, 0].tolist() == [False, True, True, False]


def test_a_colour_mask_is_refused(tmp_path: Path) -> None:
    folder = folder_with_mask(tmp_path, Pillow.new("RGB", (4, 4)))
    with pytest.raises(ConfigError, match="not RGB"):
        open_source(folder, fundus(64)).truth("one", 4)


def test_a_missing_picture_or_mask_is_named(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    source = open_source(tmp_path, fundus(64))
    with pytest.raises(ConfigError, match=r"images/gone\.jpg"):
        source.image("gone")
    with pytest.raises(ConfigError, match=r"gone\.png"):
        source.truth("gone", 4)


def test_a_folder_of_no_known_form_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="imagesTr"):
        open_source(tmp_path, GREY)


def test_grey_pictures_have_one_channel(tmp_path: Path) -> None:
    folder = folder_with_mask(tmp_path, Pillow.new("1", (60, 40)))
    Pillow.new("L", (60, 40), 90).save(folder / "images" / "one.png")
    image = open_source(folder, GREY).image("one")
    assert image.array.shape == (1, 1, 40, 60)
    assert (image.modality, image.photometric) == ("US", "MONOCHROME2")
    Pillow.new("RGB", (60, 40), (90, 90, 90)).save(folder / "images" / "one.png")
    (case,) = load_cases(open_source(folder, GREY), ["one"], GREY, classes=1, cache=tmp_path / "cache")
    assert case.image.shape == (1, 1, 21, 32)
    assert set(np.unique(case.image).tolist()) == {90}, "grey that is stored in colour is grey"
    assert case.inside.all()


def write_volume(folder: Path, direction: tuple[float, ...]) -> Path:
    """A volume of 20 x 24 x 28 voxels of 2 mm along k with label 1 in one corner and label 2 beside it."""
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir()
    labels = np.zeros((20, 24, 28), np.uint8)
    labels[:4, :6, :7], labels[4:8, :6, :7] = 1, 2
    values = 1000.0 * labels + np.random.default_rng(0).normal(0, 10, labels.shape)
    for part, array in (("imagesTr", values.astype(np.float32)), ("labelsTr", labels)):
        volume = sitk.GetImageFromArray(array)
        volume.SetSpacing((1.0, 1.0, 2.0))
        volume.SetDirection(direction)
        sitk.WriteImage(volume, str(folder / part / "case_1.nii.gz"))
    return folder


@pytest.mark.parametrize("direction", [(1, 0, 0, 0, 1, 0, 0, 0, 1), (-1, 0, 0, 0, -1, 0, 0, 0, 1)])
def test_volumes_are_turned_and_resampled_with_their_labels(
    direction: tuple[float, ...], tmp_path: Path
) -> None:
    source = open_source(write_volume(tmp_path, direction), VOLUME)
    (case,) = load_cases(source, ["case_1"], VOLUME, classes=2, cache=tmp_path / "cache")
    assert case.shape == (40, 24, 28)
    assert case.image.dtype == np.float16
    assert case.image.astype(float).mean() == pytest.approx(0, abs=0.1)
    bright = case.image[0].astype(float)
    first, second = (mask >= PRESENT for mask in case.masks)
    assert first.sum() == pytest.approx(8 * 6 * 7, rel=0.2)
    assert bright[first].mean() > 1
    assert bright[second].mean() > bright[first].mean() + 1
    assert bool(first[0, 0, 0]) == (direction[0] == 1), "the corner follows the patient, not the array"


def test_a_volume_without_label_is_named(tmp_path: Path) -> None:
    source = open_source(write_volume(tmp_path, (1, 0, 0, 0, 1, 0, 0, 0, 1)), VOLUME)
    (tmp_path / "labelsTr" / "case_1.nii.gz").unlink()
    with pytest.raises(ConfigError, match="no label labelsTr/case_1"):
        source.truth("case_1", 2)


def test_the_field_of_view_is_cropped_and_its_longer_side_is_the_working_size() -> None:
    sample = draw_fundus(30, 768, 512)
    image, masks, inside = reduce(photograph(sample.picture, "one", "OP"), sample.truth[:, None], fundus(200))
    j0, i0, j1, i1 = find_field(sample.picture.transpose(2, 0, 1)).box
    assert max(image.shape[2:]) == 200
    assert image.shape[2] / image.shape[3] == pytest.approx((j1 - j0) / (i1 - i0), abs=0.01)
    assert image.shape[1:] == masks.shape[1:] == inside.shape
    assert not inside[0, 0, 0], "the corner of a round field is outside"
    assert inside[0, inside.shape[1] // 2, inside.shape[2] // 2]


def test_masks_keep_their_area_and_their_place() -> None:
    sample = draw_fundus(31, 768, 512)
    j0, i0, j1, i1 = find_field(sample.picture.transpose(2, 0, 1)).box
    truth = np.zeros((1, 1, 512, 768), np.bool_)
    middle, centre = (j0 + j1) // 2, (i0 + i1) // 2
    truth[0, 0, middle : middle + 40, centre : centre + 60] = True
    _, masks, _ = reduce(photograph(sample.picture, "one", "OP"), truth, fundus((i1 - i0) // 2))
    share = masks[0].astype(float) / 255
    assert share.sum() == pytest.approx(40 * 60 / 4, rel=0.02)
    _, rows, columns = np.nonzero(masks[0] >= PRESENT)
    assert rows.mean() == pytest.approx((middle - j0 + 20) / 2 - 0.5, abs=0.6)
    assert columns.mean() == pytest.approx((centre - i0 + 30) / 2 - 0.5, abs=0.6)


def test_pictures_are_read_once(drawn_data: Path, tmp_path: Path) -> None:
    source = open_source(drawn_data, fundus(200))
    (first,) = load_cases(source, ["drawn_2"], fundus(200), classes=4, cache=tmp_path)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    (again,) = load_cases(source, ["drawn_2"], fundus(200), classes=4, cache=tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == written
    assert np.array_equal(first.image, again.image)
    (other,) = load_cases(source, ["drawn_2"], fundus(240), classes=4, cache=tmp_path)
    assert max(other.shape) == 240, "another working size must not come from the cache"


def test_a_corrected_mask_is_read_anew(tmp_path: Path) -> None:
    folder = folder_with_mask(tmp_path, Pillow.new("L", (64, 40), 0))
    (before,) = load_cases(open_source(folder, GREY), ["one"], GREY, classes=1, cache=tmp_path / "cache")
    Pillow.new("L", (64, 40), 1).save(folder / "masks" / "one.png")
    (after,) = load_cases(open_source(folder, GREY), ["one"], GREY, classes=1, cache=tmp_path / "cache")
    assert (before.masks.max(), after.masks.min()) == (0, 255)


def test_the_places_of_a_class_lie_in_its_mask(drawn_data: Path, tmp_path: Path) -> None:
    source = open_source(drawn_data, fundus(320))
    (case,) = load_cases(source, ["drawn_3"], fundus(320), classes=4, cache=tmp_path)
    assert any(len(places) for places in case.places)
    for mask, places in zip(case.masks, case.places, strict=True):
        assert len(places) == int((mask >= PRESENT).sum())
        assert all(mask[k, j, i] >= PRESENT for k, j, i in places[:20])


def test_drawn_pictures_follow_the_order_of_the_classes(tmp_path: Path) -> None:
    spec = Drawn(seeds=(1000,), rows=384, columns=576)
    (there,) = draw_pictures(spec, ("MA", "HE", "EX", "SE"), fundus(160), tmp_path)
    (back,) = draw_pictures(spec, ("SE", "EX"), fundus(160), tmp_path)
    assert there.masks.any()
    assert np.array_equal(there.masks[[3, 2]], back.masks)


def test_a_class_that_nobody_draws_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not with VB"):
        draw_pictures(Drawn(seeds=(1000,)), ("MA", "VB"), fundus(160), tmp_path)


def slices(shape: tuple[int, int, int] = (16, 32, 32), photometric: str = "MONOCHROME2") -> Image:
    """A volume of values from -200 to 400 that may be from -1000 to 1000."""
    values = np.random.default_rng(4).uniform(-200, 400, (1, *shape)).astype(np.float32)
    grid, nowhere = Grid(shape, np.eye(4)), SourceFrame("", "", None, Path())
    sources = (nowhere,) * shape[0]
    return Image(values, grid, sources, "", "", "one", "CT", photometric, True, value_range=(-1000.0, 1000.0))


@pytest.mark.parametrize("photometric", ["MONOCHROME2", "MONOCHROME1"])
@pytest.mark.parametrize(
    "normalise",
    [
        {"kind": "window", "low": -160, "high": 240},
        {"kind": "window", "low": -160, "high": 240, "mean": 0.5, "std": 0.25},
        {"kind": "mean-std", "mean": [0.55], "std": [0.1]},
        {"kind": "percentile", "low": 1, "high": 99},
        {"kind": "z-score"},
    ],
)
def test_a_network_learns_from_the_values_that_it_will_see(
    normalise: dict[str, object], photometric: str
) -> None:
    """What inference feeds, and a patch of the whole volume without variations: alike but for the cache's 8 bits."""
    content = {"modality": ["CT"], "channels": 1, "spatial_dims": 3, "normalise": normalise}
    spec = InputSpec.model_validate(content)
    given = slices(photometric=photometric)
    image, masks, inside = reduce(given, np.zeros((1, *given.grid.shape), np.bool_), spec)
    case = TrainingCase("one", image, masks, inside, (np.empty((0, 3), np.int64),))
    still: dict[str, object] = dict.fromkeys(("zoom", "gain", "channel_gain", "gamma"), (1.0, 1.0))
    still |= {"blur": 0.0, "shift": 0.0, "flips": (), "size": given.grid.shape, "batch": 1}
    patch = PatchSampler([case], Patches.model_validate(still), spec, seed=0).batch(0).image[0].numpy()
    seen = to_working_grid(given, spec).array
    half_a_level = 0.51 / 255 / float(np.ravel(getattr(spec.normalise, "std", 1.0))[0])
    assert np.abs(patch - seen).max() <= (2e-3 if image.dtype == np.float16 else half_a_level)
    assert seen.std() > 0.1


@pytest.mark.parametrize(
    ("pixels", "changed", "said"),
    [
        (np.zeros((64, 64), np.uint8), {}, "colour pictures, not grey ones"),
        (np.zeros((20, 64, 3), np.uint8), {"minimum_size": (32, 32)}, "at least 32x32 pixels .*, not 20x64"),
        (np.zeros((64, 64, 3), np.uint8), {}, "field"),
    ],
)
def test_what_inference_would_refuse_is_refused_by_its_name(
    pixels: np.ndarray, changed: dict[str, object], said: str
) -> None:
    spec = fundus(64).model_copy(update=changed)
    with pytest.raises(Refused, match=f"eye_7: .*{said}") as caught:
        reduce(photograph(pixels, "eye_7", "OP"), np.zeros((1, 1, *pixels.shape[:2]), np.bool_), spec)
    assert "\n" not in str(caught.value)


def test_a_coloured_picture_is_no_grey_one() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    with pytest.raises(Refused, match=r"breast_1: .* is for grey pictures, not colour pictures"):
        reduce(photograph(pixels, "breast_1", "US"), np.zeros((1, 1, 64, 64), np.bool_), GREY)


def test_a_mask_of_another_size_is_refused(tmp_path: Path) -> None:
    folder = folder_with_mask(tmp_path, Pillow.new("L", (64, 40)))
    Pillow.new("L", (40, 64)).save(folder / "images" / "one.png")
    with pytest.raises(ConfigError, match=r"one: picture 64 x 40 and mask 40 x 64 \(rows x columns\) differ"):
        load_cases(open_source(folder, GREY), ["one"], GREY, classes=1, cache=tmp_path / "cache")
