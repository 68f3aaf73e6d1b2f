"""Which SOP classes are read as pictures, which as slices of volumes, and which are stored but never segmented."""

from __future__ import annotations

from pydicom import Dataset
from pydicom.uid import UID

from medpipe.identity import MANUFACTURER, MANUFACTURER_MODEL_NAME

_IMAGE = "1.2.840.10008.5.1.4.1.1."

PICTURES: frozenset[str] = frozenset(
    _IMAGE + suffix
    for suffix in (
        "77.1.5.1",  # Ophthalmic Photography 8 Bit
        "77.1.5.2",  # Ophthalmic Photography 16 Bit
        "77.1.4",  # VL Photographic
        "7",  # Secondary Capture
        "1",  # CR
        "1.1",  # DX for presentation
        "1.1.1",  # DX for processing
        "1.2",  # MG for presentation
        "1.2.1",  # MG for processing
        "1.3",  # intra-oral for presentation
        "1.3.1",
        "6.1",  # US
        "6",  # US (retired)
    )
)
"""Single-frame classes that are segmented picture by picture."""

SLICES: frozenset[str] = frozenset(_IMAGE + suffix for suffix in ("2", "4", "128"))
"""CT, MR, PET: single-frame classes whose series may be a volume."""

MULTIFRAME: frozenset[str] = frozenset(
    _IMAGE + suffix
    for suffix in (
        "2.1",  # Enhanced CT
        "2.2",  # Legacy Converted Enhanced CT
        "4.1",  # Enhanced MR
        "4.3",  # Enhanced MR Colour
        "4.4",  # Legacy Converted Enhanced MR
        "130",  # Enhanced PET
        "128.1",  # Legacy Converted Enhanced PET
        "3.1",  # US Multi-frame
        "3",  # US Multi-frame (retired)
        "6.2",  # Enhanced US Volume
        "7.1",
        "7.2",
        "7.3",
        "7.4",  # multi-frame Secondary Capture
        "77.1.5.4",  # Ophthalmic Tomography
        "13.1.3",  # Breast Tomosynthesis
    )
)
"""Multi-frame image classes: kept, and refused as images for now."""

_NO_PICTURES = tuple(
    _IMAGE + suffix
    for suffix in (
        "88.",
        "66",
        "481.",
        "9.",
        "11.",
        "104.",
        "67",
        "77.1.5.7",
        "77.1.5.8",
        "78.",
        "79.",
        "80.",
        "68.",
    )
)


def is_picture_object(header: Dataset) -> bool:
    """Whether the object is an image at all (not SR, SEG, RTSTRUCT, KOS, waveform, presentation state, ...)."""
    uid = str(header.get("SOPClassUID", ""))
    if uid.startswith(_NO_PICTURES):
        return False
    return uid in PICTURES or uid in SLICES or uid in MULTIFRAME or "Rows" in header


def class_name(uid: str) -> str:
    """The SOP class by the standard's name, for sentences."""
    return UID(uid).name if uid else "an object without SOP class"


def is_own_output(header: Dataset, uid_root: str = "2.25") -> bool:
    """Whether medpipe made this object, or somebody edited an object that medpipe made.

    Ours carry our model name and a SOP Instance UID under our root; an edited copy keeps us in
    ContributingEquipmentSequence (PS3.3 C.12.1).
    """
    if _ours(header) and str(header.get("SOPInstanceUID", "")).startswith(uid_root + "."):
        return True
    return any(_ours(item) for item in header.get("ContributingEquipmentSequence") or ())


def _ours(item: Dataset) -> bool:
    return (
        str(item.get("ManufacturerModelName", "")) == MANUFACTURER_MODEL_NAME
        and str(item.get("Manufacturer", "")) == MANUFACTURER
    )
