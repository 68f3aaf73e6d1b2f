"""Drawn studies: the same arguments give the same bytes, the truth is true, and our reader gives the drawing back."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from scipy import ndimage

from medpipe.config import Reading
from medpipe.dicom import GuardedReader
from medpipe.errors import UsageError
from medpipe.identity import MANUFACTURER, MANUFACTURER_MODEL_NAME
from medpipe.samples import KINDS, SampleStudy, read_truth, write_study
from medpipe.samples.fundus import CLASSES, draw_fundus
from medpipe.samples.phantom import AXIAL, CORONAL, SAGITTAL, draw_phantom
from medpipe.samples.ultrasound import draw_ultrasound

OBLIQUE = (0.8, 0.6, 0.0, -0.36, 0.48, 0.8)
SMALL: dict[str, dict[str, Any]] = {
    "fundus": {"width": 720, "height": 480},
    "fundus-healthy": {"width": 720, "height": 480},
    "ultrasound": {"width": 201, "height": 151},
    "ct": {"shape": (16, 40, 48), "spacing": (3.0, 1.5, 1.0)},
    "mr": {"shape": (16, 40, 48), "spacing": (3.0, 1.5, 1.0), "orientation": SAGITTAL},
}


@pytest.fixture(scope="module", params=KINDS)
def study(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SampleStudy:
    return write_study(request.param, tmp_path_factory.mktemp(request.param), 3, **SMALL[request.param])


def content(study: SampleStudy) -> dict[str, bytes]:
    files = [*study.files, *study.truth.iterdir()]
    return {path.name: path.read_bytes() for path in files}


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_arguments_give_the_same_bytes(kind: str, tmp_path: Path) -> None:
    first = write_study(kind, tmp_path / "a", 3, **SMALL[kind])
    again = write_study(kind, tmp_path / "b", 3, **SMALL[kind])
    other = write_study(kind, tmp_path / "c", 4, **SMALL[kind])
    assert content(first) == content(again)
    assert first.study_uid != other.study_uid
    assert not content(first).keys() & {path.name for path in other.files}


def test_the_standard_is_kept(study: SampleStudy) -> None:
    """dciodvfy (dicom3tools) knows the IODs of PS3.3."""
    if shutil.which("dciodvfy") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("dciodvfy is not installed")
        pytest.skip("dciodvfy is not installed")
    for path in study.files[:2]:
        said = subprocess.run(["dciodvfy", "-new", str(path)], capture_output=True, text=True, timeout=60)
        assert "Error" not in said.stderr + said.stdout, said.stderr


def test_a_sample_is_not_taken_for_a_result(study: SampleStudy) -> None:
    header = dcmread(study.files[0], stop_before_pixels=True)
    assert header.Manufacturer != MANUFACTURER
    assert header.ManufacturerModelName != MANUFACTURER_MODEL_NAME
    assert header.StudyInstanceUID == study.study_uid
    assert str(header.PatientName).startswith("Sample^")


def test_our_reader_gives_the_drawing_back(study: SampleStudy, tmp_path: Path) -> None:
    with GuardedReader(Reading()) as reader:
        scan = reader.scan(study.files)
        assembly = reader.assemble(study.files, tmp_path)
    assert len(scan.instances) == len(study.files) and not scan.unreadable
    assert not any(instance.own_output for instance in scan.instances)
    assert not assembly.refused and not assembly.ignored
    (image,) = assembly.images
    truth = read_truth(study.truth)
    assert truth.shape[1:] == image.grid.shape
    if image.modality in ("CT", "MR"):
        drawn = draw_phantom(image.modality.lower(), 3, **SMALL[image.modality.lower()])
        assert np.array_equal(image.array[0], drawn.array)
        assert np.allclose(image.grid.affine, drawn.affine, atol=1e-6)
        assert image.grid.spatial
    elif image.modality == "US":
        sample = draw_ultrasound(3, **SMALL["ultrasound"])
        assert np.array_equal(image.array[0, 0], sample.picture)
        assert image.grid.spacing[1:] == pytest.approx((sample.spacing, sample.spacing))
    else:
        healthy = not truth.any()
        eye = draw_fundus(3, lesions=not healthy, **SMALL["fundus"])
        change = np.abs(image.array[:, 0].transpose(1, 2, 0).astype(int) - eye.picture)
        assert change.mean() < 2, "more than JPEG at quality 93 takes away"
        assert image.laterality == eye.laterality


def test_the_truth_file_is_the_drawing(study: SampleStudy) -> None:
    facts = json.loads((study.truth / "truth.json").read_text())
    truth = read_truth(study.truth)
    assert truth.shape[0] == len(facts["classes"])
    for number, name in enumerate(facts["classes"]):
        told = sum(lesion["class"] == name for lesion in facts["lesions"])
        assert (told > 0) == bool(truth[number].any())


def test_a_slice_numbered_against_its_normal_is_read_in_space(tmp_path: Path) -> None:
    options = SMALL["ct"] | {"orientation": OBLIQUE, "reverse": True}
    study = write_study("ct", tmp_path / "study", 3, **options)
    drawn = draw_phantom("ct", 3, **options)
    with GuardedReader(Reading()) as reader:
        (image,) = reader.assemble(study.files, tmp_path).images
    for lesion in drawn.lesions:
        index = np.linalg.inv(image.grid.affine) @ [*lesion.centre, 1]
        i, j, k = np.rint(index[:3]).astype(int)
        assert image.array[0, k, j, i] > 2400
    assert np.array_equal(image.array[0], drawn.array[::-1])


def test_a_drawing_that_cannot_be_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown kind"):
        write_study("xray", tmp_path)
    with pytest.raises(UsageError, match="at least 256 x 192"):
        write_study("fundus", tmp_path, width=10)
    with pytest.raises(UsageError, match="perpendicular"):
        write_study("ct", tmp_path, orientation=(1, 0, 0, 1, 0, 0))
    with pytest.raises(UsageError, match="colour"):
        write_study("ultrasound", tmp_path, colour="red")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["ct", "mr"])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("orientation", [AXIAL, SAGITTAL, CORONAL, OBLIQUE])
def test_lesions_lie_where_the_affine_says(kind: str, orientation: tuple[float, ...], reverse: bool) -> None:
    drawn = draw_phantom(kind, 5, (20, 48, 56), (2.5, 1.0, 1.3), orientation, reverse)
    assert drawn.lesions
    marked = np.zeros_like(drawn.truth)
    k, j, i = np.indices(drawn.truth.shape)
    places = np.stack([i, j, k, np.ones_like(i)], axis=-1) @ drawn.affine.T
    for lesion in drawn.lesions:
        marked |= np.linalg.norm(places[..., :3] - lesion.centre, axis=-1) <= lesion.radius
    assert np.array_equal(marked, drawn.truth)
    assert drawn.array[drawn.truth].min() > np.percentile(drawn.array[~drawn.truth], 98)
    assert (np.linalg.det(drawn.affine[:3, :3]) < 0) == reverse


@pytest.mark.parametrize("orientation", [AXIAL, SAGITTAL, CORONAL])
def test_no_flip_of_the_phantom_looks_like_it(orientation: tuple[float, ...]) -> None:
    drawn = draw_phantom("ct", 0, (32, 32, 32), (2.0, 2.0, 2.0), orientation, count=0)
    smooth = ndimage.gaussian_filter(drawn.array.astype(float), 1.0)  # noise, which no flip keeps, falls to 4
    for axis in range(3):
        assert np.abs(smooth - np.flip(smooth, axis)).max() > 40
    for axes in ((1, 0, 2), (0, 2, 1), (2, 1, 0)):
        assert np.abs(smooth - smooth.transpose(axes)).max() > 40


@pytest.mark.parametrize("seed", range(4))
def test_a_drawn_fundus_shows_every_class_within_the_field(seed: int) -> None:
    drawn = draw_fundus(seed, 960, 640)
    field = drawn.picture.max(axis=2) > 40
    for name, mask in zip(CLASSES, drawn.truth, strict=True):
        assert mask.any(), name
        assert (field[mask]).mean() > 0.99, name
    assert not draw_fundus(seed, 960, 640, lesions=False).truth.any()


def test_dark_lesions_are_darker_and_bright_ones_brighter_than_around() -> None:
    """Compared with the same eye without lesions: green falls under MA and HE, and rises under EX and SE."""
    ill = draw_fundus(2, 1440, 956)
    background = np.median(ill.picture[..., 1][ill.picture[..., 1] > 40])
    ratio = {
        name: np.median(ill.picture[..., 1][mask & ~np.delete(ill.truth, number, axis=0).any(axis=0)])
        / background
        for number, (name, mask) in enumerate(zip(CLASSES, ill.truth, strict=True))
    }
    assert ratio["MA"] < 0.97 and ratio["HE"] < 0.9
    assert ratio["EX"] > 1.1 and ratio["SE"] > 1.1


def test_the_eye_lies_as_its_laterality_says() -> None:
    """The disc, brightest thing in the field, is nasal: to the right of the middle in a right eye."""
    seen = set()
    for seed in range(8):
        drawn = draw_fundus(seed, 480, 320, lesions=False)
        green = drawn.picture[..., 1].astype(float)
        x = np.argwhere(green > 0.9 * green.max())[:, 1].mean()
        assert ("R" if x > 240 else "L") == drawn.laterality
        seen.add(drawn.laterality)
    assert seen == {"L", "R"}


@pytest.mark.parametrize("masses", [0, 1, 3])
def test_masses_are_dark_in_drawn_ultrasound(masses: int) -> None:
    drawn = draw_ultrasound(1, 400, 300, masses=masses)
    assert len(drawn.masses) == masses
    for mass in drawn.masses:
        y, x = (round(value) for value in mass.centre)
        assert drawn.truth[y, x]
    if masses:
        assert drawn.picture[drawn.truth].mean() < 0.5 * drawn.picture[~drawn.truth].mean()
    else:
        assert not drawn.truth.any()
