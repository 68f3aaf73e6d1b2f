"""How a result says what made it: algorithm, parameters, equipment, in the standard's own places.

* Segmentation Algorithm Identification Sequence (PS3.3 table 10-19), in each segment: Algorithm Name = bundle id,
  Version = bundle version, Source = medpipe, Family = Artificial Intelligence, Parameters = the whole provenance
  as one line of JSON with sorted keys;
* Segment Description: that class's threshold, smallest size and peak in words;
* Contributing Equipment: medpipe as processing equipment, with bundle, version and digests in words;
* Software Versions: medpipe's and the bundle's; Device Serial Number: the bundle's digest.
"""

from __future__ import annotations

import json
from typing import Any

import highdicom as hd
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from medpipe.bundle import Bundle
from medpipe.identity import MANUFACTURER, MANUFACTURER_MODEL_NAME
from medpipe.results.plain_text import ascii_only, long_string, shortened
from medpipe.types import Prediction, Provenance

_LONG_TEXT = 10240
_SHORT_TEXT = 1024


def provenance_record(provenance: Provenance) -> dict[str, Any]:
    """The provenance as plain values, keys named as in `medpipe.types.Provenance`."""
    return {
        "software": f"{MANUFACTURER_MODEL_NAME} {provenance.software_version}",
        "bundle": provenance.bundle_id,
        "bundle_version": provenance.bundle_version,
        "bundle_hash": provenance.bundle_hash,
        "weights_sha256": provenance.weights_sha256,
        "backend": provenance.backend,
        "precision": provenance.precision,
        "tta": provenance.tta,
        "thresholds": dict(provenance.thresholds),
        "smallest": dict(provenance.smallest),
        **({"peaks": dict(provenance.peaks)} if provenance.peaks else {}),
        "crf": dict(provenance.crf),
        "source_digest": provenance.source_digest,
        "notes": list(provenance.notes),
    }


def provenance_text(provenance: Provenance) -> str:
    """The record as one line of ASCII JSON within VR LT; notes are dropped where they would not fit."""
    record = provenance_record(provenance)
    text = json.dumps(record, sort_keys=True, separators=(",", ":"), default=str)
    while len(text) > _LONG_TEXT and record["notes"]:
        record["notes"] = record["notes"][:-1]
        text = json.dumps(record, sort_keys=True, separators=(",", ":"), default=str)
    return text[:_LONG_TEXT]


def read_provenance(seg: Dataset) -> dict[str, Any]:
    """The provenance record of a SEG that we wrote."""
    algorithm = seg.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0]
    record: dict[str, Any] = json.loads(algorithm.AlgorithmParameters)
    return record


def algorithm_identification(prediction: Prediction) -> hd.AlgorithmIdentificationSequence:
    """Name, version, family, source and parameters of what made the mask."""
    provenance = prediction.provenance
    sequence = hd.AlgorithmIdentificationSequence(
        name=long_string(provenance.bundle_id),
        family=codes.DCM.ArtificialIntelligence,
        version=long_string(provenance.bundle_version),
        source=MANUFACTURER,
    )
    sequence[0].AlgorithmParameters = provenance_text(provenance)
    return sequence


def class_description(prediction: Prediction, class_id: str) -> str:
    """One class's rule in words, within VR ST."""
    provenance = prediction.provenance
    unit = "voxels" if prediction.image.is_volume else "pixels"
    parts = [f"Found by {provenance.bundle_id} {provenance.bundle_version}"]
    if class_id in provenance.thresholds:
        parts.append(f"probability of at least {provenance.thresholds[class_id]:g}")
    if class_id in provenance.smallest:
        parts.append(f"lesions of at least {provenance.smallest[class_id]} {unit}")
    if class_id in provenance.peaks:
        parts.append(f"somewhere in each a probability of at least {provenance.peaks[class_id]:g}")
    return shortened(ascii_only(", ".join(parts)), _SHORT_TEXT)


def software_versions(version: str, bundle: Bundle) -> list[str]:
    """Ours and the bundle's, each within VR LO."""
    return [long_string(f"{MANUFACTURER_MODEL_NAME} {version}"), long_string(f"{bundle.id} {bundle.version}")]


def device_serial_number(bundle: Bundle) -> str:
    """A serial number for a program: the digest of what it runs, the same on every machine."""
    return bundle.hash[:16]


def acquisition_equipment(header: Dataset) -> list[hd.ContributingEquipment]:
    """The device that made the source, where it names its maker in plain ASCII (no institution, no station)."""
    values = {
        keyword: str(header.get(keyword) or "")
        for keyword in ("Manufacturer", "ManufacturerModelName", "DeviceSerialNumber")
    }
    if not values["Manufacturer"] or not all(
        value.isascii() and len(value) <= 64 for value in values.values()
    ):
        return []
    return [
        hd.ContributingEquipment(
            manufacturer=values["Manufacturer"],
            manufacturer_model_name=values["ManufacturerModelName"] or None,
            device_serial_number=values["DeviceSerialNumber"] or None,
            purpose_of_reference=codes.DCM.AcquisitionEquipment,
            contribution_description="Acquisition equipment of the source image(s)",
        )
    ]


def processing_equipment(version: str, bundle: Bundle) -> hd.ContributingEquipment:
    """Contributing Equipment item (PS3.3 C.12.1) that names us as the processing equipment."""
    description = (
        f"Bundle {bundle.id} {bundle.version}, digest {bundle.hash}, "
        f"SHA-256 of its weights {bundle.weights_sha256}"
    )
    return hd.ContributingEquipment(
        manufacturer=MANUFACTURER,
        manufacturer_model_name=MANUFACTURER_MODEL_NAME,
        software_versions=software_versions(version, bundle),
        device_serial_number=device_serial_number(bundle),
        purpose_of_reference=codes.DCM.ProcessingEquipment,
        contribution_description=shortened(ascii_only(description), _SHORT_TEXT),
    )
