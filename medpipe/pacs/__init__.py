"""Archives as a client: C-ECHO, C-STORE, C-FIND, C-GET, C-MOVE and storage commitment (PS3.4 annexes A, B, C and J).

Nothing here keeps state, starts a process or logs a name: peers, files and UIDs come in, typed answers go out, and an
error's class says whether another try is worth it.
"""

from medpipe.pacs.check import DestinationCheck, Finding, check_destination
from medpipe.pacs.commitment import (
    CommitmentReport,
    FailedCommitment,
    FailureAction,
    add_commitment_context,
    parse_commitment_report,
    request_commitment,
)
from medpipe.pacs.network import echo
from medpipe.pacs.query import (
    NOT_IMAGES,
    FoundInstance,
    FoundSeries,
    FoundStudy,
    count_instances,
    find_instances,
    find_results,
    find_series,
    find_studies,
    missing_instances,
)
from medpipe.pacs.retrieve import ReceivedFile, Retrieval, retrieve
from medpipe.pacs.store import SendStatus, send

__all__ = [
    "NOT_IMAGES",
    "CommitmentReport",
    "DestinationCheck",
    "FailedCommitment",
    "FailureAction",
    "Finding",
    "FoundInstance",
    "FoundSeries",
    "FoundStudy",
    "ReceivedFile",
    "Retrieval",
    "SendStatus",
    "add_commitment_context",
    "check_destination",
    "count_instances",
    "echo",
    "find_instances",
    "find_results",
    "find_series",
    "find_studies",
    "missing_instances",
    "parse_commitment_report",
    "request_commitment",
    "retrieve",
    "send",
]
