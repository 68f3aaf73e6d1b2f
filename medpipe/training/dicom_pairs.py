"""DICOM studies with SEG objects as training data: what doctors corrected, where it lies.

A folder of any depth. The name of an image is its SOP Instance UID (pictures) or Series Instance UID (volumes), as
`process` names its results. Of several SEGs of one image that have a segment of one of the classes, the one with the
latest content date and time is the truth: a correction supersedes what it corrects, a SEG about other things does not.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.uid import SegmentationStorage

from medpipe.config import Reading
from medpipe.dicom import GuardedReader, InstanceHeader
from medpipe.dicom.headers import NOBODY
from medpipe.errors import ConfigError
from medpipe.results.read_seg import foreground, read_seg
from medpipe.training.stamp import Stamp, stamp_of
from medpipe.types import Image


@dataclasses.dataclass(frozen=True)
class Label:
    """How a class is known in a SEG: by its id, its name (Segment Label), or else its type's code.

    `scheme` is the code's (SCT, DCM, ...); empty: of any.
    """

    id: str
    name: str = ""
    code: str = ""
    scheme: str = ""

    def names(self) -> set[str]:
        return {text.casefold() for text in (self.id, self.name) if text}


class DicomPairs:
    """Images and SEGs of a folder; reads through the guarded reader, as patients' studies are read."""

    def __init__(self, folder: Path, labels: Sequence[Label]) -> None:
        self._folder, self._labels = folder, tuple(labels)
        files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
        with GuardedReader(Reading()) as reader:
            headers = reader.scan(files).instances
        self._images: dict[str, list[InstanceHeader]] = {}
        self._segs: dict[str, list[Path]] = {}
        for header in headers:
            if header.sop_class_uid == SegmentationStorage:
                self._segs.setdefault(header.study_uid, []).append(header.path)
            else:
                self._images.setdefault(header.study_uid, []).append(header)
        self._last: Image | None = None

    @property
    def names(self) -> list[str]:
        """SOP Instance UIDs and Series Instance UIDs that may be asked for: of studies that hold a SEG."""
        found = {
            uid
            for study, headers in self._images.items()
            if study in self._segs
            for header in headers
            for uid in (header.sop_instance_uid, header.series_uid)
        }
        return sorted(found)

    def image(self, name: str) -> Image:
        """The image; its array is in memory. Raises ConfigError where the folder has none of that name."""
        if self._last is not None and self._last.name == name:
            return self._last
        headers = self._study_of(name)
        with (
            tempfile.TemporaryDirectory(prefix="medpipe-pairs-") as scratch,
            GuardedReader(Reading()) as reader,
        ):
            assembly = reader.assemble([header.path for header in headers], Path(scratch))
            for image in assembly.images:
                if image.name == name:
                    padding = None if image.padding is None else np.array(image.padding)
                    self._last = dataclasses.replace(image, array=np.array(image.array), padding=padding)
                    return self._last
        reasons = (
            "; ".join(f"{q.code.value}: {q.sentence}" for q in assembly.refused) or "it holds no such image"
        )
        raise ConfigError(f"{self._folder}: {name} cannot be read: {reasons}")

    def truth(self, name: str, classes: int) -> NDArray[np.bool_]:
        """Bool (classes, K, J, I); a class without a segment is empty.

        Raises ConfigError where no SEG of the image has a segment of any class, or a segment may be of several.
        """
        image = self.image(name)
        instances = tuple(source.sop_instance_uid for source in image.sources)
        path, owners = self._latest_seg(image, self._labels[:classes])
        mask, _ = read_seg(path, instances)
        if mask.shape[1:] != image.grid.shape:
            raise ConfigError(
                f"{path}: its frames have {mask.shape[2]} x {mask.shape[3]} pixels (rows x columns), "
                f"not the {image.grid.shape[1]} x {image.grid.shape[2]} of {name}"
            )
        truth = np.zeros((classes, *image.grid.shape), np.bool_)
        for number, owner in enumerate(owners):
            if owner is not None:
                truth[owner] |= mask[number]
        return truth

    def stamp(self, name: str) -> Stamp:
        """Changes when any file of the study does, the SEG too."""
        headers = self._study_of(name)
        paths = [header.path for header in headers] + self._segs.get(headers[0].study_uid, [])
        return (*stamp_of(paths), self._labels)

    def groups(self) -> dict[str, str]:
        """The images that a SEG refers to, each with its patient's key (a digest), or its study where there is none.

        Where classes are known, only SEGs with a segment of one of them count.
        """
        found = {}
        with GuardedReader(Reading()) as reader:
            for study, segs in self._segs.items():
                headers = self._images.get(study, [])
                marked: set[str] = set()
                for path in segs:
                    seg = pydicom.dcmread(path, stop_before_pixels=True)
                    if not self._labels or _has_any(classes_of_segments(path, seg, self._labels)):
                        marked |= _referenced(seg)
                with tempfile.TemporaryDirectory(prefix="medpipe-pairs-") as scratch:
                    images = (
                        reader.assemble([h.path for h in headers], Path(scratch)).images if headers else ()
                    )
                for image in images:
                    if marked & {source.sop_instance_uid for source in image.sources}:
                        patient = headers[0].patient_key
                        found[image.name] = study if patient == NOBODY else patient
        return dict(sorted(found.items()))

    def _study_of(self, name: str) -> list[InstanceHeader]:
        series = name.rsplit("-", 1)[0]  # the second volume of a series is named <series>-2
        for headers in self._images.values():
            if any(name == h.sop_instance_uid or series == h.series_uid for h in headers):
                return headers
        raise ConfigError(f"{self._folder}: no picture or series {name}")

    def _latest_seg(self, image: Image, labels: Sequence[Label]) -> tuple[Path, list[int | None]]:
        """The newest SEG of the image with a segment of a class, and the class of each of its segments."""
        instances = {source.sop_instance_uid for source in image.sources}
        dated = []
        for path in self._segs.get(image.study_uid, ()):
            seg = pydicom.dcmread(path, stop_before_pixels=True)
            if instances & _referenced(seg):
                when = (str(seg.get("ContentDate", "")), str(seg.get("ContentTime", "")))
                dated.append((when, path, seg))
        found = [
            (when, path, owners, str(seg.SOPInstanceUID))
            for when, path, seg in sorted(dated, key=lambda row: row[:2], reverse=True)
            if _has_any(owners := classes_of_segments(path, seg, labels))
        ]
        if len(found) > 1 and found[0][0] == found[1][0] and found[0][3] != found[1][3]:
            raise ConfigError(
                f"{found[1][1]} and {found[0][1]}: SEGs of one image and one moment; nobody can tell which is the "
                "truth: leave only that one in the folder"
            )
        if found:
            return found[0][1:3]
        if not dated:
            raise ConfigError(f"{self._folder}: no SEG refers to {image.name}")
        raise ConfigError(
            f"{self._folder}: no SEG of {image.name} has a segment of {', '.join(c.id for c in labels) or 'a class'}; "
            "take it out of the list of folds, or name the segments as the classes are"
        )


def _referenced(seg: pydicom.Dataset) -> set[str]:
    listed = {
        str(item.ReferencedSOPInstanceUID)
        for series in seg.get("ReferencedSeriesSequence", ())
        for item in series.get("ReferencedInstanceSequence", ())
    }
    return listed | {str(item.ReferencedSOPInstanceUID) for item in seg.get("SourceImageSequence", ())}


def classes_of_segments(path: Path, seg: pydicom.Dataset, labels: Sequence[Label]) -> list[int | None]:
    """The class (its number) of each segment of the SEG in file `path`, None where it is of none.

    By tracking id (`<bundle> <class>`) or Segment Label. Only a segment that no class is named like may be known by the
    code of its type, by a class that no segment is named like: left and right of a pair often share their code. Raises
    ConfigError where a segment may be of several classes.
    """
    segments = foreground(seg)
    named = [{c for c, label in enumerate(labels) if _texts(s) & label.names()} for s in segments]
    by_name = {c for found in named for c in found}
    owners: list[int | None] = []
    for segment, found in zip(segments, named, strict=True):
        how = "named"
        if not found:
            coded = {c for c, label in enumerate(labels) if _has_code(segment, label)}
            how, found = "coded", coded if coded - by_name else set()
        if len(found) > 1:
            ids = " and ".join(labels[c].id for c in sorted(found))
            raise ConfigError(
                f"{path}: segment {segment.SegmentNumber} is {how} like {ids}; give it the Segment Label of one of them"
            )
        owners.append(next(iter(found), None))
    return owners


def _has_any(owners: Sequence[int | None]) -> bool:
    return any(owner is not None for owner in owners)


def _texts(segment: pydicom.Dataset) -> set[str]:
    return {
        str(segment.get("SegmentLabel", "")).strip().casefold(),
        str(segment.get("TrackingID", "")).split(" ")[-1].casefold(),
    }


def _has_code(segment: pydicom.Dataset, label: Label) -> bool:
    types = segment.get("SegmentedPropertyTypeCodeSequence", ())
    return bool(label.code) and any(
        str(item.get("CodeValue", "")) == label.code
        and label.scheme in ("", str(item.get("CodingSchemeDesignator", "")))
        for item in types
    )
