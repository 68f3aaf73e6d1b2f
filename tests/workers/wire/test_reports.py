"""Storage commitment reports are believed of the peer that was asked, once (PS3.4 section J.3.3)."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from raw_peer import (
    ACCEPTED,
    COMMITMENT,
    CONTEXTS,
    IMPLICIT,
    RawPeer,
    associate,
    command,
    element,
    item,
    p_data,
    us,
)

from workers.commitments import expect_report, find_report, forget_report

SEG = b"1.2.840.10008.5.1.4.1.1.66.4"
INVALID_ARGUMENT = 0x0115


def reporter(listening: Any, title: str) -> RawPeer:
    """A peer that may send reports on an association of its own."""
    role = item(0x54, struct.pack(">H", len(COMMITMENT)) + COMMITMENT.encode() + b"\0\1")
    peer: RawPeer = listening.peer()
    contexts = [*CONTEXTS, (5, COMMITMENT, (IMPLICIT,))]
    assert peer.ask(associate(contexts, calling=title, more=role)) == ACCEPTED
    return peer


def report(transaction: str, *, failed: bool = False) -> list[bytes]:
    """That 2.25.1 is kept, or that it failed for a class conflict."""
    sop = element(0x0008, 0x1150, SEG) + element(0x0008, 0x1155, b"2.25.1")
    sop += element(0x0008, 0x1197, us(0x0119)) if failed else b""
    one = struct.pack("<HHI", 0xFFFE, 0xE000, len(sop)) + sop
    body = {0x0002: COMMITMENT.encode(), 0x0100: us(0x0100), 0x0110: us(1), 0x0800: us(1)}
    body |= {0x1000: b"1.2.840.10008.1.20.1.1", 0x1002: us(2 if failed else 1)}
    objects = element(0x0008, 0x1198 if failed else 0x1199, one)
    return [
        p_data(5, 3, command(body)),
        p_data(5, 2, element(0x0008, 0x1195, transaction.encode()) + objects),
    ]


def test_the_peer_that_was_asked_is_believed(listening: Any) -> None:
    expect_report(listening.root, "2.25.901", "ORTHANC")
    with reporter(listening, "ORTHANC") as peer:
        peer.send(*report("2.25.901"))
        assert peer.status() == 0
    found = find_report(listening.root, "2.25.901")
    assert found is not None and found.committed == ((SEG.decode(), "2.25.1"),)


def test_another_peer_that_may_call_is_not(listening: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A modality that has seen a transaction UID must not make results count as kept."""
    expect_report(listening.root, "2.25.902", "ORTHANC")
    with reporter(listening, "MODALITY") as peer:
        peer.send(*report("2.25.902"))
        assert peer.status() == INVALID_ARGUMENT
    assert find_report(listening.root, "2.25.902") is None
    assert "was not taken: its transaction was asked of another peer" in caplog.text


def test_a_transaction_that_nobody_asked_for_is_unknown(listening: Any) -> None:
    before = set((listening.root / "commitments").glob("*"))
    with reporter(listening, "ORTHANC") as peer:
        peer.send(*report("2.25.903"))
        assert peer.status() == INVALID_ARGUMENT
    assert set((listening.root / "commitments").glob("*")) == before


@pytest.mark.parametrize("dealt_with", [False, True])
def test_the_first_report_stands(listening: Any, dealt_with: bool) -> None:
    """Whether `confirm` has read it or not: what comes after it is answered, and changes nothing."""
    transaction = f"2.25.904{int(dealt_with)}"
    expect_report(listening.root, transaction, "ORTHANC")
    with reporter(listening, "ORTHANC") as peer:
        peer.send(*report(transaction))
        assert peer.status() == 0
        first = find_report(listening.root, transaction)
        if dealt_with:
            forget_report(listening.root, transaction)
            first = None
        for _ in range(2):
            peer.send(*report(transaction, failed=True))
            assert peer.status() == 0
    assert find_report(listening.root, transaction) == first
