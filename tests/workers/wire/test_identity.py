"""Group 2 of what an installed listener meets: who an instance says it is. Kept as received, aside, or refused."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from raw_peer import ACCEPTED, DATA, associate, c_store, command, data_set, p_data, us

STORED, INVALID_INSTANCE, NOT_SUPPORTED, MISMATCH, NO_DATA = 0x0000, 0x0117, 0x0122, 0xA900, 0xC000

HOSTILE_UIDS = [
    b"../../x",
    b"/etc/passwd",
    b"",
    b"2.25." + b"1" * 60,
    b"2.25.\xff\xfe",
    "2.25.é".encode(),
    b"2.25.1\x002.25.2",
    b"2.25.1\n",
    b"2.25.%s",
    b"2.25.1\\2.25.2",
]


def send(listening: Any, instance: bytes, data: bytes, **options: Any) -> int | None:
    with listening.peer() as peer:
        assert peer.ask(associate()) == ACCEPTED
        peer.send(*c_store(instance, data, **options))
        status = peer.status()
    assert listening.is_quiet()
    return status


@pytest.mark.parametrize("uid", HOSTILE_UIDS, ids=[repr(uid)[:24] for uid in HOSTILE_UIDS])
def test_a_command_whose_uid_is_none_is_refused(listening: Any, uid: bytes) -> None:
    assert send(listening, uid, data_set(uid)) == INVALID_INSTANCE
    assert listening.sidecars() == [] and listening.serves()


@pytest.mark.parametrize("sop_class", ["1.2.840.10008.5.1.4.1.1.7", "1." * 15_000 + "1"])
def test_a_uid_that_is_too_long_is_not_echoed(listening: Any, sop_class: str) -> None:
    """The answer is one PDU, and the peer said how much it takes in one."""
    with listening.peer() as peer:
        assert peer.ask(associate(maximum_pdu=1024)) == ACCEPTED
        peer.send(*c_store(b"2.25." + b"1" * 30_000, data_set(), sop_class=sop_class))
        kind, body = peer.answer()
        assert kind == DATA and INVALID_INSTANCE.to_bytes(2, "little") in body
        assert len(body) <= 1024 and b"1111" not in body and b"1.1.1.1." not in body
    assert listening.is_quiet() and listening.serves()


@pytest.mark.parametrize("uid", [b"2.25.0123", b"1", b"2.25." + b"1" * 59])
def test_unusual_uids_are_kept(listening: Any, uid: bytes) -> None:
    assert send(listening, uid, data_set(uid)) == STORED
    (sidecar,) = listening.sidecars()
    assert sidecar["sop_instance_uid"] == uid.decode()


@pytest.mark.parametrize("uid", [uid for uid in HOSTILE_UIDS if uid])
def test_a_data_set_whose_uid_is_none_does_not_match_its_command(listening: Any, uid: bytes) -> None:
    assert send(listening, b"2.25.100", data_set(uid)) == MISMATCH
    assert listening.sidecars() == []


@pytest.mark.parametrize("uid", HOSTILE_UIDS)
def test_a_hostile_study_or_series_uid_is_kept_and_builds_no_path(listening: Any, uid: bytes) -> None:
    before = {path for path in listening.root.rglob("*") if path.is_dir()}
    assert send(listening, b"2.25.100", data_set(study=uid, series=uid)) == STORED
    (sidecar,) = listening.sidecars()
    assert listening.bytes_of(sidecar).endswith(data_set(study=uid, series=uid))
    assert "StudyInstanceUID" in sidecar["unreadable"]  # kept, not processed
    assert sidecar["study_uid"] is sidecar["series_uid"] is None
    assert {path for path in listening.root.rglob("*") if path.is_dir()} == before


def test_a_class_that_nobody_stores_is_refused(listening: Any) -> None:
    assert send(listening, b"2.25.100", data_set(), sop_class="1.2.3") == NOT_SUPPORTED
    assert send(listening, b"2.25.100", data_set(), sop_class="../x") == INVALID_INSTANCE
    assert listening.sidecars() == []


def test_a_request_without_data_set_is_refused(listening: Any) -> None:
    body = {0x0002: b"1.2.840.10008.5.1.4.1.1.7", 0x0100: us(1), 0x0110: us(1), 0x0700: us(0)}
    body |= {0x0800: us(0x0101), 0x1000: b"2.25.100"}
    with listening.peer() as peer:
        assert peer.ask(associate()) == ACCEPTED
        peer.send(p_data(3, 3, command(body)))
        assert peer.status() == NO_DATA


def test_the_same_again_is_one_instance_and_other_pixels_lie_aside(listening: Any) -> None:
    for pixels in (bytes(10), bytes(10), b"\x01" * 10):
        assert send(listening, b"2.25.100", data_set(pixels=pixels)) == STORED
    assert sorted(sidecar["aside"] for sidecar in listening.sidecars()) == [False, True]


def test_two_patients_in_a_study_and_a_series_in_two_studies_are_kept_for_later_judgement(
    listening: Any,
) -> None:
    assert send(listening, b"2.25.1", data_set(b"2.25.1", name=b"One")) == STORED
    assert send(listening, b"2.25.2", data_set(b"2.25.2", name=b"Two")) == STORED
    assert send(listening, b"2.25.3", data_set(b"2.25.3", study=b"2.25.999")) == STORED
    assert {s["study_uid"] for s in listening.sidecars()} == {"2.25.101", "2.25.999"}
    assert {s["series_uid"] for s in listening.sidecars()} == {"2.25.102"}


NAMES = [
    pytest.param(b"Doe\nERROR forged line", b"", id="newline"),
    pytest.param(b"%s%n%d{0}", b"", id="format"),
    pytest.param(b"\x1b[31mred\x1b[0m", b"", id="ANSI escape"),
    pytest.param(b"<script>alert(1)</script>", b"", id="script"),
    pytest.param(b"N" * 65534, b"", id="64 KB"),
    pytest.param(b"N" * 70000, b"", id="beyond 64 KB"),
    pytest.param(b"M\xfcller", b"NO SUCH CHARSET", id="unknown character set"),
    pytest.param(b"Yamada^Tarou=\x1b$B;3ED\x1b(B", b"\\ISO 2022 IR 87", id="ISO 2022"),
    pytest.param(b"\xff\xfe\x00\x01", b"ISO_IR 192", id="no UTF-8"),
]


@pytest.mark.parametrize(("name", "charset"), NAMES)
def test_a_hostile_name_is_kept_as_received_and_told_to_nobody(
    listening: Any, name: bytes, charset: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    data = data_set(name=name, charset=charset)
    assert send(listening, b"2.25.100", data) == STORED
    (sidecar,) = listening.sidecars()
    assert listening.bytes_of(sidecar).endswith(data)
    shown = name[:20].decode("latin-1")
    assert shown not in caplog.text and shown not in repr(sidecar)
