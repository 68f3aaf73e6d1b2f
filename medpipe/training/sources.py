"""Folders of pictures or volumes with their truth, as the Images that reading them from DICOM would give.

Three forms of folder are known. `images/<name>.jpg` (.png, .tif) with `masks/<name>.png`: bit n of a mask's stored
value (palette index, grey, or 1-bit) is class n; pictures are read as `medpipe process` reads a camera's files.
nnU-Net's `imagesTr/` and `labelsTr/` (medpipe.training.nnunet_folder). Any other folder of files is taken for DICOM
with SEG (medpipe.training.dicom_pairs).
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageOps

from medpipe.bundle import InputSpec
from medpipe.config import Reading
from medpipe.dicom.pictures import read_picture
from medpipe.errors import ConfigError, Refused
from medpipe.training.dicom_pairs import DicomPairs, Label
from medpipe.training.nnunet_folder import NnunetFolder
from medpipe.training.stamp import Stamp, stamp_of
from medpipe.types import Grid, Image, SourceFrame

PICTURES = (".jpg", ".jpeg", ".png", ".tif", ".tiff")
"""How the files of images/ may end, in small letters or capitals."""
MASKS = (".png",)
_WHITE = 255


class Source(Protocol):
    """Images by name, and what is true of them."""

    def image(self, name: str) -> Image:
        """The image; raises ConfigError where there is none of that name."""

    def truth(self, name: str, classes: int) -> NDArray[np.bool_]:
        """Bool (classes, K, J, I) on the image's grid; ConfigError where it is missing or does not fit."""

    def stamp(self, name: str) -> Stamp:
        """Sizes and times of the image's and the truth's files, and what a label is: a cached copy is of these."""

    def groups(self) -> dict[str, str]:
        """The names that have a truth, each with its group: a patient, where one is known, who may not be parted.

        Raises ConfigError where what is there as truth can be none.
        """


def open_source(folder: Path, spec: InputSpec | None, labels: Sequence[Label] = ()) -> Source:
    """The reader of a folder's form; `labels` are the classes as a SEG or a dataset.json knows them, in order.

    `spec` is the input that the images are for; without it they may be listed, not read. Raises ConfigError where the
    form is not known.
    """
    modality, channels = (spec.modality[0], spec.channels) if spec else ("", None)
    if (folder / "imagesTr").is_dir():
        return NnunetFolder(folder, modality, channels, labels)
    if (folder / "images").is_dir():
        return Pictures(folder, modality)
    pairs = DicomPairs(folder, labels)
    if pairs.names:
        return pairs
    raise ConfigError(
        f"{folder}: holds no picture: neither images/ with masks/, nor imagesTr/ with labelsTr/, nor DICOM with SEG"
    )


class Pictures:
    """`images/` and `masks/`."""

    def __init__(self, folder: Path, modality: str) -> None:
        self._folder, self._modality = folder, modality

    def image(self, name: str) -> Image:
        """The picture as `process` reads it: upright, grey or RGB as it is stored, in its own depth."""
        path = self._file(name)
        with tempfile.TemporaryDirectory(prefix="medpipe-picture-") as scratch:
            try:
                plain = read_picture(path, Path(scratch), {"maximum_pixels": Reading().maximum_pixels})
            except Refused as refused:
                raise ConfigError(f"{path}: {refused}") from refused
            planes = np.load(Path(scratch) / "image-0.npy", allow_pickle=False)
        low, high = plain["value_range"]
        return _without_place(planes, name, self._modality, (low, high))

    def truth(self, name: str, classes: int) -> NDArray[np.bool_]:
        path = self._mask(name)
        try:
            with Pillow.open(path) as picture:
                if picture.mode not in ("P", "L", "1"):
                    raise ConfigError(
                        f"{path}: masks are 8-bit (palette or grey) or 1-bit, not {picture.mode}"
                    )
                indexed = picture.mode == "P"
                bits = np.asarray(ImageOps.exif_transpose(picture)).astype(np.uint8)
        except (OSError, SyntaxError, ValueError, Pillow.DecompressionBombError) as error:
            raise ConfigError(f"{path}: cannot be read as a mask ({error})") from error
        _check_values(path, np.unique(bits), classes, indexed=indexed)
        return np.stack([(bits >> n) & 1 for n in range(classes)])[:, None].astype(np.bool_)

    def stamp(self, name: str) -> Stamp:
        return stamp_of([self._file(name), self._mask(name)])

    def groups(self) -> dict[str, str]:
        """Pictures that have a mask; the folder does not say whose they are."""
        pictures, masks = (
            {path.stem for path in _ending(self._folder / part, suffixes)}
            for part, suffixes in (("images", PICTURES), ("masks", MASKS))
        )
        if not masks and (other := _ending(self._folder / "masks", PICTURES)):
            raise ConfigError(f"{min(other)}: masks are PNG files; other formats do not keep a pixel's value")
        return {name: name for name in sorted(pictures & masks)}

    def _file(self, name: str) -> Path:
        path = _named(self._folder / "images", name, PICTURES)
        if path is None:
            raise ConfigError(f"{self._folder}: no picture images/{name}.jpg (or .png, .tif)")
        return path

    def _mask(self, name: str) -> Path:
        folder = self._folder / "masks"
        return _named(folder, name, MASKS) or folder / f"{name}.png"


def _named(folder: Path, name: str, suffixes: Sequence[str]) -> Path | None:
    """The file of that name with the first of the suffixes, in small letters if there is one so."""
    for suffix in suffixes:
        if (path := folder / f"{name}{suffix}").is_file():
            return path
    # only now is the folder listed: there may be many thousand files, and most end in small letters
    found = [path for path in _ending(folder, suffixes) if path.stem == name]
    return min(found, key=lambda path: (suffixes.index(path.suffix.lower()), path.name), default=None)


def _ending(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """The files of a folder that end so, in small letters or capitals, but hidden ones."""
    files = folder.iterdir() if folder.is_dir() else ()
    return [path for path in files if path.suffix.lower() in suffixes and not path.name.startswith(".")]


def _check_values(path: Path, values: NDArray[np.uint8], classes: int, *, indexed: bool) -> None:
    """Raises ConfigError where a mask's values are no bits of the classes.

    A palette names what it holds, so bits of further classes are passed over there. White is the one class there is;
    of grey values nothing else may be guessed: 128 and 255, numbers of labels and blurred edges would be misread.
    """
    present = {int(value) for value in values} - {0}
    if classes == 1 and present == {_WHITE}:
        return
    if present == {_WHITE} or (not indexed and any(value >> classes for value in present)):
        shown = ", ".join(map(str, sorted(present)[:4])) + (", ..." if len(present) > 4 else "")
        raise ConfigError(
            f"{path}: the value(s) {shown} are no mask of {classes} class(es): a pixel's value is the sum of 1 for the "
            "first class, 2 for the second, 4 for the third, ...; only a single class may be black and white (0, 255)"
        )


def photograph(pixels: NDArray[np.uint8], name: str, modality: str) -> Image:
    """Pixels (J, I, 3) or (J, I) as the Image that reading them from DICOM would give, without an instance."""
    planes = np.ascontiguousarray(np.atleast_3d(pixels).transpose(2, 0, 1))[:, None]
    return _without_place(planes, name, modality, None)


def _without_place(
    planes: NDArray[Any], name: str, modality: str, value_range: tuple[float, float] | None
) -> Image:
    """A picture (channels, 1, J, I) that is nowhere in a patient and has no instance."""
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
        value_range=value_range,
    )
