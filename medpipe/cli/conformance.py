"""docs/conformance.md: the DICOM conformance statement, its tables read from the code so that they cannot drift."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from pydicom.uid import UID
from pynetdicom import PYNETDICOM_IMPLEMENTATION_UID, PYNETDICOM_IMPLEMENTATION_VERSION
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StorageCommitmentPushModel,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
    Verification,
)

from medpipe.pacs.network import LONGEST_PDU, MAXIMUM_CONTEXTS
from medpipe.pacs.query import NOT_IMAGES
from medpipe.pacs.store import MEANINGS, judge
from medpipe.pacs.syntaxes import COMPRESSED, IMAGE_CLASSES, SEGMENTATION, UNCOMPRESSED, UNUSUAL
from workers.presentation import STORAGE_CLASSES, TRANSFER_SYNTAXES

RESULT_CLASSES = (SEGMENTATION, "1.2.840.10008.5.1.4.1.1.88.33", "1.2.840.10008.5.1.4.1.1.88.34")
"""What we make: Segmentation, Comprehensive SR (photographs), Comprehensive 3D SR (volumes)."""

_YOUNGER = {"1.2.840.10008.5.1.4.1.1.66.7": "Label Map Segmentation Storage"}
"""Classes that the installed dictionary does not know yet."""

OUR_STATUSES = {
    0x0000: "the instance is on the disk, whether or not it could be read",
    0xA700: "less than `site.minimum_free` bytes are free, or the instance is larger than `listener.maximum_instance`,"
    " or the disk failed: send it again later",
    0xA900: "the data set's own SOP class or instance UID is not the one that was announced",
    0x0110: "anything else went wrong: send it again",
}
"""What our listener answers to C-STORE."""

TEXT = """# DICOM conformance statement

First version. Written by `make docs` from the code that negotiates; a test fails when it is stale. The form follows
PS3.2 in short.

## The application entity

medpipe is one application entity, `listener.ae_title` (default MEDPIPE). It accepts associations at `listener.host` and
`listener.port`, and opens associations to the peers of its settings, calling itself by the same title. Any number of
processes may call at the same time.

| | |
| --- | --- |
| implementation class UID | {implementation} |
| implementation version name | {version} |
| application context | 1.2.840.10008.3.1.1.1 |
| largest PDU received | {pdu} bytes |
| associations accepted at once | `listener.maximum_associations` (50) |
| who may call | the AE titles of `listener.calling`; another called title is rejected (`listener.check_called`) |
| asynchronous operations, user identity, extended negotiation | not supported |
| security | TLS 1.2 and 1.3 (BCP 195, RFC 9325), with certificates of both sides, where the settings have \
`listener.tls` and `peers.NAME.tls`; see [security](security.md) |
| audit trail | DICOM audit messages (PS3.15 A.5), exported, or sent by syslog (A.6) where the settings have \
`audit.repository`; patients appear as unknown; see [security](security.md#audit-trail) |

## As a provider (SCP)

| service | SOP class |
| --- | --- |
| verification | {verification} |
| storage | the classes below |
| storage commitment, as its user: the reports (N-EVENT-REPORT) that a PACS sends on an association of its own | \
{commitment} |

A report is answered with 0x0000 where it comes under the AE title that was asked for its transaction; the first one
counts. Any other one is answered with 0x0115 and changes nothing, one that we cannot read or keep with 0x0110.

### What is stored

Every class in every one of these transfer syntaxes; of several that a caller proposes in one presentation context,
the first of this list is accepted.

{syntaxes}

{classes}

The data set is kept byte for byte as it was received, in the transfer syntax in which it came. Nothing is coerced. An
instance that comes again with the same content changes nothing; with other content it is kept aside, and the first
one stays in use.

{statuses}

Which of the stored objects are segmented is decided by the rules ([rules](rules.md)); what cannot be is refused with a
reason ([troubleshooting](troubleshooting.md)), never silently.

## As a user (SCU)

| service | SOP class | when |
| --- | --- | --- |
| verification | {verification} | `medpipe check-destination`, `medpipe doctor` |
| storage | the classes below | results, to each peer that a rule names |
| storage commitment, request | {commitment} | after sending, to peers with `commitment = true` |
| query, study root | {find} | how many instances a study has; whether results are there; `medpipe reprocess` |
| retrieve, C-GET, study root | {get} | `medpipe reprocess`, peers with `retrieve = "get"` |
| retrieve, C-MOVE, study root | {move} | `medpipe reprocess`, peers with `retrieve = "move"`; to our own title |

Queries are made at STUDY level (Study Instance UID or Accession Number, Modalities in Study), SERIES level (Study and
Series Instance UID, Modality, Number of Series Related Instances) and IMAGE level (SOP Instance UID, SOP Class UID).
No wildcard and no patient attribute is ever sent.

### What is sent

Made in Explicit VR Little Endian; sent so, or in Implicit VR Little Endian where a peer takes nothing else.

{results}

Series of these modalities are never retrieved, for they hold no images: {without}.

### What a C-STORE status of a peer means to us

{judged}

A transient failure, and a connection lost while an object was sent, is tried again up to `worker.send_attempts` times,
later and later; a final one needs a person (`medpipe retry`). While no association can be had at all, it is tried again
without end.

### What is retrieved

The classes that the archive lists for the study are proposed, each with these transfer syntaxes, as many as one
association has room for ({room}), the first ones of the list first. Where the archive lists no classes:

{asked}

{get_syntaxes}

## Results

Segmentation (BINARY, PS3.3 A.51) and SR (TID 1500), in the study of their source, with UIDs derived from the content:
what is found again has the same UID and the same bytes. [Outputs](outputs.md) says which attribute holds what.

Character sets: those of the source, unchanged. Coded concepts: SNOMED CT and DICOM (PS3.16); a bundle may name others.
"""


def conformance() -> str:
    """The whole page."""
    return TEXT.format(
        implementation=PYNETDICOM_IMPLEMENTATION_UID,
        version=PYNETDICOM_IMPLEMENTATION_VERSION,
        pdu=LONGEST_PDU,
        verification=_named(Verification),
        commitment=_named(StorageCommitmentPushModel),
        find=_named(StudyRootQueryRetrieveInformationModelFind),
        get=_named(StudyRootQueryRetrieveInformationModelGet),
        move=_named(StudyRootQueryRetrieveInformationModelMove),
        syntaxes=_table("transfer syntax", TRANSFER_SYNTAXES),
        classes=_table("SOP class", STORAGE_CLASSES),
        statuses=_rows("we answer", "when", ((f"0x{code:04X}", text) for code, text in OUR_STATUSES.items())),
        results=_table("SOP class", RESULT_CLASSES),
        without=", ".join(sorted(NOT_IMAGES)),
        judged=_judged(),
        room=f"{MAXIMUM_CONTEXTS - 1} presentation contexts",
        asked=_table("SOP class", IMAGE_CLASSES),
        get_syntaxes=_table("transfer syntax", (*UNCOMPRESSED, *COMPRESSED, *UNUSUAL)),
    )


def _judged() -> str:
    words = {
        "stored": "stored",
        "warning": "stored",
        "transient": "a transient failure",
        "failed": "a final failure",
    }
    ranges = {0xA7FE: "0xA7xx", 0xA9FE: "0xA9xx", 0xBFFE: "0xBxxx", 0xCFFE: "0xCxxx", 0xFEFE: "0xFExx"}
    lines = ["| status | meaning | to us |", "| --- | --- | --- |"]
    for code, shown in [*((one, f"0x{one:04X}") for one in sorted(MEANINGS)), *ranges.items()]:
        outcome, meaning = judge(code)
        lines.append(f"| {shown} | {meaning} | {words[outcome]} |")
    return "\n".join([*lines, "| any other | refused | a final failure |"])


def _named(uid: str) -> str:
    return f"{_name(uid)} ({uid})"


def _name(uid: str) -> str:
    return _YOUNGER.get(uid) or UID(uid).name


def _table(head: str, uids: Iterable[str]) -> str:
    return _rows(head, "UID", ((_name(uid), uid) for uid in uids))


def _rows(first: str, second: str, rows: Iterable[tuple[str, str]]) -> str:
    return "\n".join(
        [f"| {first} | {second} |", "| --- | --- |", *(f"| {one} | {other} |" for one, other in rows)]
    )


def main() -> None:
    Path(sys.argv[1]).write_text(conformance(), encoding="utf-8")


if __name__ == "__main__":
    main()
