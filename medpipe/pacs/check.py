"""`medpipe check-destination`: what a peer offers of what we need, asked in one association and said in words."""

from __future__ import annotations

from dataclasses import dataclass

from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StorageCommitmentPushModel,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
    Verification,
)

from medpipe.config import Peer
from medpipe.errors import MedpipeError, PeerInsecure, PeerUnreachable
from medpipe.pacs.network import association, peer_text, status_of
from medpipe.pacs.syntaxes import COMPREHENSIVE_3D_SR, SEGMENTATION


@dataclass(frozen=True)
class Finding:
    """One thing that was asked: `needed` ones must be there, the others make life easier."""

    name: str
    offered: bool
    needed: bool
    sentence: str


@dataclass(frozen=True)
class DestinationCheck:
    """`away`: the peer did not answer at all, or not now. `insecure`: there was no TLS with it, as settings ask for."""

    peer: str
    findings: tuple[Finding, ...]
    away: bool = False
    insecure: bool = False

    @property
    def usable(self) -> bool:
        """Whether results can be delivered there."""
        return all(finding.offered for finding in self.findings if finding.needed)


SERVICES = (
    (
        "SEG",
        SEGMENTATION,
        True,
        "segmentations can be stored",
        "the PACS must be told to take DICOM Segmentation objects",
    ),
    (
        "SR",
        COMPREHENSIVE_3D_SR,
        True,
        "reports can be stored",
        "the PACS must be told to take Comprehensive 3D SR objects, or set results.sr = false",
    ),
    (
        "storage commitment",
        str(StorageCommitmentPushModel),
        False,
        "the PACS confirms what it keeps",
        "results are confirmed by C-FIND instead; set commitment = false for this peer",
    ),
    (
        "C-FIND",
        str(StudyRootQueryRetrieveInformationModelFind),
        False,
        "studies and results can be looked up",
        "studies settle by silence only, and results cannot be confirmed without storage commitment",
    ),
    (
        "C-GET",
        str(StudyRootQueryRetrieveInformationModelGet),
        False,
        "reprocess can fetch studies",
        'reprocess needs retrieve = "move" for this peer',
    ),
    (
        "C-MOVE",
        str(StudyRootQueryRetrieveInformationModelMove),
        False,
        "reprocess can have studies sent to the listener",
        'reprocess needs retrieve = "get" for this peer',
    ),
)


def check_destination(peer: Peer, calling_ae: str) -> DestinationCheck:
    """Asks a peer for everything that we would use. Never raises for what the peer does: that is what it reports."""
    contexts = [build_context(Verification)]
    contexts += [
        build_context(UID(uid), [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
        for _, uid, _, _, _ in SERVICES
    ]
    try:
        with association(peer, calling_ae, contexts) as assoc:
            accepted = {str(context.abstract_syntax) for context in assoc.accepted_contexts}
            secured = " over TLS" if peer.tls is not None else ""
            connected = Finding("association", True, True, f"accepted{secured}, called by {calling_ae}")
            if str(Verification) in accepted:
                status = status_of(peer, assoc.send_c_echo(), "waiting for its C-ECHO")
                echo = Finding(
                    "C-ECHO", status == 0, False, "answered" if status == 0 else f"status 0x{status:04X}"
                )
            else:
                echo = Finding("C-ECHO", False, False, "not offered")
    except MedpipeError as error:
        refused = Finding("association", False, True, str(error))
        away, insecure = isinstance(error, PeerUnreachable), isinstance(error, PeerInsecure)
        return DestinationCheck(peer_text(peer), (refused,), away, insecure)
    findings = [
        Finding(name, uid in accepted, needed, good if uid in accepted else bad)
        for name, uid, needed, good, bad in SERVICES
    ]
    return DestinationCheck(peer_text(peer), (connected, echo, *findings))
