"""nnU-Net's folders as training data: `imagesTr/`, `labelsTr/` and what `dataset.json` says of channels and labels.

Both generations of dataset.json are read: {"labels": {"1": "Anterior"}, "modality": {"0": "MRI"}} of version 1 and of
the Medical Segmentation Decathlon; {"labels": {"anterior": 1, "whole": [1, 2]}, "channel_names": {"0": "T1"},
"file_ending": ".nii.gz"} of version 2, in which a list of label values is a region, their union. Without a
dataset.json label n + 1 is class n, and a volume has one channel.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medpipe.dicom.nifti import check_nifti
from medpipe.errors import ConfigError, Refused
from medpipe.training.dicom_pairs import Label
from medpipe.training.stamp import Stamp, stamp_of
from medpipe.types import Grid, Image, SourceFrame

_READERS = {
    ".nii.gz": "NiftiImageIO",
    ".nii": "NiftiImageIO",
    ".mha": "MetaImageIO",
    ".nrrd": "NrrdImageIO",
}
_ROUNDING = 1e-3
"""By how much a label that was kept as a float may miss its whole number."""
_TOLERANCE_MM = 0.01
"""By how much the affines of a case's files may differ."""


@dataclass(frozen=True)
class Dataset:
    """What dataset.json says: label values by name, in order, without the background; channels; how files end."""

    labels: dict[str, tuple[int, ...]]
    channels: int = 1
    ending: str | None = None


def read_dataset(path: Path) -> Dataset:
    """dataset.json of either version. Raises ConfigError with what is wrong in one line."""
    try:
        stated = json.loads(path.read_text(encoding="utf-8"))
        channels = stated.get("channel_names") or stated.get("modality") or {"0": ""}
        ending = stated.get("file_ending")
        labels = dict(_label(path, *item) for item in stated["labels"].items())
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(f"{path}: not valid JSON: {error}") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: needs labels, a table of names and values") from error
    if ending is not None and ending not in _READERS:
        raise ConfigError(f"{path}: file_ending {ending!r} is not read, only {', '.join(_READERS)}")
    if "ignore" in {name.casefold() for name in labels}:
        raise ConfigError(f"{path}: has a label to ignore; parts without a truth cannot be trained on")
    found = {name: values for name, values in labels.items() if values != (0,)}
    if all(
        len(values) == 1 for values in found.values()
    ):  # regions stay in the order in which they are written
        found = dict(sorted(found.items(), key=lambda row: row[1]))
    return Dataset(found, len(channels), ending)


def _label(path: Path, key: str, value: Any) -> tuple[str, tuple[int, ...]]:
    """Name and values of one row of `labels`: {value: name} in version 1, {name: value or values} in version 2."""
    if isinstance(value, str) and key.isdigit():
        return value, (int(key),)
    values = value if isinstance(value, list) else [value]
    if not values or any(not isinstance(n, int) or isinstance(n, bool) for n in values):
        raise ConfigError(f"{path}: label {key!r} is neither a number nor a list of numbers")
    return key, tuple(values)


def values_of(classes: Sequence[Label], dataset: Dataset, path: Path) -> list[tuple[int, ...]]:
    """Label values per class: by name (id or name of the class, in any case) where all are named so, else in order."""
    by_name = {name.casefold(): values for name, values in dataset.labels.items()}
    named = [next((by_name[n] for n in sorted(label.names()) if n in by_name), None) for label in classes]
    if all(values is not None for values in named):
        return [values for values in named if values is not None]
    known = ", ".join(dataset.labels)
    if any(values is not None for values in named):
        lost = ", ".join(label.id for label, values in zip(classes, named, strict=True) if values is None)
        raise ConfigError(f"{path}: no label is named {lost}; there are {known}")
    if len(classes) != len(dataset.labels):
        raise ConfigError(f"{path}: {len(classes)} classes, none named as one of its labels {known}")
    return list(dataset.labels.values())


class NnunetFolder:
    """`imagesTr/<name>_0000.nii.gz`, `_0001`, ... (or `<name>.nii.gz` where there is one channel) and `labelsTr/`."""

    def __init__(
        self, folder: Path, modality: str = "", channels: int | None = None, labels: Sequence[Label] = ()
    ) -> None:
        self._folder, self._modality = folder, modality
        path = folder / "dataset.json"
        self._dataset = read_dataset(path) if path.is_file() else Dataset({}, channels or 1)
        self._ending = self._dataset.ending or _ending_in(folder / "labelsTr")
        self._values = values_of(labels, self._dataset, path) if labels and self._dataset.labels else None
        if channels not in (None, self._dataset.channels):
            raise ConfigError(
                f"{path}: {self._dataset.channels} channel(s), but input.channels of the experiment is {channels}"
            )

    def image(self, name: str) -> Image:
        read = [_read(path) for path in self._files(name)]
        grids = [grid for _, grid in read]
        for path, grid in zip(self._files(name), grids, strict=True):
            if not grid.same_as(grids[0], _TOLERANCE_MM):
                raise ConfigError(f"{path}: does not lie where the first channel of {name} does")
        array = np.stack([values.astype(np.float32) for values, _ in read])
        known = array[np.isfinite(array)]
        if not known.size:
            raise ConfigError(f"{self._files(name)[0]}: holds no numbers")
        lowest, highest = float(known.min()), float(known.max())
        return Image(
            array=array,
            grid=grids[0],
            sources=(SourceFrame("", "", None, Path()),) * array.shape[1],
            study_uid="",
            series_uid="",
            name=name,
            modality=self._modality,
            photometric="MONOCHROME2",
            calibrated=grids[0].spatial,
            value_range=(lowest, highest),  # as `process` takes it for a NIfTI file
        )

    def truth(self, name: str, classes: int) -> NDArray[np.bool_]:
        path = self._folder / "labelsTr" / f"{name}{self._ending}"
        if not path.is_file():
            raise ConfigError(f"{self._folder}: no label labelsTr/{path.name}")
        labels, grid = _read(path)
        image = _grid(_header(self._files(name)[0]))
        if grid.shape == image.shape and not grid.same_as(image, _TOLERANCE_MM):
            raise ConfigError(f"{path}: does not lie where the volume of {name} does")
        values = self._values or [(n + 1,) for n in range(classes)]
        whole = self._known_values(path, labels, values)
        return np.stack([np.isin(whole, values[n]) for n in range(classes)])

    def _known_values(
        self, path: Path, labels: NDArray[Any], values: Sequence[tuple[int, ...]]
    ) -> NDArray[np.int64]:
        """Labels as whole numbers. Raises ConfigError where they are none, or nobody says what one of them means."""
        known = np.nan_to_num(labels, nan=-1.0, posinf=-1.0, neginf=-1.0)
        whole: NDArray[np.int64] = np.rint(known).astype(np.int64)
        if labels.dtype.kind == "f" and not np.allclose(labels, whole, rtol=0, atol=_ROUNDING):
            raise ConfigError(f"{path}: labels are whole numbers; it has others between them")
        named = {0, *(n for row in (*self._dataset.labels.values(), *values) for n in row)}
        strange = sorted(set(np.unique(whole).tolist()) - named)
        if strange:
            shown = ", ".join(map(str, strange[:4])) + (", ..." if len(strange) > 4 else "")
            where = "dataset.json names" if self._dataset.labels else "the classes are"
            raise ConfigError(
                f"{path}: has the value(s) {shown}; {where} {', '.join(map(str, sorted(named)))}"
            )
        return whole

    def stamp(self, name: str) -> Stamp:
        label = self._folder / "labelsTr" / f"{name}{self._ending}"
        return (*stamp_of([*self._files(name), label]), self._values)

    def groups(self) -> dict[str, str]:
        """Cases that have a label; nnU-Net's folders do not say whose they are."""
        ending = self._ending
        labels = sorted(p.name for p in (self._folder / "labelsTr").glob(f"*{ending}") if p.name[0] != ".")
        return {name.removesuffix(ending): name.removesuffix(ending) for name in labels}

    def _files(self, name: str) -> list[Path]:
        """One file per channel."""
        ending, count = self._ending, self._dataset.channels
        plain = self._folder / "imagesTr" / f"{name}{ending}"
        if count == 1 and plain.is_file():
            return [plain]
        files = [plain.with_name(f"{name}_{n:04d}{ending}") for n in range(count)]
        for path in files:
            if not path.is_file():
                other = f" (or {plain.name})" if count == 1 else ""
                raise ConfigError(f"{self._folder}: no volume imagesTr/{path.name}{other}")
        return files


def _ending_in(labels: Path) -> str:
    """How the files of a folder end, where dataset.json does not say. Raises ConfigError where they end differently."""
    names = [path.name for path in labels.glob("*") if path.name[0] != "."]
    found = [ending for ending in _READERS if any(name.endswith(ending) for name in names)]
    if len(found) > 1:
        raise ConfigError(
            f"{labels}: files end in {' and '.join(found)}; name one in dataset.json, as file_ending"
        )
    return found[0] if found else ".nii.gz"


def _header(path: Path) -> Any:
    """SimpleITK's reader with the header read. Raises ConfigError for what is not one volume of one channel."""
    import SimpleITK as sitk  # noqa: N813 - the project's own abbreviation

    reader = sitk.ImageFileReader()
    reader.SetImageIO(next(reader for ending, reader in _READERS.items() if path.name.endswith(ending)))
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise ConfigError(f"{path}: cannot be read as a volume") from error
    if reader.GetDimension() != 3 or reader.GetNumberOfComponents() != 1:
        raise ConfigError(f"{path}: one volume of one channel is needed; further channels are further files")
    return reader


def _grid(volume: Any) -> Grid:
    """(K, J, I) and the affine from (i, j, k) to LPS mm; SimpleITK's physical space is LPS already."""
    affine = np.eye(4)
    affine[:3, :3] = np.array(volume.GetDirection()).reshape(3, 3) @ np.diag(volume.GetSpacing())
    affine[:3, 3] = volume.GetOrigin()
    i, j, k = volume.GetSize()
    return Grid((k, j, i), affine, spatial=k > 1)


def _read(path: Path) -> tuple[NDArray[Any], Grid]:
    """Values (K, J, I) of a volume, and its grid."""
    import SimpleITK as sitk  # noqa: N813

    if path.name.endswith((".nii", ".nii.gz")):
        try:
            check_nifti(path)
        except Refused as refused:
            raise ConfigError(f"{path}: {refused}") from refused
    reader = _header(path)
    try:
        volume = reader.Execute()
    except RuntimeError as error:
        raise ConfigError(f"{path}: cannot be read as a volume") from error
    return sitk.GetArrayFromImage(volume), _grid(volume)
