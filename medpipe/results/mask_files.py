"""Masks and probabilities as plain files, for `process` on pictures and volumes that come from no archive."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medpipe.errors import UsageError
from medpipe.results.finished import write_atomically
from medpipe.types import Prediction

_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest time a zip file can state: a file's bytes must not depend on when they were written."""


def bit_coded(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """(classes, ...) -> one byte per voxel, bit n = class n (0-based). At most eight classes."""
    if mask.shape[0] > 8:
        raise UsageError(f"{mask.shape[0]} classes do not fit the 8 bits of a bit-coded mask")
    coded = np.zeros(mask.shape[1:], dtype=np.uint8)
    for number, one in enumerate(mask):
        coded |= np.asarray(one).view(np.uint8) << number
    return coded


def labels(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """(classes, ...) of classes that exclude each other -> 0 for nothing, else the class's number from 1."""
    coded = np.zeros(mask.shape[1:], dtype=np.uint8)
    for number, one in enumerate(mask, 1):
        coded[one] = number
    return coded


def write_mask_png(prediction: Prediction, path: Path) -> tuple[Path, ...]:
    """8-bit grey PNG, bit n = class n of the bundle (0-based): `path` for a picture.

    A volume gives one file per slice, `<stem>-0001.png` and so on in the order of the grid. Gives back the paths.
    """
    from PIL import Image as Picture

    coded = bit_coded(prediction.mask)
    paths = (
        [path.with_name(f"{path.stem}-{k:04d}{path.suffix}") for k in range(1, len(coded) + 1)]
        if prediction.image.is_volume
        else [path]
    )
    for plane, place in zip(coded, paths, strict=True):
        buffer = io.BytesIO()
        Picture.fromarray(plane).save(buffer, format="PNG", compress_level=6)
        write_atomically(buffer.getvalue(), place)
    return tuple(paths)


def write_nifti(prediction: Prediction, path: Path, *, exclusive: bool = False) -> Path:
    """NIfTI (`.nii` or `.nii.gz`) on the source's grid, through SimpleITK; gives back `path`.

    Voxels are the class's number from 1 where the bundle's classes exclude each other, else bit n = class n
    (0-based). The grid's LPS affine is given to ITK as it is; ITK writes NIfTI's RAS. Raises UsageError where the
    grid is sheared, which neither ITK nor NIfTI's qform can carry.
    """
    import SimpleITK

    grid = prediction.image.grid
    spacing = np.array(grid.spacing[::-1])
    cosines = grid.affine[:3, :3] / spacing
    if not np.allclose(cosines.T @ cosines, np.eye(3), atol=1e-4):
        raise UsageError(f"{prediction.image.name}: its grid is sheared; NIfTI cannot carry that")
    mask = prediction.mask
    picture: Any = SimpleITK.GetImageFromArray(labels(mask) if exclusive else bit_coded(mask))
    picture.SetSpacing([float(x) for x in spacing])
    picture.SetDirection([float(x) for x in cosines.ravel()])
    picture.SetOrigin([float(x) for x in grid.affine[:3, 3]])
    ending = ".nii.gz" if path.name.endswith(".gz") else ".nii"
    temporary = path.with_name(f".{path.name}.part{ending}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        SimpleITK.WriteImage(picture, str(temporary), useCompression=ending == ".nii.gz")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def write_probabilities(prediction: Prediction, path: Path) -> Path:
    """`.npz` with `probability` float16 (classes, K, J, I) on the source grid and `classes` (ids in bundle order).

    Raises UsageError where the prediction was made without keeping its probabilities.
    """
    if prediction.probability is None:
        raise UsageError(f"{prediction.image.name}: its probabilities were not kept")
    arrays = {
        "probability": np.asarray(prediction.probability, dtype=np.float16),
        "classes": np.array(prediction.class_ids),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    try:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for name, array in arrays.items():
                entry = zipfile.ZipInfo(f"{name}.npy", _EPOCH)
                entry.compress_type = zipfile.ZIP_DEFLATED
                entry.create_system = 3
                with archive.open(entry, "w", force_zip64=True) as file:
                    np.lib.format.write_array(file, array, allow_pickle=False)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
