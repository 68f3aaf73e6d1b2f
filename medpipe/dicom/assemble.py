"""The instances of one study -> images with their grids, or reasons why not. Runs in the guarded child only.

What is written into the scratch folder: one .npy per image, one header file (no pixels) per source instance, and
the description that the parent builds its `Image`s from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from medpipe.dicom import pixels
from medpipe.dicom.classes import MULTIFRAME, PICTURES, SLICES, class_name, is_own_output, is_picture_object
from medpipe.dicom.geometry import Tolerances, plane_of, stack
from medpipe.dicom.headers import (
    content_digest,
    header_of,
    modality_of,
    read_dataset,
    whole_number,
    write_header,
)
from medpipe.dicom.image_type import image_type_of
from medpipe.dicom.mapped import mapped_zeros, save
from medpipe.dicom.pictures import calibration_of, field_degrees_of, laterality_of, pixel_shape_of
from medpipe.dicom.together import check_together
from medpipe.errors import ReasonCode, Refused

Plain = dict[str, Any]
Begin = Callable[[Path, str], None]
"""Told the file and the stage ("header" or "pixels") before a file is opened; raises Refused if that broke before."""


@dataclass
class Instance:
    """One instance whose header was read; the pixels are read again when it is its turn, so one is held at a time."""

    path: Path
    header: Dataset
    sop_instance_uid: str
    sop_class_uid: str
    series_uid: str
    patient_key: str
    disputed: bool = False
    """Another file has the same SOP Instance UID and other content."""


@dataclass
class Found:
    """What the child tells the parent, in plain values."""

    images: list[Plain] = field(default_factory=list)
    refused: list[Plain] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    study_header: str | None = None

    def refuse(self, reason: Refused, series_uid: str | None, instances: Iterable[str]) -> None:
        self.refused.append(
            {
                "code": reason.code,
                "sentence": str(reason),
                "series_uid": series_uid,
                "instances": list(instances),
            }
        )


@dataclass(frozen=True)
class Task:
    """What one assembly works with."""

    scratch: Path
    limits: Plain
    found: Found
    begin: Begin


def assemble(paths: Sequence[Path], scratch: Path, limits: Plain, uid_root: str, begin: Begin) -> Plain:
    """Images of one study from its instance files. `limits` are those of the [reading] section."""
    found = Found()
    instances = _open(paths, found, uid_root, begin)
    if len({i.patient_key for i in instances}) > 1:
        raise Refused(ReasonCode.TWO_PATIENTS, "the study holds instances of two patient ids")
    pairs = {(i.series_uid, str(i.header.get("StudyInstanceUID", ""))) for i in instances}
    studies = {study for _, study in pairs}
    if len(pairs) > len({series for series, _ in pairs}):
        raise Refused(ReasonCode.SERIES_IN_TWO_STUDIES, "one series lies in two studies")
    if len(studies) > 1:
        raise Refused(ReasonCode.BAD_HEADER, "the instances belong to several studies")
    found.study_header = _study_header(instances, scratch)
    by_series: dict[str, list[Instance]] = {}
    for instance in instances:
        by_series.setdefault(instance.series_uid, []).append(instance)
    for series_uid in sorted(by_series):
        _series(series_uid, by_series[series_uid], Task(scratch, limits, found, begin))
    return {**vars(found), "study_uid": studies.pop() if studies else ""}


def _study_header(instances: Sequence[Instance], scratch: Path) -> str | None:
    """Writes the first instance's header that can be written."""
    for instance in instances:
        try:
            return str(write_header(instance.header, scratch / "study.dcm"))
        except (MemoryError, OSError):
            raise
        except Exception:  # its own series says why
            continue
    return None


def _open(paths: Sequence[Path], found: Found, uid_root: str, begin: Begin) -> list[Instance]:
    instances: list[Instance] = []
    seen: dict[str, Path] = {}
    disputed: set[str] = set()
    for path in paths:
        try:
            begin(path, "header")
            header = read_dataset(path, pixels=False)
            known = header_of(header, path, uid_root)
        except Refused as reason:
            found.refuse(reason, None, [])
            continue
        first = seen.setdefault(known.sop_instance_uid, path)
        if first is not path:
            if content_digest(first) != content_digest(path):
                disputed.add(known.sop_instance_uid)
            continue  # the same instance twice is one instance
        if is_own_output(header, uid_root) or not is_picture_object(header):
            found.ignored.append(known.sop_instance_uid)
            continue
        instances.append(
            Instance(
                path, header, known.sop_instance_uid, known.sop_class_uid, known.series_uid, known.patient_key
            )
        )
    for instance in instances:
        instance.disputed = instance.sop_instance_uid in disputed
    return instances


def _refuse_disputed(instances: Sequence[Instance]) -> None:
    """Which one of two is right is not guessed. The listener keeps the later one aside, so this is of `process`."""
    if any(instance.disputed for instance in instances):
        raise Refused(
            ReasonCode.SAME_UID_OTHER_CONTENT, "two files have one SOP Instance UID and different content"
        )


def _series(series_uid: str, members: list[Instance], task: Task) -> None:
    slices: list[Instance] = []
    for instance in members:
        with _refusing(series_uid, [instance], task.found):
            _refuse_by_class(instance)
            if instance.sop_class_uid in SLICES:
                slices.append(instance)
            else:
                _refuse_disputed([instance])
                _picture(instance, task)
    if not slices:
        return
    localizers = [i for i in slices if "LOCALIZER" in image_type_of(i.header)]
    with _refusing(series_uid, localizers, task.found):
        if localizers:
            raise Refused(ReasonCode.LOCALIZER, "a localizer is a scout picture, not a slice of a volume")
    used = [i for i in slices if i not in localizers]
    with _refusing(series_uid, used, task.found):
        if used:
            _volume(series_uid, used, task)


@contextmanager
def _refusing(series_uid: str, instances: Sequence[Instance], found: Found) -> Iterator[None]:
    """What goes wrong within concerns these instances alone; what the machine lacks concerns the whole study."""
    try:
        yield
    except (MemoryError, OSError):
        raise
    except Refused as reason:
        found.refuse(reason, series_uid, [i.sop_instance_uid for i in instances])
    except Exception as error:
        odd = Refused(ReasonCode.BAD_HEADER, f"an attribute makes no sense ({type(error).__name__})")
        found.refuse(odd, series_uid, [i.sop_instance_uid for i in instances])


def _refuse_by_class(instance: Instance) -> None:
    uid, header = instance.sop_class_uid, instance.header
    if uid in MULTIFRAME or whole_number(header, "NumberOfFrames") > 1:
        raise Refused(
            ReasonCode.MULTIFRAME, f"multi-frame objects ({class_name(uid)}) are not yet read as images"
        )
    if uid not in PICTURES and uid not in SLICES:
        raise Refused(ReasonCode.UNSUPPORTED_CLASS, f"{class_name(uid)} is not segmented")
    if uid in PICTURES and "ImagePositionPatient" in header and "ImageOrientationPatient" in header:
        if pixels.is_colour(header):
            raise Refused(ReasonCode.COLOUR, "a colour picture that claims a place in a volume")
        raise Refused(
            ReasonCode.UNSUPPORTED_CLASS, f"{class_name(uid)} with a place in a volume is not segmented"
        )


# --- pictures -----------------------------------------------------------------------------------------------------


def _picture(instance: Instance, task: Task) -> None:
    scratch, found = task.scratch, task.found
    dataset = _with_pixels(instance, task)
    padding: NDArray[np.bool_] | None = None
    if pixels.is_colour(dataset):
        array: NDArray[Any] = pixels.decode_colour(dataset)[:, None]
        photometric, value_range = "RGB", (0.0, 255.0)
    else:
        stored, mask = pixels.decode_grey(dataset)
        array = pixels.to_modality(stored, dataset)[None, None]
        photometric, value_range = str(dataset.PhotometricInterpretation), pixels.modality_range(dataset)
        padding = None if mask is None else mask[None]
    spacing = calibration_of(instance.header)
    affine = np.eye(4)
    affine[1, 1], affine[0, 0] = spacing or pixel_shape_of(instance.header)
    number = len(found.images)
    source = _source(instance, scratch / f"header-{number}-0.dcm")
    save(array, scratch / f"image-{number}.npy")
    if padding is not None:
        save(padding, scratch / f"padding-{number}.npy")
    found.images.append(
        {
            "number": number,
            "affine": affine.tolist(),
            "spatial": False,
            "sources": [source],
            "series_uid": instance.series_uid,
            "name": instance.sop_instance_uid,
            "modality": modality_of(instance.header),
            "photometric": photometric,
            "calibrated": spacing is not None,
            "laterality": laterality_of(instance.header),
            "field_degrees": field_degrees_of(instance.header),
            "bits_stored": 8 if photometric == "RGB" else int(dataset.BitsStored),
            "value_range": list(value_range),
            "padding": padding is not None,
        }
    )


# --- volumes ------------------------------------------------------------------------------------------------------


def _volume(series_uid: str, slices: list[Instance], task: Task) -> None:
    scratch, limits, found = task.scratch, task.limits, task.found
    for instance in slices:
        if "MOSAIC" in image_type_of(instance.header):
            raise Refused(ReasonCode.MOSAIC, "each picture of the series is a mosaic of many slices")
        if pixels.is_colour(instance.header):
            raise Refused(ReasonCode.COLOUR, "the series is coloured: no grey values to make a volume of")
        pixels.check_attributes(instance.header, limits["maximum_pixels"])
    _refuse_disputed(slices)
    if len({i.sop_class_uid for i in slices}) > 1:
        raise Refused(ReasonCode.BAD_HEADER, "the series mixes SOP classes")
    tolerances = Tolerances(
        limits["minimum_slices"], limits["spacing_tolerance"], limits["perpendicular_tolerance"]
    )
    order, affine = stack([plane_of(i.header) for i in slices], tolerances)
    ordered = [slices[n] for n in order]
    check_together([i.header for i in ordered])
    rows, columns = int(ordered[0].header.Rows), int(ordered[0].header.Columns)
    if rows * columns * len(ordered) > limits["maximum_pixels"]:
        raise Refused(
            ReasonCode.TOO_LARGE, f"{len(ordered)} x {rows} x {columns} pixels are more than the limit"
        )
    kind, value_range = _common_type([i.header for i in ordered])
    number = len(found.images)
    volume = mapped_zeros(scratch / f"image-{number}.npy", (1, len(ordered), rows, columns), np.dtype(kind))
    padding: NDArray[np.bool_] | None = None
    for k, instance in enumerate(ordered):
        stored, mask = pixels.decode_grey(_with_pixels(instance, task))
        volume[0, k] = pixels.to_modality(stored, instance.header)
        if mask is not None:
            if padding is None:
                padding = np.zeros((len(ordered), rows, columns), dtype=np.bool_)
            padding[k] = mask
    volume.flush()
    del volume
    if padding is not None:
        save(padding, scratch / f"padding-{number}.npy")
    header = ordered[0].header
    found.images.append(
        {
            "number": number,
            "affine": affine.tolist(),
            "spatial": True,
            "sources": [_source(i, scratch / f"header-{number}-{k}.dcm") for k, i in enumerate(ordered)],
            "series_uid": series_uid,
            "name": series_uid,
            "modality": modality_of(header),
            "photometric": str(header.PhotometricInterpretation),
            "calibrated": True,
            "laterality": laterality_of(header),
            "field_degrees": None,
            "bits_stored": int(header.BitsStored),
            "value_range": list(value_range),
            "padding": padding is not None,
        }
    )


def _common_type(headers: Sequence[Dataset]) -> tuple[type[np.generic], tuple[float, float]]:
    """One type that holds every slice's modality values exactly (PET and some MR rescale slice by slice)."""
    ranges = [pixels.modality_range(header) for header in headers]
    low, high = min(r[0] for r in ranges), max(r[1] for r in ranges)
    if any("ModalityLUTSequence" in header for header in headers):
        return np.float32, (low, high)
    integral = all(pixels.rescale_of(header).integral for header in headers)
    return pixels.value_type(integral, low, high), (low, high)


# --- both ---------------------------------------------------------------------------------------------------------


def _with_pixels(instance: Instance, task: Task) -> Dataset:
    task.begin(instance.path, "pixels")
    dataset = read_dataset(instance.path, pixels=True)
    pixels.check_layout(dataset, task.limits["maximum_pixels"])
    return dataset


def _source(instance: Instance, path: Path) -> Plain:
    return {
        "sop_instance_uid": instance.sop_instance_uid,
        "sop_class_uid": instance.sop_class_uid,
        "frame": None,
        "header": str(write_header(instance.header, path)),
    }
