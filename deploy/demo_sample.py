"""What the demo's modality sends: a drawn study, a picture wrapped as DICOM, or files of the user's."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

PICTURES = {".jpg", ".jpeg", ".png", ".tif", ".tiff"}


class DemoError(RuntimeError):
    """A step failed; the text says which, why, and where its log is."""


def sample_files(sample: Path | None, folder: Path) -> list[Path]:
    """The DICOM files to send: a drawn fundus photograph, a wrapped picture, or what the user names."""
    if sample is None:
        from medpipe.samples import write_study

        return list(write_study("fundus", folder / "sample", seed=1).files)
    if not sample.exists():
        raise DemoError(f"SAMPLE: {sample} does not exist")
    if sample.is_file() and sample.suffix.lower() in PICTURES:
        from medpipe.samples import wrap_photo

        (folder / "sample").mkdir()
        wrapped = folder / "sample" / "photograph.dcm"
        wrap_photo(sample, wrapped)
        return [wrapped]
    files = [sample] if sample.is_file() else sorted(path for path in sample.rglob("*") if path.is_file())
    dicom = [path for path in files if is_dicom(path)]
    if not dicom:
        raise DemoError(f"SAMPLE: {sample} holds no DICOM file; pictures are {', '.join(sorted(PICTURES))}")
    return dicom


def is_dicom(path: Path) -> bool:
    with contextlib.suppress(OSError), path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"
    return False


def studies_of(files: Sequence[Path]) -> list[str]:
    """Study Instance UIDs of the files."""
    from pydicom import dcmread

    uids = {
        str(dcmread(path, stop_before_pixels=True, specific_tags=["StudyInstanceUID"]).StudyInstanceUID)
        for path in files
    }
    return sorted(uids)


PROPOSE = {
    "1.2.840.10008.1.2.4.50": ["-xy"],
    "1.2.840.10008.1.2.4.51": ["-xx"],
    "1.2.840.10008.1.2.4.70": ["-xs"],
    "1.2.840.10008.1.2.4.80": ["-xt"],
    "1.2.840.10008.1.2.4.81": ["-xu"],
    "1.2.840.10008.1.2.4.90": ["-xv"],
    "1.2.840.10008.1.2.4.91": ["-xw"],
    "1.2.840.10008.1.2.5": ["-xr"],
    "1.2.840.10008.1.2.1.99": ["-xd"],
}
"""storescu's option for each compressed transfer syntax: without it, it would have to decompress."""


def by_syntax(files: Sequence[Path]) -> dict[str, list[Path]]:
    """The files by their transfer syntax."""
    from pydicom.filereader import read_file_meta_info

    groups: dict[str, list[Path]] = {}
    for path in files:
        groups.setdefault(str(read_file_meta_info(path).get("TransferSyntaxUID", "")), []).append(path)
    return groups
