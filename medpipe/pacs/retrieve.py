"""C-GET and C-MOVE as SCU (PS3.4 annex C): a study's image series, with the bytes as the archive keeps them.

C-GET brings the instances over our own association, in chunks, into a folder that we choose. C-MOVE makes the archive
send them to our listener, which stores them as it stores everything.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Literal, cast

from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import evt
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.pdu_primitives import SCP_SCU_RoleSelectionNegotiation
from pynetdicom.presentation import PresentationContext, build_context, build_role
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from medpipe.config import Peer
from medpipe.errors import NotFound, PeerBusy, PeerRefused
from medpipe.pacs.network import MAXIMUM_CONTEXTS, association, peer_text, status_of
from medpipe.pacs.query import NOT_IMAGES, FoundInstance, find_instances
from medpipe.pacs.syntaxes import COMPRESSED, IMAGE_CLASSES, MESSAGES, UNCOMPRESSED, UNUSUAL

MOVE_PATIENCE = 10
"""A C-MOVE is silent while the archive sends to our listener: its answers may take this many times the time-out."""


@dataclass(frozen=True)
class ReceivedFile:
    """One instance as it came: a Part 10 file with the data set's bytes unchanged. `path` is gone after the call.

    The UIDs are what the archive says: never make a path of them.
    """

    path: Path
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax: str
    source_ae: str
    called_ae: str


Store = Callable[[ReceivedFile], int]
"""Moves a received file to where it shall rest; the status that answers the archive (0x0000, or 0xA700 when full)."""


@dataclass(frozen=True)
class Retrieval:
    """What a retrieval brought. `expected` is what the archive lists; `received` are SOP Instance UIDs (C-GET only)."""

    method: Literal["get", "move"]
    expected: tuple[FoundInstance, ...]
    received: frozenset[str]
    failed: int

    @property
    def missing(self) -> tuple[str, ...]:
        """Instances that the archive lists but did not deliver; empty for a C-MOVE, whose files the listener counts."""
        if self.method == "move":
            return ()
        return tuple(i.sop_instance_uid for i in self.expected if i.sop_instance_uid not in self.received)

    @property
    def complete(self) -> bool:
        return not self.missing and self.failed == 0


def retrieve(
    peer: Peer,
    calling_ae: str,
    study_uid: str,
    store: Store,
    folder: Path,
    *,
    series_uid: str | None = None,
    without: Collection[str] = NOT_IMAGES,
    move_to: str | None = None,
) -> Retrieval:
    """Retrieves a study's series, without those of `without` modalities, as the peer's `retrieve` says (get or move).

    C-GET: each instance is written under `folder` while it arrives and given to `store`. C-MOVE: the peer sends to the
    AE `move_to` (default: `calling_ae`), our running listener; `store` is not called. What the archive lists is asked
    first. Raises what `store` raises, NotFound when it lists nothing, PeerUnreachable, PeerBusy or PeerRefused.
    """
    expected = find_instances(peer, calling_ae, study_uid, series_uid, without=without)
    if not expected:
        raise NotFound(f"{peer_text(peer)} holds no image of study {study_uid}")
    if peer.retrieve == "move":
        failed = _move(peer, calling_ae, expected, move_to or calling_ae)
        return Retrieval("move", tuple(expected), frozenset(), failed)
    received, failed = _get(peer, calling_ae, expected, store, folder)
    return Retrieval("get", tuple(expected), frozenset(received), failed)


def _series_of(expected: Sequence[FoundInstance]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((instance.study_uid, instance.series_uid) for instance in expected))


def _identifier(study_uid: str, series_uid: str) -> Dataset:
    identifier = Dataset()
    identifier.QueryRetrieveLevel = "SERIES"
    identifier.StudyInstanceUID = study_uid
    identifier.SeriesInstanceUID = series_uid
    return identifier


def _get(
    peer: Peer, calling_ae: str, expected: Sequence[FoundInstance], store: Store, folder: Path
) -> tuple[set[str], int]:
    received: set[str] = set()
    errors: list[Exception] = []

    def on_store(event: evt.Event) -> int:
        request = cast(C_STORE, event.request)
        if request._dataset_file is not None:
            request._dataset_file.close()  # pynetdicom does so for a server only
        file = ReceivedFile(
            path=event.dataset_path,
            sop_instance_uid=str(request.AffectedSOPInstanceUID),
            sop_class_uid=str(request.AffectedSOPClassUID),
            transfer_syntax=str(event.context.transfer_syntax),
            source_ae=peer.ae_title,
            called_ae=calling_ae,
        )
        try:
            status = store(file)
        except Exception as error:  # ours to raise, once the archive has been answered
            errors.append(error)
            return 0xA700
        if status == 0x0000:
            received.add(file.sop_instance_uid)
        return status

    classes = sorted({instance.sop_class_uid for instance in expected if instance.sop_class_uid})
    if any(not instance.sop_class_uid for instance in expected):
        classes += [uid for uid in IMAGE_CLASSES if uid not in classes]
    contexts, roles = _storage_contexts(classes)
    contexts.insert(0, build_context(StudyRootQueryRetrieveInformationModelGet, list(MESSAGES)))
    failed = 0
    with (
        _temporary_files_in(folder),
        association(peer, calling_ae, contexts, roles=roles, handlers=[(evt.EVT_C_STORE, on_store)]) as assoc,
    ):
        for study, series in _series_of(expected):
            answers = assoc.send_c_get(_identifier(study, series), StudyRootQueryRetrieveInformationModelGet)
            failed += _follow(peer, answers, "C-GET")
            if errors:
                raise errors[0]
    return received, failed


def _storage_contexts(
    classes: Sequence[str],
) -> tuple[list[PresentationContext], list[SCP_SCU_RoleSelectionNegotiation]]:
    """One context per class and syntax, so that nothing has to be transcoded; the usual ones first."""
    by_class = [[(uid, syntax) for syntax in (*UNCOMPRESSED, *COMPRESSED, *UNUSUAL)] for uid in classes]
    pairs = [pair for rank in zip_longest(*by_class) for pair in rank if pair is not None]
    chosen = pairs[: MAXIMUM_CONTEXTS - 1]
    return (
        [build_context(UID(uid), syntax) for uid, syntax in chosen],
        [build_role(UID(uid), scp_role=True) for uid in classes],
    )


def _move(peer: Peer, calling_ae: str, expected: Sequence[FoundInstance], move_to: str) -> int:
    failed = 0
    context = build_context(StudyRootQueryRetrieveInformationModelMove, list(MESSAGES))
    with association(peer, calling_ae, [context], patience=MOVE_PATIENCE * peer.timeout) as assoc:
        for study, series in _series_of(expected):
            answers = assoc.send_c_move(
                _identifier(study, series), move_to, StudyRootQueryRetrieveInformationModelMove
            )
            failed += _follow(peer, answers, f"C-MOVE to {move_to}")
    return failed


def _follow(peer: Peer, answers: Iterator[tuple[Dataset, Dataset | None]], doing: str) -> int:
    """Waits for the final status; the number of sub-operations that failed."""
    failed = 0
    for answer, _ in answers:
        status = status_of(peer, answer, doing)
        failed = int(answer.get("NumberOfFailedSuboperations") or 0)
        if status in (0xFF00, 0xFF01, 0x0000, 0xB000):
            continue
        if status in (0xA701, 0xFE00):
            raise PeerBusy(f"{peer_text(peer)}: {doing} is not possible now (status 0x{status:04X})")
        if status == 0xA702:  # nothing could be sent: the count of failures says so
            continue
        hint = (
            "; the peer must know this AE title with our listener's host and port" if "MOVE" in doing else ""
        )
        raise PeerRefused(f"{peer_text(peer)}: {doing} refused with status 0x{status:04X}{hint}")
    return failed


_tempfile_lock = threading.Lock()


@contextmanager
def _temporary_files_in(folder: Path) -> Iterator[Path]:
    """pynetdicom writes what it receives to Python's default temporary folder: one of ours for as long as we receive.

    On the file system of the final place a received file is only renamed, and a small /tmp does not fill up. Leftovers
    of a broken connection go with the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _tempfile_lock:
        before = tempfile.tempdir
        own = Path(tempfile.mkdtemp(prefix="retrieve-", dir=folder))
        tempfile.tempdir = str(own)
        try:
            yield own
        finally:
            tempfile.tempdir = before
            shutil.rmtree(own, ignore_errors=True)
