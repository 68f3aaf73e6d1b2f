"""Masks and probabilities as plain files, read back by other programs' readers."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import SimpleITK

from medpipe.errors import UsageError
from medpipe.results import write_mask_png, write_nifti, write_probabilities
from medpipe.types import Grid

Make = Callable[..., Any]


def test_a_png_has_a_bit_for_each_class(picture: Make, prediction: Make, tmp_path: Path) -> None:
    made = prediction(picture())
    (path,) = write_mask_png(made, tmp_path / "eye.png")
    coded = np.asarray(PIL.Image.open(path))
    assert coded.dtype == np.uint8
    assert np.array_equal((coded & 1).astype(bool), made.mask[0, 0])
    assert np.array_equal((coded >> 1 & 1).astype(bool), made.mask[1, 0])
    assert (coded == 3).any()  # classes may overlap


def test_a_volume_gives_a_png_for_each_slice(volume: Make, prediction: Make, tmp_path: Path) -> None:
    made = prediction(volume())
    paths = write_mask_png(made, tmp_path / "head.png")
    assert [path.name for path in paths] == [f"head-{k:04d}.png" for k in range(1, 8)]
    assert np.array_equal(np.asarray(PIL.Image.open(paths[3])) & 1 > 0, made.mask[0, 3])


@pytest.mark.parametrize("name", ["mask.nii", "mask.nii.gz"])
@pytest.mark.parametrize(
    "cosines",
    [
        ((1, 0, 0), (0, 1, 0)),
        ((-1, 0, 0), (0, 1, 0)),
        ((0, 1, 0), (0, 0, -1)),
        ((0.8, 0.6, 0), (-0.36, 0.48, 0.8)),
    ],
)
def test_a_nifti_lies_where_the_image_lies(
    name: str, cosines: Any, volume: Make, prediction: Make, tmp_path: Path
) -> None:
    made = prediction(volume(row=cosines[0], column=cosines[1], reverse=True))
    path = write_nifti(made, tmp_path / name)
    read = SimpleITK.ReadImage(str(path))
    coded = SimpleITK.GetArrayFromImage(read)
    assert np.array_equal((coded & 1).astype(bool), made.mask[0])
    assert np.array_equal((coded >> 1 & 1).astype(bool), made.mask[1])
    for index in [(0, 0, 0), (32, 19, 6), (5, 0, 2)]:  # i, j, k; ITK speaks LPS as we do
        expected = made.image.grid.to_patient(np.array(index[::-1], float))
        assert np.allclose(read.TransformIndexToPhysicalPoint(index), expected, atol=1e-3)


def test_a_nifti_s_own_header_is_in_ras(volume: Make, prediction: Make, tmp_path: Path) -> None:
    made = prediction(volume())
    content = write_nifti(made, tmp_path / "mask.nii").read_bytes()
    rows = np.frombuffer(content, "<f4", 12, offset=280).reshape(3, 4)  # srow_x, srow_y, srow_z (nifti1.h)
    expected = np.diag([-1.0, -1.0, 1.0, 1.0]) @ made.image.grid.affine
    assert np.allclose(rows, expected[:3], atol=1e-3)


def test_classes_that_exclude_each_other_become_labels(
    volume: Make, prediction: Make, tmp_path: Path
) -> None:
    image = volume()
    mask = np.zeros((2, *image.grid.shape), bool)
    mask[0, 2, 3, 4] = mask[1, 5, 6, 7] = True
    path = write_nifti(prediction(image, mask), tmp_path / "mask.nii.gz", exclusive=True)
    coded = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))
    assert coded[2, 3, 4] == 1
    assert coded[5, 6, 7] == 2
    assert np.count_nonzero(coded) == 2


def test_a_sheared_grid_is_refused_rather_than_bent(volume: Make, prediction: Make, tmp_path: Path) -> None:
    image = volume()
    affine = image.grid.affine.copy()
    affine[1, 2] += 0.5
    with pytest.raises(UsageError, match="sheared"):
        write_nifti(prediction(replace(image, grid=Grid(image.grid.shape, affine))), tmp_path / "mask.nii")
    assert list(tmp_path.glob("*.nii")) == []


def test_probabilities_keep_their_type_and_their_bytes(
    picture: Make, prediction: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = prediction(picture())
    probability = np.random.default_rng(3).random(made.mask.shape).astype(np.float16)
    made = replace(made, probability=probability)
    first = write_probabilities(made, tmp_path / "a.npz").read_bytes()
    monkeypatch.setattr(time, "time", lambda: 2e9)
    assert write_probabilities(made, tmp_path / "b.npz").read_bytes() == first
    with np.load(tmp_path / "a.npz") as archive:
        assert archive["probability"].dtype == np.float16
        assert np.array_equal(archive["probability"], probability)
        assert archive["classes"].tolist() == ["MA", "EX"]
    with pytest.raises(UsageError, match="not kept"):
        write_probabilities(prediction(picture()), tmp_path / "c.npz")
