"""Folders of pictures or volumes with their truth, as the Images that reading them from DICOM would give.

Three forms of folder are known. `images/<name>.jpg` (.png, .tif) with `masks/<name>.png`: bit n of a mask's stored
value (palette index, grey, or 1-bit) is class n. nnU-Net's `imagesTr/` and `labelsTr/`
(medpipe.training.nnunet_folder). Any other folder of files is taken for DICOM with SEG
(medpipe.training.dicom_pairs).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from medpipe.bundle import InputSpec
from medpipe.errors import ConfigError
from medpipe.training.dicom_pairs import DicomPairs, Label
from medpipe.training.nnunet_folder import NnunetFolder
from medpipe.training.stamp import Stamp, stamp_of
from medpipe.types import Grid, Image, SourceFrame

PICTURES = (".jpg", ".jpeg", ".png", ".tif", ".tiff")
"""How the files of images/ may end."""


class Source(Protocol):
    """Images by name, and what is true of them."""

    def image(self, name: str) -> Image:
        """The image; raises ConfigError where there is none of that name."""

    def truth(self, name: str, classes: int) -> NDArray[np.bool_]:
        """Bool (classes, K, J, I) on the image's grid; ConfigError where it is missing or does not fit."""

    def stamp(self, name: str) -> Stamp:
        """Sizes and times of the image's and the truth's files, and what a label is: a cached copy is of these."""

    def groups(self) -> dict[str, str]:
        """The names that have a truth, each with its group: a patient, where one is known, who may not be parted."""


def open_source(folder: Path, spec: InputSpec | None, labels: Sequence[Label] = ()) -> Source:
    """The reader of a folder's form; `labels` are the classes as a SEG or a dataset.json knows them, in order.

    `spec` is the input that the images are for; without it they may be listed, not read. Raises ConfigError where the
    form is not known.
    """
    modality, channels = (spec.modality[0], spec.channels) if spec else ("", None)
    if (folder / "imagesTr").is_dir():
        return NnunetFolder(folder, modality, channels, labels)
    if (folder / "images").is_dir():
        return Pictures(folder, modality, colour=channels == 3)
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

    def stamp(self, name: str) -> Stamp:
        return stamp_of([self._file(name), self._folder / "masks" / f"{name}.png"])

    def groups(self) -> dict[str, str]:
        """Pictures that have a mask; the folder does not say whose they are."""
        masked = {path.stem for path in (self._folder / "masks").glob("*.png")}
        found = {p.stem for p in (self._folder / "images").iterdir() if p.suffix.lower() in PICTURES}
        return {name: name for name in sorted(found & masked)}

    def _file(self, name: str) -> Path:
        for suffix in PICTURES:
            path = self._folder / "images" / f"{name}{suffix}"
            if path.is_file():
                return path
        raise ConfigError(f"{self._folder}: no picture images/{name}.jpg (or .png, .tif)")


def photograph(pixels: NDArray[np.uint8], name: str, modality: str) -> Image:
    """Pixels (J, I, 3) or (J, I) as the Image that reading them from DICOM would give, without an instance."""
    planes = np.ascontiguousarray(np.atleast_3d(pixels).transpose(2, 0, 1))[:, None]
    return Image(
        array=planes,
        grid=Grid((1, *planes.shape[2:]), np.eye(4), spatial=False),
        sources=(SourceFrame("", "", None, Path()),),
        study_uid="",
        series_uid="",
        name=name,
        modality=modality,
        photometric="RGB" if len(planes) == 3 else "MONOCHROME2",
        calibrated=False,
    )
