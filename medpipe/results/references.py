"""The sources of an image, as references and as the plain stand-ins that highdicom can take.

highdicom 0.28 refuses Ophthalmic Photography (it takes every class that may have several frames for an enhanced
one) and is strict about patient values and jittering cosines. A stand-in holds only what geometry and references
need, under a class that highdicom knows; the true class is written back into every reference afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence

from medpipe.errors import MedpipeError
from medpipe.identity import uid_from
from medpipe.results.source_header import SourceHeaders
from medpipe.types import Image

VL_PHOTOGRAPHIC = "1.2.840.10008.5.1.4.1.1.77.1.4"
CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
_ANONYMOUS = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("AccessionNumber", "StudyID", "StudyDate", "StudyTime"),
)
_COPIED = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod")


def stand_ins(image: Image, headers: SourceHeaders, uid_root: str) -> list[Dataset]:
    """One light data set per slice of `image`, in order: CT slices in patient space, else one VL photograph.

    Positions are the sources' own; the orientation is the first source's for all (the reader has checked that they
    agree). A series without Frame of Reference UID gets one derived from its Series UID, since plane positions
    mean nothing without; a picture without patient space gets none.
    """
    if any(source.frame not in (None, 1) for source in image.sources) or (
        len(headers.datasets) != len(image.sources)
    ):
        raise MedpipeError(
            f"{image.name}: results of multi-frame objects cannot be written yet; process its frames one by one"
        )
    if not image.grid.spatial and len(image.sources) != 1:
        raise MedpipeError(
            f"{image.name}: several pictures without patient space cannot share one segmentation"
        )
    return [
        _slice(image, k, header, headers.first, uid_root) if image.grid.spatial else _picture(image, header)
        for k, header in enumerate(headers.datasets)
    ]


def stand_in(header: Dataset) -> Dataset:
    """A picture's stand-in without pixels or patient: identity, series and class only."""
    dataset = Dataset()
    dataset.SOPClassUID = VL_PHOTOGRAPHIC
    for keyword in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        setattr(dataset, keyword, str(header.get(keyword) or ""))
    dataset.Modality = str(header.get("Modality") or "OT")
    for keyword in _ANONYMOUS:
        setattr(dataset, keyword, "")
    return dataset


def _on_grid(image: Image, k: int, header: Dataset, sop_class: str) -> Dataset:
    dataset = stand_in(header)
    dataset.SOPClassUID = sop_class
    dataset.SOPInstanceUID = image.sources[k].sop_instance_uid
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = image.study_uid, image.series_uid
    _, dataset.Rows, dataset.Columns = image.grid.shape
    return dataset


def _picture(image: Image, header: Dataset) -> Dataset:
    dataset = _on_grid(image, 0, header, VL_PHOTOGRAPHIC)
    if header.get("FrameOfReferenceUID"):
        dataset.FrameOfReferenceUID = header.FrameOfReferenceUID
        if header.get("PositionReferenceIndicator"):
            dataset.PositionReferenceIndicator = header.PositionReferenceIndicator
    # No Pixel Measures, even where the spacing is known: they would need a slice thickness, which a picture lacks
    # (highdicom's reader refuses them without). Who needs the spacing finds it in the referenced picture.
    return dataset


def _slice(image: Image, k: int, header: Dataset, first: Dataset, uid_root: str) -> Dataset:
    dataset = _on_grid(image, k, header, CT_IMAGE)
    dataset.FrameOfReferenceUID = first.get("FrameOfReferenceUID") or uid_from(
        uid_root, "frame of reference", image.series_uid
    )
    dataset.PositionReferenceIndicator = ""
    dataset.ImageOrientationPatient = list(first.ImageOrientationPatient)
    dataset.ImagePositionPatient = list(header.ImagePositionPatient)
    between, j, i = image.grid.spacing
    dataset.PixelSpacing = list(first.get("PixelSpacing") or [decimal(j), decimal(i)])
    dataset.SliceThickness = first.get("SliceThickness") or decimal(between)
    if image.is_volume:
        dataset.SpacingBetweenSlices = decimal(between)
    return dataset


def decimal(value: float) -> str:
    """VR DS, at most 16 characters."""
    for digits in range(15, 0, -1):
        text = f"{value:.{digits}g}"
        if len(text) <= 16:
            return text
    raise ValueError(f"{value} does not fit VR DS")


def refer_to_sources(seg: Dataset, image: Image, headers: SourceHeaders) -> None:
    """Makes every reference in `seg` name the sources' true classes, and the lists complete.

    The SEG was built from the slices that hold something; Source Image and Referenced Series list all sources,
    as the mask says of all of them that nothing else is there.
    """
    classes = {source.sop_instance_uid: source.sop_class_uid for source in image.sources}
    references = []
    for uid in classes:
        item = Dataset()
        item.ReferencedSOPClassUID = classes[uid]
        item.ReferencedSOPInstanceUID = uid
        references.append(item)
    seg.SourceImageSequence = references
    series = Dataset()
    series.SeriesInstanceUID = image.series_uid
    series.ReferencedInstanceSequence = references
    seg.ReferencedSeriesSequence = [series]
    for frame in seg.PerFrameFunctionalGroupsSequence:
        name_true_classes(frame, classes)
    copy_lossy_history(seg, headers.datasets)


def copy_lossy_history(seg: Dataset, datasets: Sequence[Dataset]) -> None:
    """A mask of a lossily compressed picture says so (PS3.3 C.7.6.1.1.5)."""
    lossy = next((d for d in datasets if str(d.get("LossyImageCompression", "")) == "01"), None)
    for keyword in _COPIED:
        if keyword in seg:
            delattr(seg, keyword)
        if lossy is not None and lossy.get(keyword) not in (None, ""):
            setattr(seg, keyword, lossy.get(keyword))
    if lossy is None:
        seg.LossyImageCompression = "00"


def name_true_classes(dataset: Dataset, classes: Mapping[str, str]) -> None:
    """Rewrites each Referenced SOP Class UID whose instance is a known source, at any depth."""
    for item in _items(dataset):
        uid = item.get("ReferencedSOPInstanceUID")
        if uid in classes and "ReferencedSOPClassUID" in item:
            item.ReferencedSOPClassUID = classes[uid]


def _items(dataset: Dataset) -> Iterator[Dataset]:
    yield dataset
    for element in dataset:
        if isinstance(element.value, DicomSequence):
            for item in element.value:
                yield from _items(item)


def occupied_slices(mask: NDArray[np.bool_]) -> list[int]:
    """Indices k with anything set in any class; `mask` is (classes, K, J, I)."""
    return [k for k in range(mask.shape[1]) if mask[:, k].any()]
