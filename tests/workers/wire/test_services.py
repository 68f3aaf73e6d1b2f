"""What is asked for in a presentation context must be what the context was agreed for; nothing is inflated."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest
from raw_peer import (
    ABORTED,
    ACCEPTED,
    COMMITMENT,
    CONTEXTS,
    EXPLICIT,
    IMPLICIT,
    REJECTED,
    RELEASE,
    RELEASED,
    SECONDARY_CAPTURE,
    VERIFICATION,
    associate,
    c_echo,
    c_store,
    command,
    data_set,
    element,
    item,
    p_data,
    pdu,
    us,
)

from workers.commitments import expect_report, find_report

DEFLATED, BIG_ENDIAN = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"
CT = "1.2.840.10008.5.1.4.1.1.2"
REPORTS = (5, COMMITMENT, (IMPLICIT,))
NOT_SUPPORTED, PROCESSING_FAILURE = 0x0122, 0x0110


def accepted_syntaxes(body: bytes) -> list[str]:
    """Transfer syntaxes of the accepted contexts of an A-ASSOCIATE-AC."""
    found, at = [], 68
    while at < len(body):
        length = int.from_bytes(body[at + 2 : at + 4], "big")
        if body[at] == 0x21 and body[at + 6] == 0:
            found.append(body[at + 12 : at + 4 + length].decode())
        at += 4 + length
    return found


@pytest.mark.parametrize("service", [VERIFICATION, COMMITMENT, SECONDARY_CAPTURE])
def test_no_service_takes_a_deflated_data_set(listening: Any, service: str) -> None:
    offers = (DEFLATED, EXPLICIT, BIG_ENDIAN, IMPLICIT)
    with listening.peer() as peer:
        contexts = [(2 * n + 1, service, (syntax,)) for n, syntax in enumerate(offers)]
        peer.send(associate(contexts))
        kind, body = peer.answer()
    assert kind == ACCEPTED
    assert accepted_syntaxes(body) == [EXPLICIT, BIG_ENDIAN, IMPLICIT]


@pytest.mark.parametrize("context", [(1, VERIFICATION, (EXPLICIT,)), REPORTS, (3, CT, (EXPLICIT,))])
def test_an_instance_comes_only_in_a_context_of_its_class(
    listening: Any, context: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with listening.peer() as peer:
        assert peer.ask(associate([context])) == ACCEPTED
        peer.send(*c_store(b"2.25.100", data_set(), context=context[0]))
        assert peer.status() == NOT_SUPPORTED
    assert listening.is_quiet() and listening.sidecars() == []
    assert "was refused (0x0122): its presentation context is of another class" in caplog.text


ECHO = {0x0002: VERIFICATION.encode(), 0x0100: us(0x30), 0x0110: us(1), 0x0800: us(0x0101)}
ECHO_WITHOUT_CLASS = {0x0100: us(0x30), 0x0110: us(1), 0x0800: us(0x0101)}
REPORT_WITHOUT_TYPE = {
    0x0002: COMMITMENT.encode(),
    0x0100: us(0x0100),
    0x0110: us(1),
    0x0800: us(1),
    0x1000: b"1.2.840.10008.1.20.1.1",
}
ANSWER_TO_NOTHING = {
    0x0002: VERIFICATION.encode(),
    0x0100: us(0x8030),
    0x0120: us(1),
    0x0800: us(0x0101),
    0x0900: us(0),
}


@pytest.mark.parametrize(
    ("context", "elements"),
    [(1, ECHO_WITHOUT_CLASS), (3, ECHO), (5, REPORT_WITHOUT_TYPE), (1, ANSWER_TO_NOTHING)],
    ids=["echo without class", "echo in another context", "report without event type", "answer to nothing"],
)
def test_what_is_no_whole_request_ends_the_association(
    listening: Any, context: int, elements: dict[int, bytes]
) -> None:
    """Silence would have the peer wait for an answer until its own patience ends."""
    with listening.peer(seconds=5) as peer:
        assert peer.ask(associate([*CONTEXTS, REPORTS])) == ACCEPTED
        peer.send(p_data(context, 3, command(elements)))
        if context == 5:
            peer.send(p_data(5, 2, element(0x0008, 0x1195, b"2.25.7")))
        assert peer.answer()[0] in (0, ABORTED)
    assert listening.is_quiet() and listening.serves()


def test_unknown_items_of_a_request_are_skipped(listening: Any) -> None:
    """PS3.8 section 9.3.1: a newer peer may say more than we understand."""
    request = associate(more=item(0x5F, b"of another edition"))
    request += item(0x99, b"as well") + bytes(8)
    request = pdu(1, request[6:])
    with listening.peer() as peer:
        assert peer.ask(request) == ACCEPTED
        peer.send(c_echo())
        assert peer.status() == 0
        assert peer.ask(RELEASE) == RELEASED


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"maximum_pdu": 1}, "its request is not one that we can serve"),
        ({"called": "SOMEBODY"}, "it called another AE title"),
    ],
)
def test_the_audit_trail_has_the_reason_of_a_rejection(
    listening: Any, options: dict[str, Any], reason: str
) -> None:
    with listening.peer() as peer:
        assert peer.ask(associate(**options)) == REJECTED
    assert listening.is_quiet()
    notices = [json.loads(path.read_text()) for path in (listening.root / "audit").glob("*.json")]
    assert reason in [notice["detail"].get("reason") for notice in notices]


def report(event_information: bytes) -> list[bytes]:
    """An N-EVENT-REPORT of storage commitment, in implicit VR."""
    elements = REPORT_WITHOUT_TYPE | {0x1002: us(1)}
    return [p_data(5, 3, command(elements)), p_data(5, 2, event_information)]


def nested(depth: int) -> bytes:
    """Sequences of undefined length in one another, none of which ends."""
    begin = struct.pack("<HHI", 0x0008, 0x1199, 0xFFFFFFFF) + struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    return element(0x0008, 0x1195, b"2.25.7") + begin * depth


def test_a_report_that_cannot_be_read_is_refused_in_one_line(
    listening: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with listening.peer() as peer:
        assert peer.ask(associate([*CONTEXTS, REPORTS])) == ACCEPTED
        peer.send(*report(nested(900)))
        assert peer.status() == PROCESSING_FAILURE
        peer.send(c_echo())
        assert peer.status() == 0
    assert [r.getMessage() for r in caplog.records if r.levelname == "ERROR"] == [
        "a storage commitment report was not taken: it cannot be read (RecursionError)"
    ]


def test_a_full_disk_takes_no_report(listening: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is on its way out needs the last room, and a report comes again."""
    expect_report(listening.root, "2.25.7", "MODALITY")
    monkeypatch.setitem(vars(listening.listener._config.site), "minimum_free", 1 << 60)
    with listening.peer() as peer:
        assert peer.ask(associate([*CONTEXTS, REPORTS])) == ACCEPTED
        peer.send(*report(element(0x0008, 0x1195, b"2.25.7")))
        assert peer.status() == PROCESSING_FAILURE
    assert find_report(listening.root, "2.25.7") is None
