"""Group 1 of what an installed listener meets: the wire. It serves on, and keeps neither memory, threads nor files."""

from __future__ import annotations

import contextlib
import struct
import time
from collections.abc import Callable
from typing import Any

import pytest
from local_process import wait_until
from pydicom.uid import generate_uid
from raw_peer import (
    ABORT,
    ABORTED,
    ACCEPTED,
    COMMITMENT,
    CONTEXTS,
    DATA,
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
    item,
    p_data,
    pdu,
    us,
)

from workers.instance_file import InstanceFile

CLOSED = 0


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        pytest.param(pdu(1, b""), ABORTED, id="association request of length 0"),
        pytest.param(pdu(1, b"", 0xFFFFFFFF), ABORTED, id="association request claims 4 GiB"),
        pytest.param(pdu(1, bytes(1000), 1 << 30), ABORTED, id="association request claims 1 GiB"),
        pytest.param(pdu(1, bytes(256 * 1024 + 1)), ABORTED, id="association request larger than allowed"),
        pytest.param(pdu(1, associate()[6:], len(associate()) - 20), ABORTED, id="length shorter than sent"),
        pytest.param(pdu(1, bytes(68)), ABORTED, id="association request of zeros"),
        pytest.param(pdu(9, bytes(4)), ABORTED, id="unknown PDU type"),
        pytest.param(pdu(0, bytes(4)), ABORTED, id="PDU type 0"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: pacs\r\n\r\n", ABORTED, id="HTTP"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", ABORTED, id="TLS hello"),
        pytest.param(pdu(4, bytes(100)), ABORTED, id="P-DATA before acceptance"),
        pytest.param(c_echo(), ABORTED, id="a good C-ECHO before acceptance"),
        pytest.param(pdu(5, bytes(4)), ABORTED, id="release before acceptance"),
        pytest.param(pdu(2, bytes(100)), ABORTED, id="an acceptance as request"),
        pytest.param(ABORT, CLOSED, id="abort before acceptance"),
        pytest.param(pdu(7, bytes(5)), ABORTED, id="an abort longer than aborts are"),
    ],
)
def test_nonsense_in_place_of_an_association_request(listening: Any, sent: bytes, answer: int) -> None:
    with listening.peer() as peer:
        assert peer.ask(sent) in (answer, CLOSED)  # a reset may overtake the answer
    assert listening.is_quiet() and listening.serves()


@pytest.mark.parametrize(
    ("request_pdu", "answer"),
    [
        pytest.param(associate(called="SOMEBODY"), REJECTED, id="wrong called title"),
        pytest.param(associate(calling="STRANGER"), REJECTED, id="wrong calling title"),
        pytest.param(associate(calling=b"MOD\nITY\x1b[31m"), ABORTED, id="control characters in a title"),
        pytest.param(associate(calling=b"M" * 65536), REJECTED, id="a title cut off at 16 characters"),
        pytest.param(associate(calling=b"\xff\xfe\x00"), ABORTED, id="a title that is no ASCII"),
        pytest.param(associate(()), ACCEPTED, id="no presentation context"),
        pytest.param(associate([(1, "1.2.3.4", (IMPLICIT,))]), ACCEPTED, id="unknown abstract syntax"),
        pytest.param(associate([(1, VERIFICATION, ("1.2.3",))]), ACCEPTED, id="unknown transfer syntax"),
        pytest.param(associate([(1, VERIFICATION, ())]), ABORTED, id="no transfer syntax"),
        pytest.param(associate(maximum_pdu=0), ACCEPTED, id="maximum PDU 0: unlimited"),
        pytest.param(associate(maximum_pdu=1), REJECTED, id="maximum PDU 1"),
        pytest.param(associate(maximum_pdu=0xFFFFFFFF), ACCEPTED, id="maximum PDU 4 GiB"),
        pytest.param(associate(more=item(0x58, bytes(60000))), ABORTED, id="a broken user identity"),
    ],
)
def test_association_requests_are_answered_by_the_rules(
    listening: Any, request_pdu: bytes, answer: int
) -> None:
    with listening.peer() as peer:
        assert peer.ask(request_pdu) == answer
    assert listening.is_quiet() and listening.serves()


@pytest.mark.parametrize("count", [127, 128, 129, 1000])
def test_many_presentation_contexts(listening: Any, count: int) -> None:
    contexts = [((2 * n + 1) % 256, VERIFICATION, (IMPLICIT,)) for n in range(count)]
    with listening.peer() as peer:
        assert peer.ask(associate(contexts)) in (ACCEPTED, ABORTED, REJECTED)
    assert listening.is_quiet() and listening.serves()


def test_even_context_ids_open_nothing(listening: Any) -> None:
    with listening.peer() as peer:
        assert peer.ask(associate([(2, VERIFICATION, (IMPLICIT,))])) in (ABORTED, ACCEPTED)
        assert peer.ask(c_echo(context=2)) in (ABORTED, CLOSED)
    assert listening.is_quiet() and listening.serves()


BROKEN_DATA = [
    pytest.param(pdu(4, bytes(128 * 1024 + 1)), id="P-DATA larger than advertised"),
    pytest.param(pdu(4, b"", 0xFFFFFFFF), id="P-DATA claims 4 GiB"),
    pytest.param(pdu(4, struct.pack(">I", 5000) + c_echo()[10:]), id="a value longer than its PDU"),
    pytest.param(pdu(4, struct.pack(">I", 0)), id="a value of length 0"),
    pytest.param(pdu(4, struct.pack(">IB", 1, 1)), id="a value without control header"),
    pytest.param(p_data(1, 3, b""), id="an empty command"),
    pytest.param(p_data(1, 3, b"\x00\x00\x00\x01\xff\xff\xff\xff"), id="a command value of 4 GiB"),
    pytest.param(p_data(1, 3, command({0x0100: us(0x4444), 0x0800: us(0x0101)})), id="an unknown command"),
    pytest.param(p_data(1, 2, b"data"), id="a data set without command"),
    pytest.param(p_data(99, 3, c_echo()[12:]), id="a context that nobody proposed"),
    pytest.param(b"".join(p_data(1, 1, bytes(16000)) for _ in range(6)), id="a command without end"),
    pytest.param(c_store(b"2.25.1", b"", context=99)[0], id="C-STORE in a context that nobody proposed"),
    pytest.param(c_store(b"2.25.1", b"")[0] + c_echo(), id="a command within a data set"),
    pytest.param(
        c_store(b"2.25.1", b"")[0] + p_data(1, 2, b"data"),
        id="a data set in another context than its command",
    ),
    pytest.param(associate(), id="a second association request"),
    pytest.param(pdu(3, bytes(4)), id="a rejection by the requestor"),
]


@pytest.mark.parametrize("sent", BROKEN_DATA)
def test_nonsense_on_an_association_ends_it(listening: Any, sent: bytes) -> None:
    with listening.peer() as peer:
        assert peer.ask(associate()) == ACCEPTED
        assert peer.ask(sent) in (ABORTED, CLOSED)
    assert listening.is_quiet() and listening.serves()
    assert listening.sidecars() == []


def test_an_action_on_a_storage_context_is_refused(listening: Any) -> None:
    body = {0x0003: SECONDARY_CAPTURE.encode(), 0x0100: us(0x0130), 0x0110: us(1), 0x0800: us(0x0101)}
    body |= {0x1001: b"2.25.1", 0x1008: us(1)}
    with listening.peer() as peer:
        assert peer.ask(associate()) == ACCEPTED
        assert peer.ask(p_data(3, 3, command(body))) == ABORTED
    assert listening.is_quiet() and listening.serves()


def test_a_report_without_end_is_broken_off(listening: Any) -> None:
    body = {0x0002: COMMITMENT.encode(), 0x0100: us(0x0100), 0x0110: us(1), 0x0800: us(1), 0x1002: us(1)}
    with listening.peer() as peer:
        assert peer.ask(associate([*CONTEXTS, (5, COMMITMENT, (IMPLICIT,))])) == ACCEPTED
        peer.send(p_data(5, 3, command(body)), *(p_data(5, 0, bytes(16000)) for _ in range(80)))
        assert peer.answer()[0] in (ABORTED, CLOSED)
    assert listening.is_quiet() and listening.serves()


@pytest.mark.parametrize("associated", [False, True], ids=["the request", "a P-DATA PDU"])
def test_one_byte_at_a_time_does_not_hold_a_connection(listen: Callable[..., Any], associated: bool) -> None:
    listening = listen(pdu_seconds=0.5)
    with listening.peer() as peer:
        assert not associated or peer.ask(associate()) == ACCEPTED
        for byte in c_store(b"2.25.1", b"")[0] if associated else associate():
            peer.send(bytes((byte,)))
            time.sleep(0.02)
            if not listening.connections():
                break
        else:
            pytest.fail("it was listened to until the end")
    assert listening.is_quiet() and listening.serves()


@pytest.mark.parametrize("part", [p_data(3, 0, b"12345678"), p_data(3, 0, b"")], ids=["eight bytes", "none"])
def test_an_instance_without_end_does_not_hold_an_association(
    listen: Callable[..., Any], part: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Each PDU comes whole and in time, and the instance never."""
    listening = listen(network_timeout=0.5, least_rate="10 KB")
    with listening.peer() as peer:
        assert peer.ask(associate()) == ACCEPTED
        peer.send(c_store(b"2.25.1", b"")[0])
        # not ten seconds: what our own disk takes does not count, and beside other tests it takes long
        assert wait_until(lambda: peer.send(part) or not listening.connections(), 60)
    assert "a message came more slowly than listener.least_rate" in caplog.text
    assert listening.is_quiet() and listening.sidecars() == [] and listening.serves()


def test_an_instance_over_a_slow_line_is_stored(
    listen: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes longer than an association may be silent; what our own disk takes does not count."""
    listening = listen(network_timeout=0.5, least_rate="100 KB")
    write = InstanceFile.write

    def slowly(file: InstanceFile, part: bytes | memoryview) -> None:
        time.sleep(0.2)
        write(file, part)

    monkeypatch.setattr(InstanceFile, "write", slowly)
    data = data_set(pixels=bytes(90_000))
    with listening.peer() as peer:
        assert peer.ask(associate()) == ACCEPTED
        for part in c_store(b"2.25.100", data):
            time.sleep(0.1)
            peer.send(part)
        assert peer.status() == 0
    assert len(listening.sidecars()) == 1


@pytest.mark.parametrize("said", [b"", associate()[:50]], ids=["nothing", "half a request"])
def test_silence_ends_a_connection_without_association(listen: Callable[..., Any], said: bytes) -> None:
    listening = listen(pdu_seconds=0.3)
    with listening.peer() as peer:
        peer.send(said)
        assert peer.answer()[0] in (ABORTED, CLOSED)


def test_silence_ends_an_association(listen: Callable[..., Any]) -> None:
    listening = listen(network_timeout=0.3)
    with listening.peer() as peer:
        assert peer.ask(associate()) == ACCEPTED
        assert peer.answer()[0] == ABORTED


def test_a_peer_that_does_not_take_its_answers_is_left(listen: Callable[..., Any]) -> None:
    listening = listen(pdu_seconds=0.5)
    with listening.peer(receive_buffer=4096) as peer:
        assert peer.ask(associate()) == ACCEPTED
        peer.send(c_echo() * 3000)
        assert listening.is_quiet()
    assert listening.serves()


def test_five_hundred_idle_connections_keep_nobody_out(listen: Callable[..., Any]) -> None:
    listening = listen(maximum_connections=20, maximum_connections_per_address=10)
    idle = [listening.peer() for _ in range(500)]
    try:
        assert listening.connections() <= 10
        assert listening.serves() and listening.serves("127.0.0.2")
    finally:
        for peer in idle:
            peer.socket.close()
    assert listening.is_quiet()


def test_associations_are_not_closed_for_new_connections(listen: Callable[..., Any]) -> None:
    listening = listen(maximum_connections=6, maximum_connections_per_address=3, maximum_associations=4)
    with listening.peer() as first, listening.peer() as second, listening.peer() as third:
        for peer in (first, second, third):
            assert peer.ask(associate()) == ACCEPTED
        with listening.peer() as fourth:
            assert fourth.ask(associate()) == CLOSED  # no room for this address
        with listening.peer(address="127.0.0.2") as fifth, listening.peer(address="127.0.0.2") as sixth:
            assert fifth.ask(associate()) == ACCEPTED
            kind_and_reason = (sixth.send(associate()), sixth.answer())[1]
            assert kind_and_reason == (REJECTED, bytes((0, 2, 3, 2)))  # transient, local limit exceeded
        for peer in (first, second, third):
            peer.send(c_echo())
            assert peer.status() == 0


def test_one_address_cannot_take_all_associations(listen: Callable[..., Any]) -> None:
    listening = listen(maximum_associations=5)
    with contextlib.ExitStack() as held:
        answers = [held.enter_context(listening.peer()).ask(associate()) for _ in range(5)]
        assert answers == [ACCEPTED] * 4 + [REJECTED]
        assert listening.serves("127.0.0.2")


def test_a_thousand_connects_and_closes(listening: Any) -> None:
    for n in range(1000):
        peer = listening.peer()
        peer.reset() if n % 2 else peer.socket.close()
    assert listening.serves() and listening.is_quiet()


def test_an_abort_or_reset_within_an_instance_leaves_nothing(listening: Any) -> None:
    parts = c_store(b"2.25.100", data_set(pixels=bytes(100_000)))
    for end in ("abort", "reset", "close"):
        with listening.peer() as peer:
            assert peer.ask(associate()) == ACCEPTED
            peer.send(*parts[:3])
            if end == "abort":
                peer.send(ABORT)
            elif end == "reset":
                peer.reset()
    assert listening.is_quiet() and listening.sidecars() == [] and listening.serves()


def test_an_instance_beyond_the_limit_is_broken_off_as_it_comes(listen: Callable[..., Any]) -> None:
    listening = listen(maximum_instance="100 KB")
    with listening.peer() as peer:
        assert peer.ask(associate()) == ACCEPTED
        parts = c_store(b"2.25.100", data_set(pixels=bytes(400_000)))
        peer.send(*parts[:-1])
        assert peer.answer()[0] in (ABORTED, CLOSED)
    assert listening.is_quiet() and listening.sidecars() == [] and listening.serves()


def test_a_second_association_sends_to_the_study_of_the_first(listening: Any) -> None:
    with listening.peer() as first, listening.peer() as second:
        assert first.ask(associate()) == second.ask(associate()) == ACCEPTED
        one, other = (c_store(uid, data_set(uid)) for uid in (b"2.25.7", b"2.25.8"))
        first.send(one[0])
        second.send(*other)
        assert second.status() == 0
        first.send(*one[1:])
        assert first.status() == 0
    assert {sidecar["study_uid"] for sidecar in listening.sidecars()} == {"2.25.101"}
    assert len(listening.sidecars()) == 2


def test_an_echo_flood_is_answered_one_by_one(listening: Any) -> None:
    with listening.peer() as peer:
        assert peer.ask(associate()) == ACCEPTED
        for _ in range(20):
            peer.send(c_echo() * 20)
            assert [peer.status() for _ in range(20)] == [0] * 20
        assert peer.ask(RELEASE) == RELEASED


def test_the_same_message_id_twice_is_two_requests(listening: Any) -> None:
    with listening.peer() as peer:
        assert peer.ask(associate()) == ACCEPTED
        for uid in (b"2.25.7", b"2.25.8"):
            peer.send(*c_store(uid, data_set(uid), message_id=5))
            kind, body = peer.answer()
            assert kind == DATA and b"\x00\x00\x20\x01\x02\x00\x00\x00\x05\x00" in body
    assert len(listening.sidecars()) == 2


def test_an_instance_in_many_small_pieces_is_whole(listening: Any) -> None:
    uid = generate_uid(prefix="2.25.").encode()[:40]
    data = data_set(uid, pixels=bytes(range(250)))
    parts = [data[start : start + 7] for start in range(0, len(data), 7)]
    values = [p_data(3, 0, part) for part in parts] + [p_data(3, 2, b"")]
    with listening.peer() as peer:
        assert peer.ask(associate([(3, SECONDARY_CAPTURE, (EXPLICIT,))])) == ACCEPTED
        peer.send(c_store(uid, b"")[0], b"".join(values))
        assert peer.status() == 0
    (sidecar,) = listening.sidecars()
    assert listening.bytes_of(sidecar).endswith(data)
