"""C-STORE as SCU (PS3.4 annex B): every object in a transfer syntax that the peer takes, every status judged."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydicom import dcmread
from pydicom.datadict import keyword_for_tag
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.uid import UID
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext, build_context

from medpipe.config import Peer
from medpipe.errors import ConnectionLost, IntegrityError, PeerBusy, PeerRefused
from medpipe.logs import Event, about
from medpipe.pacs.network import MAXIMUM_CONTEXTS, association, peer_text, status_of
from medpipe.pacs.syntaxes import UNCOMPRESSED

log = logging.getLogger(__name__)

Outcome = Literal["stored", "warning", "failed", "transient"]

MEANINGS = {
    0x0000: "stored",
    0x0001: "stored, with a warning",
    0x0107: "stored, some attributes were not known",
    0x0110: "processing failure",
    0x0111: "already there",
    0x0116: "stored, an attribute was out of range",
    0x0117: "invalid object instance",
    0x0122: "SOP class not supported",
    0x0124: "not authorised",
    0x0210: "duplicate invocation",
    0x0211: "unrecognised operation",
    0x0212: "mistyped argument",
    0x0213: "resource limitation",
    0xB000: "stored, elements were coerced",
    0xB006: "stored, elements were discarded",
    0xB007: "stored, data set does not match its SOP class",
}
"""Statuses of C-STORE in words (PS3.4 table B.2-1, PS3.7 annex C); the ranges are judged in `judge`."""


@dataclass(frozen=True)
class SendStatus:
    """What became of one object: `status` is the DIMSE status, None where the peer takes no such object at all."""

    path: Path
    sop_instance_uid: str
    sop_class_uid: str
    status: int | None
    outcome: Literal["stored", "warning", "failed"]
    reason: str

    @property
    def is_stored(self) -> bool:
        return self.outcome != "failed"


@dataclass(frozen=True)
class _Object:
    path: Path
    instance: UID
    sop_class: UID
    syntax: UID


def judge(status: int) -> tuple[Outcome, str]:
    """What a C-STORE status means for the object, and in words.

    0x0111 (already there) and the 0xB000 range count as stored; 0xA7xx and resource troubles are worth another try;
    all else (0xA9xx, 0xCxxx, ...) is final.
    """
    meaning = MEANINGS.get(status)
    if status in (0x0000, 0x0111):
        return "stored", meaning or ""
    if status in (0x0001, 0x0107, 0x0116) or status & 0xF000 == 0xB000:
        return "warning", meaning or "stored, with a warning"
    if status & 0xFF00 == 0xA700:
        return "transient", meaning or "out of resources"
    if status in (0x0110, 0x0210, 0x0213) or status & 0xFF00 == 0xFE00:
        return "transient", meaning or "cancelled by the peer"
    if status & 0xFF00 == 0xA900:
        return "failed", meaning or "data set does not match its SOP class"
    if status & 0xF000 == 0xC000:
        return "failed", meaning or "cannot understand the data set"
    return "failed", meaning or "refused"


def send(
    peer: Peer, files: Sequence[Path], *, calling_ae: str, after_each: Callable[[], None] = lambda: None
) -> tuple[SendStatus, ...]:
    """Stores DICOM files (Part 10) at a peer; one status per file, in order. `after_each` is called after each answer.

    Sending again what is there already does no harm. A final refusal of one object is in its status ("failed", with the
    reason) and does not keep the others back. Raises PeerBusy when any object got a transient status, ConnectionLost
    when the connection was lost (both: send all again), what `association` raises, PeerRefused when the peer takes none
    of the objects, IntegrityError for a file that is not DICOM.
    """
    statuses: list[SendStatus] = []
    for group in _groups([_describe(path) for path in files]):
        statuses.extend(_send_group(peer, group, calling_ae, after_each))
    return tuple(statuses)


def _describe(path: Path) -> _Object:
    try:
        meta = read_file_meta_info(path)
        return _Object(
            path,
            UID(meta.MediaStorageSOPInstanceUID),
            UID(meta.MediaStorageSOPClassUID),
            UID(meta.TransferSyntaxUID),
        )
    except (InvalidDicomError, AttributeError, EOFError) as error:
        raise IntegrityError(
            f"{path}: not a DICOM file with a complete file meta header; it cannot be sent"
        ) from error


def _wanted(item: _Object) -> list[tuple[UID, UID]]:
    syntaxes = [item.syntax]
    if item.syntax in UNCOMPRESSED:
        syntaxes += [syntax for syntax in UNCOMPRESSED if syntax != item.syntax]
    return [(item.sop_class, syntax) for syntax in syntaxes]


def _groups(items: Sequence[_Object]) -> Iterator[list[_Object]]:
    """Objects in order, in as many associations as their presentation contexts need (nearly always one)."""
    group: list[_Object] = []
    wanted: set[tuple[UID, UID]] = set()
    for item in items:
        more = wanted.union(_wanted(item))
        if len(more) > MAXIMUM_CONTEXTS:
            yield group
            group, more = [], set(_wanted(item))
        group.append(item)
        wanted = more
    if group:
        yield group


def _contexts(items: Sequence[_Object]) -> list[PresentationContext]:
    # One context per class and syntax: of several syntaxes in one context the peer would pick one by its own taste.
    return [build_context(*pair) for pair in dict.fromkeys(pair for item in items for pair in _wanted(item))]


def _send_group(
    peer: Peer, items: Sequence[_Object], calling_ae: str, after_each: Callable[[], None]
) -> list[SendStatus]:
    statuses: list[SendStatus] = []
    transient: list[str] = []
    with association(peer, calling_ae, _contexts(items)) as assoc:
        accepted = {
            (context.abstract_syntax, context.transfer_syntax[0]) for context in assoc.accepted_contexts
        }
        for number, item in enumerate(items, start=1):
            form = next((pair for pair in _wanted(item) if pair in accepted), None)
            if form is None:
                statuses.append(_not_taken(item))
                continue
            answer = _store(peer, assoc, item, form[1], f"sending object {number} of {len(items)}")
            status = status_of(peer, answer, f"sending object {number} of {len(items)}")
            after_each()
            outcome, meaning = judge(status)
            reason = meaning + _offending(answer)
            if outcome == "transient":
                transient.append(f"0x{status:04X} {reason}")
                continue
            if outcome != "stored":
                log.warning(
                    "%s: %s: status 0x%04X, %s", peer.ae_title, item.instance, status, reason,
                    extra=about(Event.RESULT_NOT_SENT, instance=item.instance, status=status),
                )  # fmt: skip
            statuses.append(SendStatus(item.path, item.instance, item.sop_class, status, outcome, reason))
    if transient:
        raise PeerBusy(
            f"{peer_text(peer)} could not store {len(transient)} of {len(items)} objects: {transient[0]}"
        )
    if all(status.status is None for status in statuses):
        raise PeerRefused(f"{peer_text(peer)}: {statuses[0].reason}")
    return statuses


def _store(peer: Peer, assoc: Association, item: _Object, syntax: UID, doing: str) -> Dataset:
    try:
        if syntax == item.syntax:
            return assoc.send_c_store(item.path)
        # The peer takes the class in the other uncompressed encoding only: the elements stay as they are.
        return assoc.send_c_store(dcmread(item.path))
    except RuntimeError as error:
        raise ConnectionLost(f"{peer_text(peer)}: connection lost while {doing}") from error


def _not_taken(item: _Object) -> SendStatus:
    reason = f"takes no {item.sop_class.name} in {item.syntax.name}"
    return SendStatus(item.path, item.instance, item.sop_class, None, "failed", reason)


def _offending(answer: Dataset) -> str:
    # The peer's free-text comment may name a patient; the tags it complains of cannot.
    tags = answer.get("OffendingElement")
    if not tags:
        return ""
    several = [tags] if isinstance(tags, int) else list(tags)
    return " (" + ", ".join(keyword_for_tag(tag) or str(tag) for tag in several[:5]) + ")"
