"""Folders of pictures or volumes with their truth, as the Images that reading them from DICOM would give.

Three forms of folder are known. `images/<name>.jpg` (.png, .tif) with `masks/<name>.png`: bit n of a mask's stored
value (palette index, grey, or 1-bit) is class n. nnU-Net's: `imagesTr/<name>[_0000].nii.gz` with
`labelsTr/<name>.nii.gz`: label n + 1 is class n, 0 is background. Any other folder of files is taken for DICOM with SEG
(medpipe.training.dicom_pairs).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from medpipe.bundle import InputSpec
from medpipe.errors import ConfigError
from medpipe.training.dicom_pairs import DicomPairs, Label
from medpipe.types import Grid, Image, SourceFrame

PICTURES = (".jpg", ".jpeg", ".png", ".tif", ".tiff")
"""How the files of images/ may end."""


class Source(Protocol):
    """Images by name, and what is true of them."""

    def image(self, name: str) -> Image:
        """The image; raises ConfigError where there is none of that name."""

    def truth(self, name: str, classes: int) -> NDArray[np.bool_]:
        """Bool (classes, K, J, I) on the image's grid; ConfigError where it is missing or does not fit."""

    def stamp(self, name: str) -> tuple[int, int]:
        """Size and time of the image's file: a cached copy is of this very file."""


def open_source(folder: Path, spec: InputSpec, labels: Sequence[Label] = ()) -> Source:
    """The reader of a folder's form; `labels` are the classes as a SEG knows them, in order.

    Raises ConfigError where the form is not known.
    """
    if (folder / "imagesTr").is_dir():
        return Volumes(folder, spec.modality[0])
    if (folder / "images").is_dir():
        return Pictures(folder, spec.modality[0], colour=spec.channels == 3)
    pairs = DicomPairs(folder, labels)
    if pairs.names:
        return pairs
    raise ConfigError(
        f"{folder}: holds no picture: neither images/ with masks/, nor imagesTr/ with labelsTr/, nor DICOM with SEG"
    )


class Pictures:
    """`images/` and `masks/`."""

    def __init__(self, folder: Path, modality: str, *, colour: bool) -> None:
        self._folder, self._modality, self._colour = folder, modality, colour

    def image(self, name: str) -> Image:
        with Pillow.open(self._file(name)) as picture:
            pixels = np.asarray(picture.convert("RGB" if self._colour else "L"))
        return photograph(pixels, name, self._modality)

    def truth(self, name: str, classes: int) -> NDArray[np.bool_]:
        path = self._folder / "masks" / f"{name}.png"
        try:
            with Pillow.open(path) as picture:
                if picture.mode not in ("P", "L", "1"):
                    raise ConfigError(
                        f"{path}: masks are 8-bit (palette or grey) or 1-bit, not {picture.mode}"
                    )
                bits = np.asarray(picture).astype(np.uint8)
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read as a mask ({error})") from error
        return np.stack([(bits >> n) & 1 for n in range(classes)])[:, None].astype(np.bool_)

    def stamp(self, name: str) -> tuple[int, int]:
        facts = self._file(name).stat()
        return facts.st_size, facts.st_mtime_ns

    def _file(self, name: str) -> Path:
        for suffix in PICTURES:
            path = self._folder / "images" / f"{name}{suffix}"
            if path.is_file():
                return path
        raise ConfigError(f"{self._folder}: no picture images/{name}.jpg (or .png, .tif)")


class Volumes:
    """nnU-Net's `imagesTr/` and `labelsTr/`, one channel."""

    def __init__(self, folder: Path, modality: str) -> None:
        self._folder, self._modality = folder, modality

    def image(self, name: str) -> Image:
        array, affine = _read_nifti(self._file(name))
        return _image(array[None].astype(np.float32), affine, name, self._modality, "MONOCHROME2")

    def truth(self, name: str, classes: int) -> NDArray[np.bool_]:
        path = self._folder / "labelsTr" / f"{name}.nii.gz"
        if not path.is_file():
            raise ConfigError(f"{self._folder}: no label labelsTr/{name}.nii.gz")
        labels, _ = _read_nifti(path)
        return np.stack([labels == n + 1 for n in range(classes)])

    def stamp(self, name: str) -> tuple[int, int]:
        facts = self._file(name).stat()
        return facts.st_size, facts.st_mtime_ns

    def _file(self, name: str) -> Path:
        for path in (self._folder / "imagesTr" / f"{name}{end}" for end in (".nii.gz", "_0000.nii.gz")):
            if path.is_file():
                return path
        raise ConfigError(f"{self._folder}: no volume imagesTr/{name}.nii.gz (or {name}_0000.nii.gz)")


def photograph(pixels: NDArray[np.uint8], name: str, modality: str) -> Image:
    """Pixels (J, I, 3) or (J, I) as the Image that reading them from DICOM would give, without an instance."""
    planes = np.ascontiguousarray(np.atleast_3d(pixels).transpose(2, 0, 1))[:, None]
    return _image(planes, np.eye(4), name, modality, "RGB" if len(planes) == 3 else "MONOCHROME2")


def _read_nifti(path: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(K, J, I) and the affine from (i, j, k) to LPS mm; SimpleITK's physical space is LPS already."""
    import SimpleITK as sitk  # noqa: N813 - the project's own abbreviation

    try:
        volume: Any = sitk.ReadImage(str(path), imageIO="NiftiImageIO")
    except RuntimeError as error:
        raise ConfigError(f"{path}: cannot be read as NIfTI") from error
    if volume.GetDimension() != 3 or volume.GetNumberOfComponentsPerPixel() != 1:
        raise ConfigError(f"{path}: one volume of one channel is needed")
    affine = np.eye(4)
    affine[:3, :3] = np.array(volume.GetDirection()).reshape(3, 3) @ np.diag(volume.GetSpacing())
    affine[:3, 3] = volume.GetOrigin()
    return sitk.GetArrayFromImage(volume), affine


def _image(
    array: NDArray[np.generic], affine: NDArray[np.float64], name: str, modality: str, photometric: str
) -> Image:
    volume = array.shape[1] > 1
    return Image(
        array=array,
        grid=Grid((array.shape[1], array.shape[2], array.shape[3]), affine, spatial=volume),
        sources=(SourceFrame("", "", None, Path()),) * array.shape[1],
        study_uid="",
        series_uid="",
        name=name,
        modality=modality,
        photometric=photometric,
        calibrated=volume,
    )
