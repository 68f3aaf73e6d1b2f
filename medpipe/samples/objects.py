"""DICOM objects of pictures and slices, header by header: what all have, and what ophthalmic photographs add."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRLittleEndian

from medpipe.identity import uid_from

OPHTHALMIC_PHOTOGRAPHY_8_BIT = "1.2.840.10008.5.1.4.1.1.77.1.5.1"
ULTRASOUND = "1.2.840.10008.5.1.4.1.1.6.1"
MAKER = "medpipe samples"
"""Manufacturer of drawn and wrapped pictures. Not identity.MANUFACTURER: these are input, not our results."""
UNKNOWN_DATE = "19000101"
"""Where a date must have a value and none is known: so old that nobody takes it for one."""
_IMPLEMENTATION = uid_from("2.25", "implementation", MAKER)


@dataclass(frozen=True)
class Identity:
    """Whose picture it is and to which study it belongs. `date` is DA, `time` TM; both may be empty."""

    study_uid: str
    series_uid: str
    patient_id: str = ""
    patient_name: str = ""
    accession_number: str = ""
    date: str = ""
    time: str = ""
    study_description: str = ""
    model: str = ""


def code(value: str, scheme: str, meaning: str) -> Dataset:
    """One item of a code sequence (PS3.3 section 8.8)."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def start(identity: Identity, sop_class: str, sop_uid: str, modality: str) -> Dataset:
    """The modules every image object has: patient, study, series, equipment, SOP common; little-endian."""
    dataset = Dataset()
    if not (identity.patient_id + identity.patient_name).isascii():
        dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, sop_uid
    dataset.Modality = modality
    dataset.StudyDate = dataset.SeriesDate = identity.date
    dataset.StudyTime = dataset.SeriesTime = identity.time
    dataset.AccessionNumber = identity.accession_number
    dataset.Manufacturer, dataset.ManufacturerModelName = MAKER, identity.model
    dataset.DeviceSerialNumber, dataset.SoftwareVersions = "0", "1"
    dataset.ReferringPhysicianName = ""
    dataset.StudyDescription = identity.study_description
    dataset.PatientName, dataset.PatientID = identity.patient_name, identity.patient_id
    dataset.PatientBirthDate = dataset.PatientSex = ""
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = identity.study_uid, identity.series_uid
    dataset.StudyID = "1"
    dataset.SeriesNumber, dataset.InstanceNumber = 1, 1
    return dataset


def add_ophthalmic(
    dataset: Dataset, identity: Identity, laterality: str, field_degrees: float | None = None
) -> None:
    """What an Ophthalmic Photography image adds (PS3.3 section A.41): one frame of the retina by a fundus camera.

    `laterality` is "R", "L" or "B"; when it is empty nothing is claimed, rather than a wrong eye. `field_degrees` is
    the horizontal field of view, where it is known.
    """
    dataset.ImageType = ["ORIGINAL", "PRIMARY"]
    dataset.ContentDate, dataset.ContentTime = identity.date or UNKNOWN_DATE, identity.time or "000000"
    dataset.AcquisitionDateTime = dataset.ContentDate + dataset.ContentTime
    dataset.SynchronizationFrameOfReferenceUID = uid_from("2.25", "synchronization", dataset.SOPInstanceUID)
    dataset.SynchronizationTrigger, dataset.AcquisitionTimeSynchronized = "NO TRIGGER", "N"
    if laterality:
        dataset.ImageLaterality = laterality
    dataset.PatientOrientation = ""
    dataset.BurnedInAnnotation = "NO"
    dataset.NumberOfFrames, dataset.FrameIncrementPointer, dataset.FrameTimeVector = 1, 0x00181065, [0]
    dataset.AnatomicRegionSequence = Sequence([code("5665001", "SCT", "Retina")])
    dataset.AcquisitionDeviceTypeCodeSequence = Sequence([code("409898007", "SCT", "Fundus Camera")])
    for keyword in (
        "IlluminationTypeCodeSequence",
        "LightPathFilterTypeStackCodeSequence",
        "ImagePathFilterTypeStackCodeSequence",
        "LensesCodeSequence",
        "RefractiveStateSequence",
        "AcquisitionContextSequence",
    ):
        setattr(dataset, keyword, Sequence())
    for keyword in (
        "DetectorType",
        "PatientEyeMovementCommanded",
        "EmmetropicMagnification",
        "IntraOcularPressure",
        "PupilDilated",
    ):
        setattr(dataset, keyword, None)
    dataset.HorizontalFieldOfView = field_degrees


def add_ultrasound(dataset: Dataset, identity: Identity, rows: int, columns: int, spacing: float) -> None:
    """What a single-frame Ultrasound image adds (PS3.3 section A.6): one tissue region, `spacing` mm per pixel."""
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "BREAST", "0001"]
    dataset.ContentDate, dataset.ContentTime = identity.date, identity.time
    dataset.BodyPartExamined, dataset.Laterality = "BREAST", "L"
    dataset.PatientOrientation = ""
    dataset.LossyImageCompression, dataset.BurnedInAnnotation = "00", "NO"
    region = Dataset()
    region.RegionSpatialFormat, region.RegionDataType, region.RegionFlags = 1, 1, 0
    region.RegionLocationMinX0, region.RegionLocationMinY0 = 0, 0
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = columns - 1, rows - 1
    region.PhysicalUnitsXDirection = region.PhysicalUnitsYDirection = 3  # cm
    region.PhysicalDeltaX = region.PhysicalDeltaY = spacing / 10
    dataset.SequenceOfUltrasoundRegions = Sequence([region])


def set_size(dataset: Dataset, rows: int, columns: int, photometric: str, bits: int = 8) -> None:
    """The image pixel module (PS3.3 section C.7.6.3) of unsigned pixels; colour is interleaved."""
    colour = not photometric.startswith("MONOCHROME")
    dataset.SamplesPerPixel = 3 if colour else 1
    dataset.PhotometricInterpretation = photometric
    if colour:
        dataset.PlanarConfiguration = 0
    else:
        dataset.PresentationLUTShape = "IDENTITY"
    dataset.Rows, dataset.Columns = rows, columns
    dataset.BitsAllocated = dataset.BitsStored = bits
    dataset.HighBit, dataset.PixelRepresentation = bits - 1, 0


def set_jpeg(dataset: Dataset, stream: bytes) -> None:
    """A coded baseline JPEG as the one fragment of the one frame."""
    set_loss(dataset, len(stream))
    dataset.PixelData = encapsulate([stream])
    dataset["PixelData"].VR = "OB"


def set_loss(dataset: Dataset, coded_size: int) -> None:
    """Says that the pixels went through a JPEG of so many bytes (PS3.3 section C.7.6.1.1.5)."""
    raw = dataset.Rows * dataset.Columns * dataset.SamplesPerPixel
    dataset.LossyImageCompression = "01"
    dataset.LossyImageCompressionRatio = f"{raw / coded_size:.4g}"
    dataset.LossyImageCompressionMethod = "ISO_10918_1"


def save(dataset: Dataset, path: Path, transfer_syntax: str = ExplicitVRLittleEndian) -> Path:
    """Writes a DICOM file whose bytes follow from the data set alone."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = UID(transfer_syntax)
    meta.ImplementationClassUID = UID(_IMPLEMENTATION)
    dataset.file_meta = meta
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path
