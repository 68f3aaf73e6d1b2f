"""What each reason code means and what to do about it, in a line each: for the worklist and for `status`.

The table of docs/troubleshooting.md says the same; a test compares the two.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from medpipe.errors import ReasonCode


@dataclass(frozen=True)
class Refusal:
    """`meaning` is what is wrong, `advice` what a person can do; `` `...` `` are commands and settings."""

    meaning: str
    advice: str


REFUSALS: Mapping[ReasonCode, Refusal] = {
    ReasonCode.UNREADABLE: Refusal(
        "the file is damaged or breaks the DICOM encoding",
        "send the instance again from the source; the bytes as received are in the spool",
    ),
    ReasonCode.NOT_DICOM: Refusal(
        "the file has no DICOM structure",
        "check what was given to `process`",
    ),
    ReasonCode.NOT_AN_IMAGE: Refusal(
        "an object without a picture (SR, SEG, plan, waveform)",
        "nothing: such objects are stored, not segmented",
    ),
    ReasonCode.UNSUPPORTED_CLASS: Refusal(
        "an image class that medpipe does not segment",
        "route other series",
    ),
    ReasonCode.UNSUPPORTED_SYNTAX: Refusal(
        "no decoder for the pixel data's transfer syntax",
        "let the source or the PACS transcode",
    ),
    ReasonCode.BAD_PIXELS: Refusal(
        "the pixel data do not decode to Rows x Columns, or a file holds no numbers, or one value everywhere",
        "send the instance again from the source",
    ),
    ReasonCode.BAD_HEADER: Refusal(
        "a required attribute is missing or makes no sense",
        "ask the modality's vendor; the sentence names the attribute",
    ),
    ReasonCode.TOO_LARGE: Refusal(
        "more pixels than `reading.maximum_pixels`",
        "raise the limit if the machine can bear it",
    ),
    ReasonCode.OWN_OUTPUT: Refusal(
        "a result of medpipe",
        "nothing: results are never processed again",
    ),
    ReasonCode.TIME_LIMIT: Refusal(
        "reading took longer than `reading.seconds`",
        "damaged or hostile file, or a slow disk",
    ),
    ReasonCode.MEMORY_LIMIT: Refusal(
        "reading took more than `reading.memory`",
        "damaged or hostile file, or raise the limit",
    ),
    ReasonCode.TWO_PATIENTS: Refusal(
        "two patient ids under one Study Instance UID; or, without any id, two names or birth dates",
        "correct the study in the PACS, then reprocess",
    ),
    ReasonCode.SAME_UID_OTHER_CONTENT: Refusal(
        "an instance came again with other content; the later one is kept aside, and of two files given to `process` "
        "neither is taken",
        "decide in the PACS which one is right",
    ),
    ReasonCode.SERIES_IN_TWO_STUDIES: Refusal(
        "one Series Instance UID under two studies: it stays with the one that came first",
        "correct the PACS, then `medpipe reprocess` the study that now has the series",
    ),
    ReasonCode.STUDY_REMOVED: Refusal(
        "an instance came for a study whose files had been removed: a part is not processed as if it were the whole",
        "`medpipe reprocess STUDY_UID`, or send the whole study again",
    ),
    ReasonCode.GEOM_MISSING: Refusal(
        "a slice has no position, orientation or pixel spacing, or none that a scanner could have",
        "geometry is never invented: such series cannot be segmented as a volume",
    ),
    ReasonCode.GEOM_SINGLE_SLICE: Refusal(
        "one slice is no volume",
        "route only volumes to this bundle",
    ),
    ReasonCode.GEOM_TOO_FEW_SLICES: Refusal(
        "fewer slices than `reading.minimum_slices`",
        "route only volumes to this bundle",
    ),
    ReasonCode.GEOM_GAP: Refusal(
        "a slice is missing",
        "send the missing instance; the study is then processed anew",
    ),
    ReasonCode.GEOM_UNEVEN: Refusal(
        "the distances between slices differ",
        "reconstruct evenly",
    ),
    ReasonCode.GEOM_TILT: Refusal(
        "the gantry was tilted: slices are not perpendicular to their stack",
        "reconstruct without tilt",
    ),
    ReasonCode.GEOM_DUPLICATE: Refusal(
        "several slices at one position (phases, echoes, time points)",
        "send each volume as a series of its own",
    ),
    ReasonCode.GEOM_MIXED_ORIENTATION: Refusal(
        "slices of different orientation in one series; a NIfTI file whose qform and sform turn it differently",
        "send each volume as a series of its own; correct the file's header",
    ),
    ReasonCode.GEOM_MIXED_SIZE: Refusal(
        "slices of different size or pixel spacing in one series; a NIfTI file that says two sizes of a voxel",
        "send each volume as a series of its own; correct the file's header",
    ),
    ReasonCode.GEOM_NOT_ORTHONORMAL: Refusal(
        "the direction cosines are not unit vectors at right angles",
        "ask the modality's vendor",
    ),
    ReasonCode.MIXED_SERIES: Refusal(
        "slices that alternate between echoes, time points, kinds of picture or frames of reference; the sentence "
        "names the attribute",
        "send each volume as a series of its own",
    ),
    ReasonCode.LOCALIZER: Refusal(
        "a scout picture",
        "nothing: localizers are not segmented",
    ),
    ReasonCode.MOSAIC: Refusal(
        "many slices tiled into one picture",
        "export as single slices or enhanced multi-frame",
    ),
    ReasonCode.MULTIFRAME: Refusal(
        "a multi-frame object (not yet read as volumes), or a file of several pictures",
        "export as single frames",
    ),
    ReasonCode.COLOUR: Refusal(
        "a colour picture where the bundle or a volume needs grey values",
        "route other series",
    ),
    ReasonCode.NOT_FOR_BUNDLE: Refusal(
        "modality, class or channels are not what the bundle was trained for",
        "correct the rule",
    ),
    ReasonCode.FOV_NOT_FOR_BUNDLE: Refusal(
        "the field of view is not the one that the bundle was trained for; of fundus photographs also no round field "
        "on a dark ground, two fields (a stereo pair), a white page, pixels that are not square; the sentence says "
        "which",
        "correct the rule; send one field a picture, as the camera stored it",
    ),
    ReasonCode.NO_RULE: Refusal(
        "no rule wants this series",
        "`medpipe explain` shows each rule's reason; add a rule if it should be processed",
    ),
}

ERRORS: Mapping[str, str] = {
    "BUNDLE": "`medpipe check-bundle` says which file or value is wrong",
    "STORAGE": (
        "a file cannot be read or written: check the disk and the permissions of `site.root`; a study that ended so: "
        "`medpipe retry`"
    ),
    "DISK_FULL": (
        "free the disk of `site.root` or `worker.scratch`, or raise the quota: jobs wait for it and go on by "
        "themselves; "
        "a study that ended so needs more room than the disk has"
    ),
    "PEER_UNREACHABLE": "`medpipe check-destination PEER`; firewall, port, host",
    "PEER_BUSY": "`medpipe check-destination PEER`; firewall, port, host",
    "PEER_REFUSED": "the peer does not know our AE title, or does not accept SEG or SR",
    "PEER_INSECURE": "no TLS with the peer: the line says whose certificate is not trusted and why",
    "INFERENCE_CRASHED": (
        "tried again by itself up to `worker.attempts` times, then the study is `failed`: see memory and log"
    ),
    "STEP_TIMEOUT": (
        "tried again by itself up to `worker.attempts` times, then the study is `failed`: see memory and log"
    ),
    "INTEGRITY": "stored bytes no longer match their digest: the disk, or somebody, changed them",
    "INTERNAL": "a defect of medpipe: please report it with the output of `--verbose`",
}
"""What to do about the errors with which a job fails."""

_CODE = re.compile(r"\b[A-Z][A-Z0-9_]{2,}(?=: )")


def codes_in(reason: str | None) -> list[str]:
    """The codes of a reason as the registry keeps it (`CODE: sentence; CODE: sentence`), each once."""
    found = _CODE.findall(reason or "")
    return [code for code in dict.fromkeys(found) if code in ERRORS or code in REFUSALS]


def meaning_of(code: str) -> str:
    """What is wrong, "" where the code is none of a refusal."""
    return REFUSALS[ReasonCode(code)].meaning if code in REFUSALS else ""


def advice_for(code: str) -> str:
    """What a person can do, "" where nothing is known."""
    return REFUSALS[ReasonCode(code)].advice if code in REFUSALS else ERRORS.get(code, "")
