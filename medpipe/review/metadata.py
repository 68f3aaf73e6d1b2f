"""What the viewer lacks in a SEG of a picture without patient space, added on the way to it and nowhere else.

OHIF draws a segmentation only where each frame has a place: PixelMeasures, PlaneOrientation, PlanePosition. A SEG of a
photograph has none, rightly (PS3.3 C.8.20.2: no Frame of Reference), and the stored object stays without. All
functions work on DICOM JSON (PS3.18 annex F) and change nothing that is there.
"""

from __future__ import annotations

import json
import re
from typing import Any

Item = dict[str, Any]

_BULK_DATA = re.compile(rb'("BulkDataURI"\s*:\s*)"https?://[^"]*?/studies/')

SEGMENTATION = b"1.2.840.10008.5.1.4.1.1.66.4"
_SOP_CLASS = "00080016"
_PATIENT_ID = "00100020"
_SHARED, _PER_FRAME = "52009229", "52009230"
_PIXEL_MEASURES: Item = {"00280030": {"vr": "DS", "Value": [1, 1]}, "00180050": {"vr": "DS", "Value": [1]}}
_PLANE_ORIENTATION: Item = {"00200037": {"vr": "DS", "Value": [1, 0, 0, 0, 1, 0]}}
_PLANE_POSITION: Item = {"00200032": {"vr": "DS", "Value": [0, 0, 0]}}
_PLACES = {"00289110": _PIXEL_MEASURES, "00209116": _PLANE_ORIENTATION, "00209113": _PLANE_POSITION}
"""Functional group sequence -> the item that says: one pixel is one unit, upright, at the origin."""


def rerouted(body: bytes, ours: str) -> bytes:
    """A metadata answer whose bulk data are fetched through us: a browser cannot reach the PACS, whatever its name."""
    return _BULK_DATA.sub(rb'\1"' + ours.encode() + rb"/studies/", body)


def placed(body: bytes) -> bytes:
    """A metadata answer in which every SEG has a plane; the very same bytes where there is nothing to add.

    Raises ValueError where the body is no JSON.
    """
    if SEGMENTATION not in body:
        return body
    instances = json.loads(body)
    changed = [add_plane(instance) for instance in instances]
    return json.dumps(instances, separators=(",", ":")).encode() if any(changed) else body


def add_plane(instance: Item) -> bool:
    """Adds to one SEG's shared functional groups those of the three that no frame has; whether any was missing."""
    if instance.get(_SOP_CLASS, {}).get("Value") != [SEGMENTATION.decode()]:
        return False
    groups = [*_items(instance, _SHARED), *_items(instance, _PER_FRAME)]
    missing = {tag: item for tag, item in _PLACES.items() if not any(_items(group, tag) for group in groups)}
    if not missing:
        return False
    shared = _items(instance, _SHARED) or [{}]
    shared[0] |= {tag: {"vr": "SQ", "Value": [item]} for tag, item in missing.items()}
    instance[_SHARED] = {"vr": "SQ", "Value": shared}
    return True


def without_patient_id(body: bytes) -> bytes:
    """A search answer whose studies have no PatientID: OHIF would put it into the address of its next search."""
    studies = json.loads(body)
    for study in studies:
        study.pop(_PATIENT_ID, None)
    return json.dumps(studies, separators=(",", ":")).encode()


def _items(dataset: Item, tag: str) -> list[Item]:
    found: list[Item] = dataset.get(tag, {}).get("Value") or []
    return found
