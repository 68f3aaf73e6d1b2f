"""What the listener accepts: storage classes and transfer syntaxes (PS3.4 annex B, PS3.5 annex A)."""

from __future__ import annotations

from pydicom.uid import (
    JPEG2000,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

TRANSFER_SYNTAXES: tuple[str, ...] = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    RLELossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    JPEG2000Lossless,
    JPEG2000,
    HTJ2KLossless,
    "1.2.840.10008.1.2.4.202",  # HTJ2K lossless, RPCL
    "1.2.840.10008.1.2.4.203",  # HTJ2K
)
"""Deflated Explicit VR is not offered: a small object could inflate without bound."""

_STORAGE = "1.2.840.10008.5.1.4.1.1."

STORAGE_CLASSES: tuple[str, ...] = tuple(
    _STORAGE + suffix
    for suffix in (
        "1",  # CR
        "1.1",  # DX for presentation, for processing
        "1.1.1",
        "1.2",  # MG for presentation, for processing
        "1.2.1",
        "1.3",  # intra-oral
        "1.3.1",
        "2",  # CT, Enhanced CT, Legacy Converted Enhanced CT
        "2.1",
        "2.2",
        "3",  # US Multi-frame (retired)
        "3.1",  # US Multi-frame
        "4",  # MR, Enhanced MR, Enhanced MR Colour, Legacy Converted Enhanced MR
        "4.1",
        "4.3",
        "4.4",
        "6",  # US (retired)
        "6.1",  # US
        "6.2",  # Enhanced US Volume
        "7",  # Secondary Capture
        "7.1",
        "7.2",
        "7.3",
        "7.4",
        "12.1",  # XA
        "12.2",  # XRF
        "12.1.1",  # Enhanced XA
        "12.2.1",
        "13.1.3",  # Breast Tomosynthesis
        "20",  # NM
        "128",  # PET
        "128.1",
        "130",
        "77.1.4",  # VL Photographic
        "77.1.5.1",  # Ophthalmic Photography 8 Bit
        "77.1.5.2",  # Ophthalmic Photography 16 Bit
        "77.1.5.4",  # Ophthalmic Tomography
        "66.4",  # Segmentation
        "66.7",  # Label Map Segmentation
        "88.11",  # Basic Text SR
        "88.22",  # Enhanced SR
        "88.33",  # Comprehensive SR
        "88.34",  # Comprehensive 3D SR
        "88.59",  # Key Object Selection
        "481.3",  # RT Structure Set
        "11.1",  # Grayscale Softcopy Presentation State
    )
)
"""Everything is stored; which of it is segmented is settled later (medpipe.dicom.classes)."""
