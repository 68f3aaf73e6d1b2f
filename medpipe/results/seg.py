"""Prediction -> DICOM Segmentation (PS3.3 A.51): BINARY, one segment per class, through highdicom."""

from __future__ import annotations

from typing import Any

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from medpipe import __version__
from medpipe.bundle import Bundle
from medpipe.identity import MANUFACTURER, MANUFACTURER_MODEL_NAME, digest, uid_from
from medpipe.results.codes import coded
from medpipe.results.finished import FinishedObject, finish
from medpipe.results.foreign_values import unjudged
from medpipe.results.options import ResultOptions
from medpipe.results.plain_text import long_string, series_description
from medpipe.results.provenance import (
    acquisition_equipment,
    algorithm_identification,
    class_description,
    device_serial_number,
    processing_equipment,
    software_versions,
)
from medpipe.results.references import occupied_slices, refer_to_sources, stand_ins
from medpipe.results.source_header import SourceHeaders, read_source_headers
from medpipe.types import Prediction


@unjudged()
def build_seg(
    prediction: Prediction, bundle: Bundle, options: ResultOptions, headers: SourceHeaders | None = None
) -> FinishedObject:
    """The segmentation of one prediction, with final bytes and UID.

    Segment n is class n of the bundle, counted from 1. With `omit_empty_frames` a (class, slice) without a finding
    has no frame, but all segments are described and all sources referenced. Where nothing was found at all there
    is one empty frame (of segment 1), since a SEG cannot have none.
    """
    headers = headers or read_source_headers(prediction.image)
    sources = stand_ins(prediction.image, headers, options.uid_root)
    occupied = occupied_slices(prediction.mask)
    chosen = _chosen(occupied, len(sources), options)
    seg = _built(
        prediction,
        bundle,
        options,
        sources[chosen],
        _stack(prediction.mask, chosen),
        [*acquisition_equipment(headers.first), processing_equipment(__version__, bundle)],
    )
    if not occupied:
        _keep_one_frame(seg)
    if not prediction.image.grid.spatial:
        # Type 2C in General Image (PS3.3 C.7.6.1), needed where a picture has no position in the patient.
        orientation = headers.first.get("PatientOrientation")
        seg.PatientOrientation = list(orientation) if orientation else None
    seg["PixelData"].VR = "OB"
    refer_to_sources(seg, prediction.image, headers)
    return finish(seg, headers, options, __version__)


def series_uid(modality: str, prediction: Prediction, bundle: Bundle, options: ResultOptions) -> str:
    """Series Instance UID of our objects of one modality: the same for every version of the bundle."""
    image = prediction.image
    return uid_from(options.uid_root, "series", modality, image.study_uid, bundle.id, image.name)


def segment_tracking_uid(prediction: Prediction, number: int, options: ResultOptions) -> str:
    """Tracking UID of class `number` (0-based): from sources, bundle and the class's own mask."""
    provenance = prediction.provenance
    packed = digest(*(np.packbits(plane).tobytes() for plane in prediction.mask[number]))
    class_id = prediction.class_ids[number]
    return uid_from(
        options.uid_root, "segment", provenance.source_digest, provenance.bundle_hash, class_id, packed
    )


def _built(
    prediction: Prediction,
    bundle: Bundle,
    options: ResultOptions,
    sources: list[Dataset],
    stack: NDArray[np.uint8],
    equipment: list[hd.ContributingEquipment],
) -> Any:
    description = series_description(bundle.title, options)
    seg = hd.seg.Segmentation(
        source_images=sources,
        pixel_array=stack,
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=_segments(prediction, bundle, options),
        series_instance_uid=series_uid("SEG", prediction, bundle, options),
        series_number=options.series_number,
        sop_instance_uid="2.25.0",
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=MANUFACTURER_MODEL_NAME,
        software_versions=software_versions(__version__, bundle),  # type: ignore[arg-type]  # any number is taken
        device_serial_number=device_serial_number(bundle),
        content_description=description,
        content_creator_name=None,
        content_label=_label(bundle.id),
        transfer_syntax_uid=ExplicitVRLittleEndian,
        omit_empty_frames=options.omit_empty_frames,
        contributing_equipment=equipment,
        series_description=description,
    )
    seg.ContentCreatorName = ""
    return seg


class _ByteSums(np.ndarray[Any, np.dtype[np.uint8]]):
    """Sums in its own type: highdicom adds up the at most eight segments of each voxel, in uint64 by default."""

    def sum(self, *arguments: Any, **options: Any) -> Any:
        options["dtype"] = np.uint8
        return np.asarray(self).sum(*arguments, **options)


def _chosen(occupied: list[int], slices: int, options: ResultOptions) -> slice:
    """The slab that highdicom sees: it leaves out empty frames within, we spare it those before and after."""
    if not occupied:
        return slice(0, 1)
    return slice(occupied[0], occupied[-1] + 1) if options.omit_empty_frames else slice(0, slices)


def _stack(mask: NDArray[np.bool_], chosen: slice) -> NDArray[np.uint8]:
    """(classes, K, J, I) -> a view (chosen, J, I, classes) as highdicom wants it, each class's plane contiguous."""
    return np.moveaxis(np.asarray(mask[:, chosen]).view(np.uint8), 0, -1).view(_ByteSums)


def _segments(
    prediction: Prediction, bundle: Bundle, options: ResultOptions
) -> list[hd.seg.SegmentDescription]:
    algorithm = algorithm_identification(prediction)
    by_id = {spec.id: spec for spec in bundle.classes}
    segments = []
    for number, class_id in enumerate(prediction.class_ids):
        spec = by_id[class_id]
        segment = hd.seg.SegmentDescription(
            segment_number=number + 1,
            segment_label=long_string(spec.name),
            segmented_property_category=coded(spec.category),
            segmented_property_type=coded(spec.type),
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
            tracking_uid=segment_tracking_uid(prediction, number, options),
            tracking_id=long_string(f"{bundle.id} {spec.id}"),
            display_color=hd.color.CIELabColor(*spec.colour_cielab),
        )
        segment.SegmentDescription = class_description(prediction, class_id)
        segments.append(segment)
    return segments


def _label(bundle_id: str) -> str:
    """Content Label (VR CS: capitals, digits, space and underscore, at most 16)."""
    return bundle_id.upper().replace("-", "_")[:16]


def _keep_one_frame(seg: Any) -> None:
    """Cuts the empty frames that highdicom writes (one per segment and slice) down to the first."""
    size = (seg.Rows * seg.Columns + 7) // 8
    seg.PerFrameFunctionalGroupsSequence = list(seg.PerFrameFunctionalGroupsSequence[:1])
    seg.NumberOfFrames = 1
    seg.PixelData = bytes(size + size % 2)
