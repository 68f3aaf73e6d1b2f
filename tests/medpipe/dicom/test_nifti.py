"""NIfTI files that were cut off, damaged, or say no place are refused before anything is read out of them."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from medpipe.dicom.nifti import check_nifti, read_nifti
from medpipe.errors import ReasonCode, Refused

LIMITS = {"maximum_pixels": 10**6}
VALUES = np.random.default_rng(0).integers(0, 900, (6, 30, 40)).astype(np.int16)


@pytest.fixture(params=["one.nii", "one.nii.gz"])
def volume(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / request.param
    image = sitk.GetImageFromArray(VALUES)
    image.SetSpacing((1, 1, 2))
    sitk.WriteImage(image, str(path))
    return path


def unpacked(path: Path) -> bytearray:
    content = path.read_bytes()
    return bytearray(gzip.decompress(content) if path.name.endswith(".gz") else content)


def repacked(path: Path, content: bytes | bytearray) -> Path:
    path.write_bytes(gzip.compress(content) if path.name.endswith(".gz") else content)
    return path


def refusal_of(path: Path, scratch: Path) -> Refused:
    with pytest.raises(Refused) as caught:
        read_nifti(path, scratch, LIMITS)
    return caught.value


def test_a_whole_file_is_read_with_its_place_and_range(volume: Path, tmp_path: Path) -> None:
    plain = read_nifti(volume, tmp_path, LIMITS)
    assert np.array_equal(np.load(tmp_path / "image-0.npy")[0], VALUES)
    assert np.allclose(np.abs(np.diag(plain["affine"])), [1, 1, 2, 1])
    assert plain["value_range"] == [VALUES.min(), VALUES.max()]
    assert plain["modality"] == "", "nothing in the file says that it is MR"


@pytest.mark.parametrize("left", [0.0, 0.02, 0.6, 0.999])
def test_a_file_that_was_cut_off_is_refused(left: float, volume: Path, tmp_path: Path) -> None:
    content = volume.read_bytes()
    volume.write_bytes(content[: int(len(content) * left)])
    assert refusal_of(volume, tmp_path).reason is ReasonCode.UNREADABLE


def test_what_was_cut_off_before_it_was_packed_is_refused(tmp_path: Path, volume: Path) -> None:
    repacked(volume, bytes(unpacked(volume)[:-1]))
    assert refusal_of(volume, tmp_path).reason is ReasonCode.UNREADABLE


def test_a_packed_file_whose_check_sum_is_another_is_refused(tmp_path: Path) -> None:
    """Of 3 MB, more than is read at once."""
    path = tmp_path / "one.nii.gz"
    sitk.WriteImage(sitk.GetImageFromArray(np.tile(VALUES, (4, 10, 5))), str(path))
    check_nifti(path)
    content = bytearray(path.read_bytes())
    content[-6] ^= 1
    path.write_bytes(content)
    assert refusal_of(path, tmp_path).reason is ReasonCode.UNREADABLE


def test_bytes_after_the_data_do_no_harm(volume: Path) -> None:
    check_nifti(repacked(volume, bytes(unpacked(volume)) + bytes(3_000_000)))


def test_a_file_that_says_no_place_is_refused(volume: Path, tmp_path: Path) -> None:
    content = unpacked(volume)
    content[252:256] = struct.pack("<2h", 0, 0)
    assert refusal_of(repacked(volume, content), tmp_path).reason is ReasonCode.GEOM_MISSING


def test_a_sheared_place_is_refused_even_beside_a_right_one(volume: Path, tmp_path: Path) -> None:
    """SimpleITK would pass over the sform, and take the qform."""
    content = unpacked(volume)
    content[252:256] = struct.pack("<2h", 1, 2)
    content[280:328] = struct.pack("<12f", 1, 0.2, 0, 5, 0, 1, 0, 6, 0, 0, 2, 7)
    assert refusal_of(repacked(volume, content), tmp_path).reason is ReasonCode.GEOM_NOT_ORTHONORMAL


def said(
    volume: Path, *, spacing: tuple[float, ...], rows: tuple[float, ...], turn: tuple[float, ...], qfac: float
) -> Path:
    """The volume with both a qform and an sform."""
    content = unpacked(volume)
    content[76:92] = struct.pack("<4f", qfac, *spacing)
    content[252:256] = struct.pack("<2h", 1, 1)
    content[256:268] = struct.pack("<3f", *turn)
    content[280:328] = struct.pack("<12f", *rows)
    return repacked(volume, content)


def test_a_qform_and_an_sform_may_say_the_same_in_their_own_words(volume: Path, tmp_path: Path) -> None:
    """i to the left, j to the front, k up, off by 0.4 % and by 3 degrees; from a mirrored file as from a turned one."""
    near, c, s = 0.996, np.cos(np.radians(3)), np.sin(np.radians(3))
    rows = (-c, -s * near, 0, 5, s, -c * near, 0, 6, 0, 0, 2, 7)
    path = said(volume, spacing=(1, 1, 2), rows=rows, turn=(0, 0, 1), qfac=1)
    assert np.allclose(np.abs(np.diag(read_nifti(path, tmp_path, LIMITS)["affine"])), [1, 1, 2, 1], atol=0.01)
    rows = (1, 0, 0, 5, 0, 1, 0, 6, 0, 0, -2, 7)
    path = said(volume, spacing=(1, 1, 2), rows=rows, turn=(0, 0, 0), qfac=-1)
    assert read_nifti(path, tmp_path, LIMITS)["affine"][2][2] == -2


@pytest.mark.parametrize("code", [1, 0])
def test_two_sizes_of_a_voxel_are_refused(code: int, volume: Path, tmp_path: Path) -> None:
    """SimpleITK takes pixdim, others take the sform."""
    path = said(volume, spacing=(1, 1, 1), rows=(1, 0, 0, 5, 0, 1, 0, 6, 0, 0, 2, 7), turn=(0, 0, 0), qfac=1)
    content = unpacked(path)
    content[252:254] = struct.pack("<h", code)
    refused = refusal_of(repacked(path, content), tmp_path)
    assert refused.reason is ReasonCode.GEOM_MIXED_SIZE
    assert "1 x 1 x 2 mm by its sform and 1 x 1 x 1 mm by its pixdim" in str(refused)


@pytest.mark.parametrize(
    ("rows", "qfac"),
    [
        ((-1, 0, 0, 5, 0, 1, 0, 6, 0, 0, 2, 7), 1.0),  # left and right changed
        ((1, 0, 0, 5, 0, 1, 0, 6, 0, 0, 2, 7), -1.0),
        ((0, -1, 0, 5, 1, 0, 0, 6, 0, 0, 2, 7), 1.0),  # turned by a quarter
    ],
)
def test_two_orientations_are_refused(
    rows: tuple[float, ...], qfac: float, volume: Path, tmp_path: Path
) -> None:
    path = said(volume, spacing=(1, 1, 2), rows=rows, turn=(0, 0, 0), qfac=qfac)
    assert refusal_of(path, tmp_path).reason is ReasonCode.GEOM_MIXED_ORIENTATION


@pytest.mark.parametrize("b", [np.nan, np.inf])
def test_a_qform_that_is_no_number_is_refused(b: float, volume: Path, tmp_path: Path) -> None:
    path = said(volume, spacing=(1, 1, 2), rows=(1, 0, 0, 5, 0, 1, 0, 6, 0, 0, 2, 7), turn=(b, 0, 0), qfac=1)
    assert refusal_of(path, tmp_path).reason is ReasonCode.UNREADABLE


@pytest.mark.parametrize("order", ["<", ">"])
def test_nifti_2_is_checked_as_nifti_1_is(order: str, tmp_path: Path) -> None:
    header = bytearray(544)
    struct.pack_into(f"{order}i8s2h", header, 0, 540, b"n+2\0\r\n\x1a\n", 4, 16)
    struct.pack_into(f"{order}8q", header, 16, 3, 40, 30, 6, 1, 1, 1, 1)
    struct.pack_into(f"{order}q", header, 168, 544)
    struct.pack_into(f"{order}2i", header, 344, 1, 0)
    path = tmp_path / "two.nii"
    path.write_bytes(bytes(header) + VALUES.tobytes())
    check_nifti(path)
    path.write_bytes(bytes(header) + VALUES.tobytes()[:-1])
    with pytest.raises(Refused, match="cut off"):
        check_nifti(path)


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_a_volume_of_nothing_is_refused(value: float, tmp_path: Path) -> None:
    path = tmp_path / "empty.nii"
    sitk.WriteImage(sitk.GetImageFromArray(np.full((6, 30, 40), value, np.float32)), str(path))
    assert refusal_of(path, tmp_path).reason is ReasonCode.BAD_PIXELS
