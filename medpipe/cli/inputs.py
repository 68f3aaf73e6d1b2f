"""What the paths on a command line are: DICOM files (grouped), loose pictures, NIfTI volumes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from medpipe.errors import UsageError

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff")
NIFTI_SUFFIXES = (".nii", ".nii.gz")


class InputKind(Enum):
    DICOM = "dicom"
    PICTURE = "picture"
    NIFTI = "nifti"


@dataclass(frozen=True)
class Source:
    """One input as given by the user and the files it stands for (one file unless DICOM).

    `below` is where a picture or volume lies in the folder that was given: so its results lie in the folder of results.
    """

    given: Path
    kind: InputKind
    files: tuple[Path, ...]
    below: Path = Path()

    @property
    def stem(self) -> Path:
        """What the names of a picture's or volume's results begin with, in the folder of results."""
        return self.below / stem_of(self.files[0])


def kind_of(path: Path) -> InputKind:
    """By suffix; whatever has no known suffix is taken for DICOM (most have none)."""
    name = path.name.lower()
    if name.endswith(NIFTI_SUFFIXES):
        return InputKind.NIFTI
    if name.endswith(PICTURE_SUFFIXES):
        return InputKind.PICTURE
    return InputKind.DICOM


def stem_of(path: Path) -> str:
    """File name without its picture or NIfTI suffix."""
    name = path.name
    for suffix in (*NIFTI_SUFFIXES, *PICTURE_SUFFIXES):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def collect(paths: Sequence[Path]) -> tuple[Source, ...]:
    """Sources in the order given. All DICOM files of one folder are one source (they may hold several studies)."""
    sources: list[Source] = []
    for path in paths:
        if not path.exists():
            raise UsageError(f"{path}: no such file or folder")
        files = sorted(_files(path)) if path.is_dir() else [path]
        if not files:
            raise UsageError(f"{path}: the folder holds no files")
        dicom = tuple(file for file in files if kind_of(file) is InputKind.DICOM)
        if dicom:
            sources.append(Source(path, InputKind.DICOM, dicom))
        sources += [
            Source(file, kind_of(file), (file,), file.parent.relative_to(path) if path.is_dir() else Path())
            for file in files
            if kind_of(file) is not InputKind.DICOM
        ]
    _check_results_apart(sources)
    return _one_source_for_single_files(sources)


def _check_results_apart(sources: Sequence[Source]) -> None:
    """Raises UsageError where the results of two pictures or volumes would have one name."""
    first: dict[str, Source] = {}
    for source in sources:
        if source.kind is InputKind.DICOM:
            continue
        other = first.setdefault(str(source.stem).casefold(), source)
        if other is not source:
            raise UsageError(
                f"{other.given} and {source.given}: their results would have one name, {source.stem}; "
                "process them one by one, each with its own --out"
            )


def _one_source_for_single_files(sources: list[Source]) -> tuple[Source, ...]:
    """Single DICOM files named one by one belong together: a series given as `*.dcm` is one volume, not many slices."""
    single = [s for s in sources if s.kind is InputKind.DICOM and s.files == (s.given,)]
    if len(single) < 2:
        return tuple(sources)
    together = Source(single[0].given, InputKind.DICOM, tuple(s.given for s in single))
    merged = [together if s is single[0] else s for s in sources if s is single[0] or s not in single]
    return tuple(merged)


def _files(folder: Path) -> Iterator[Path]:
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            if not name.startswith(".") and name != "DICOMDIR":
                yield Path(root) / name
