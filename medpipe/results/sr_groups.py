"""The measurement groups of the report (PS3.16 TID 1410, 1411, 1501).

One group for the whole, one per class (count and total size, with a reference to its segment in the SEG), and one
per lesion. A lesion of a picture refers to its bounding box in the picture (the segment holds all lesions of its
class); a lesion of a volume refers to its class's segment and states its centre in the patient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import highdicom as hd
import numpy as np
from highdicom.sr import (
    AlgorithmIdentification,
    ImageRegion,
    Measurement,
    MeasurementsAndQualitativeEvaluations,
    PlanarROIMeasurementsAndQualitativeEvaluations,
    QualitativeEvaluation,
    ReferencedSegment,
    ReferencedSegmentationFrame,
    RelationshipTypeValues,
    Scoord3DContentItem,
    SourceImageForRegion,
    SourceImageForSegmentation,
    SourceSeriesForSegmentation,
    TextContentItem,
    TrackingIdentifier,
    VolumetricROIMeasurementsAndQualitativeEvaluations,
)
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from medpipe.bundle import Bundle, ClassSpec
from medpipe.results.codes import UNCERTAINTY, coded
from medpipe.results.finished import FinishedObject
from medpipe.results.references import VL_PHOTOGRAPHIC
from medpipe.results.sr_copies import like
from medpipe.results.sr_text import LISTED_PER_CLASS
from medpipe.types import Image, Lesion, Prediction

PIXELS = Code("{pixels}", "UCUM", "pixels")
VOXELS = Code("{voxels}", "UCUM", "voxels")
_MM = Code("mm", "UCUM", "millimeter")
_MM2 = Code("mm2", "UCUM", "square millimeter")
_ML = Code("ml", "UCUM", "milliliter")
_NO_UNITS = Code("1", "UCUM", "no units")

Group = Any


@dataclass(frozen=True, eq=False)
class Subject:
    """What the groups of one report speak of."""

    prediction: Prediction
    bundle: Bundle
    seg: FinishedObject | None
    frame_of_reference_uid: str | None

    @property
    def image(self) -> Image:
        return self.prediction.image


def overall_group(
    uid: str, outcome: Code, text: str, algorithm: AlgorithmIdentification, identifier: str = "Summary"
) -> Group:
    """TID 1501: the coded outcome of the whole run, and the same in words."""
    group = MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(uid=uid, identifier=identifier),
        algorithm_id=algorithm,
        qualitative_evaluations=[QualitativeEvaluation(codes.DCM.CADProcessingAndFindingsSummary, outcome)],
    )
    group[0].ContentSequence.append(
        TextContentItem(codes.DCM.Summary, text, relationship_type=RelationshipTypeValues.CONTAINS)
    )
    return group


def class_group(subject: Subject, number: int, uid: str) -> Group:
    """One class: how many lesions and how much of it, referring to segment `number` + 1 of the SEG."""
    spec = _spec(subject, number)
    lesions = [lesion for lesion in subject.prediction.lesions if lesion.class_id == spec.id]
    common: dict[str, Any] = {
        "tracking_identifier": TrackingIdentifier(uid=uid, identifier=f"{spec.id} all"),
        "finding_type": coded(spec.type),
        "finding_category": coded(spec.category),
        "measurements": [_count(len(lesions)), Measurement(*_total(subject.image, lesions))],
    }
    frames = _frames_of(subject.seg, number)
    if not frames:
        return MeasurementsAndQualitativeEvaluations(**common)
    if subject.image.is_volume:
        return VolumetricROIMeasurementsAndQualitativeEvaluations(
            referenced_segment=_segment(subject, number), **common
        )
    source = subject.image.sources[0]
    assert subject.seg is not None
    group = PlanarROIMeasurementsAndQualitativeEvaluations(
        referenced_segment=ReferencedSegmentationFrame(
            subject.seg.sop_class_uid,
            subject.seg.sop_instance_uid,
            frame_number=frames[0],
            segment_number=number + 1,
            source_image=SourceImageForSegmentation(VL_PHOTOGRAPHIC, source.sop_instance_uid),
        ),
        **common,
    )
    _name_the_frame_only(group)
    return group


def lesion_groups(subject: Subject, number: int) -> list[Dataset]:
    """Group items of the largest lesions of one class, each with its place and sizes.

    highdicom makes the first; the others are copies with their own values, as making each anew takes 20 ms.
    """
    spec = _spec(subject, number)
    lesions = [lesion for lesion in subject.prediction.lesions if lesion.class_id == spec.id]
    largest = sorted(lesions, key=lambda lesion: (-lesion.voxels, lesion.box))[:LISTED_PER_CLASS]
    if not largest:
        return []
    first: Dataset = _lesion_group(subject, number, _identifier(spec, 1), largest[0])[0]
    image = subject.image
    return [
        first,
        *(
            like(
                first,
                _identifier(spec, rank),
                lesion.tracking_uid,
                [value for _, value, _ in _sizes(image, lesion)],
                _centre(image, lesion) if image.is_volume else _outline(lesion),
            )
            for rank, lesion in enumerate(largest[1:], 2)
        ),
    ]


def _identifier(spec: ClassSpec, rank: int) -> str:
    return f"{spec.id} {rank}"


def _lesion_group(subject: Subject, number: int, identifier: str, lesion: Lesion) -> Group:
    spec = _spec(subject, number)
    image = subject.image
    common: dict[str, Any] = {
        "tracking_identifier": TrackingIdentifier(uid=lesion.tracking_uid, identifier=identifier),
        "finding_type": coded(spec.type),
        "finding_category": coded(spec.category),
        "measurements": _measurements(image, lesion),
    }
    if not image.is_volume:
        source = image.sources[0]
        return PlanarROIMeasurementsAndQualitativeEvaluations(
            referenced_region=ImageRegion(
                hd.sr.GraphicTypeValues.POLYLINE,
                _outline(lesion),
                SourceImageForRegion(VL_PHOTOGRAPHIC, source.sop_instance_uid),
            ),
            geometric_purpose=codes.SCT.BoundedBy,
            **common,
        )
    if _frames_of(subject.seg, number):
        group: Group = VolumetricROIMeasurementsAndQualitativeEvaluations(
            referenced_segment=_segment(subject, number), **common
        )
    else:
        group = MeasurementsAndQualitativeEvaluations(**common)
    if subject.frame_of_reference_uid:
        group[0].ContentSequence.append(
            Scoord3DContentItem(
                codes.DCM.Center,
                hd.sr.GraphicTypeValues3D.POINT,
                _centre(image, lesion),
                subject.frame_of_reference_uid,
                relationship_type=RelationshipTypeValues.CONTAINS,
            )
        )
    return group


def _spec(subject: Subject, number: int) -> ClassSpec:
    class_id = subject.prediction.class_ids[number]
    return next(spec for spec in subject.bundle.classes if spec.id == class_id)


def _frames_of(seg: FinishedObject | None, number: int) -> list[int]:
    """Frame numbers (from 1) of a class in the SEG; none where the class was not found."""
    if seg is None or not any(seg.dataset.PixelData):
        return []
    frames = seg.dataset.PerFrameFunctionalGroupsSequence
    shared = seg.dataset.SharedFunctionalGroupsSequence[0]
    if "SegmentIdentificationSequence" in shared:  # a single class
        return list(range(1, len(frames) + 1))
    return [
        index
        for index, frame in enumerate(frames, 1)
        if frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber == number + 1
    ]


def _segment(subject: Subject, number: int) -> ReferencedSegment:
    assert subject.seg is not None
    return ReferencedSegment(
        subject.seg.sop_class_uid,
        subject.seg.sop_instance_uid,
        segment_number=number + 1,
        source_series=SourceSeriesForSegmentation(subject.image.series_uid),
    )


def _name_the_frame_only(group: Group) -> None:
    """A reference names frames or segments, not both (PS3.3 table 10-3); highdicom writes both."""
    for item in group[0].ContentSequence:
        for reference in item.get("ReferencedSOPSequence", []):
            if "ReferencedFrameNumber" in reference and "ReferencedSegmentNumber" in reference:
                del reference.ReferencedSegmentNumber


def _outline(lesion: Lesion) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The bounding box as a closed polyline (column, row); pixel edges lie at whole numbers (PS3.3 C.18.6.1.1)."""
    _, j0, i0, _, j1, i1 = lesion.box
    return np.array([(i0, j0), (i1, j0), (i1, j1), (i0, j1), (i0, j0)], dtype=np.float64)


def _centre(image: Image, lesion: Lesion) -> np.ndarray[Any, np.dtype[np.float64]]:
    box = np.array(lesion.box, dtype=np.float64)
    return image.grid.to_patient((box[None, :3] + box[None, 3:] - 1) / 2)


def _count(number: int) -> Measurement:
    return Measurement(codes.DCM.NumberOfSimilarFindings, number, _NO_UNITS)


def _total(image: Image, lesions: Sequence[Lesion]) -> tuple[Code, float, Code]:
    """Area or volume summed up: in mm2 or ml where every lesion has one, else in pixels or voxels."""
    name = codes.SCT.Volume if image.is_volume else codes.SCT.Area
    sizes = [lesion.volume_ml if image.is_volume else lesion.area_mm2 for lesion in lesions]
    known = [size for size in sizes if size is not None]
    if image.calibrated and len(known) == len(sizes):
        return name, _rounded(sum(known)), _ML if image.is_volume else _MM2
    return name, float(sum(lesion.voxels for lesion in lesions)), VOXELS if image.is_volume else PIXELS


def _sizes(image: Image, lesion: Lesion) -> list[tuple[Code, float, Code]]:
    """(name, value, unit) of one lesion's size, axes, mean probability and, if known, uncertainty, in this order."""
    unit = _MM if image.calibrated else PIXELS
    sizes = [
        _total(image, [lesion]),
        (codes.SCT.LongAxis, _rounded(lesion.long_axis), unit),
        (codes.SCT.ShortAxis, _rounded(lesion.short_axis), unit),
        (codes.DCM.Probability, _rounded(lesion.mean_probability), _NO_UNITS),
    ]
    if lesion.uncertainty is not None:
        sizes.append((UNCERTAINTY, _rounded(lesion.uncertainty), _NO_UNITS))
    return sizes


def _measurements(image: Image, lesion: Lesion) -> list[Measurement]:
    derivations = {codes.DCM.Probability: codes.SCT.Mean, UNCERTAINTY: codes.SCT.StandardDeviation}
    return [
        Measurement(name, value, unit, derivation=derivations.get(name))
        for name, value, unit in _sizes(image, lesion)
    ]


def _rounded(value: float) -> float:
    """Six significant digits: more than any of it is worth, and always within VR DS."""
    return float(f"{float(value):.6g}")
