"""The spool: durable, content-addressed, the same again a no-op, other content aside, no path from a UID."""

from __future__ import annotations

import dataclasses
import os
import time
import uuid
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.spool import Arrival, Spool

ARRIVAL = Arrival(
    "1.2.3", "1.2.840.10008.5.1.4.1.1.7", "1.2", "1.2.1", "1.2.840.10008.1.2.1", "MODALITY", "MEDPIPE"
)


def incoming(spool: Spool, content: bytes, preamble: bytes = bytes(128)) -> Path:
    path = spool.incoming / uuid.uuid4().hex
    path.write_bytes(preamble + b"DICM" + content)
    return path


def test_bytes_are_kept_as_received_but_for_the_preamble(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    sidecar, new = spool.receive(incoming(spool, b"content", b"MZ" + bytes(126)), ARRIVAL, 1.0)
    assert new and not sidecar.aside
    assert spool.path_of(sidecar).read_bytes() == bytes(128) + b"DICM" + b"content"
    assert not list(spool.incoming.iterdir())
    assert [found.file for found in spool.arrivals()] == [sidecar.file]


def test_the_same_instance_again_changes_nothing(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    first, _ = spool.receive(incoming(spool, b"content"), ARRIVAL, 1.0)
    again, new = spool.receive(incoming(spool, b"content"), ARRIVAL, 2.0)
    assert not new and again == first
    assert len(list(spool.sidecars())) == 1


def test_the_same_uid_with_other_content_lies_aside(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    first, _ = spool.receive(incoming(spool, b"content"), ARRIVAL, 1.0)
    other, new = spool.receive(incoming(spool, b"other"), ARRIVAL, 2.0)
    assert new and other.aside and not first.aside
    assert {spool.path_of(s).read_bytes()[132:] for s in (first, other)} == {b"content", b"other"}


def test_the_same_bytes_in_another_transfer_syntax_are_other_content(tmp_path: Path) -> None:
    """They mean something else there: whoever named the wrong one first must not keep the right one out."""
    spool = Spool(tmp_path)
    implicit = dataclasses.replace(ARRIVAL, transfer_syntax="1.2.840.10008.1.2")
    first, _ = spool.receive(incoming(spool, b"content"), implicit, 1.0)
    for is_new in (True, False):
        second, new = spool.receive(incoming(spool, b"content"), ARRIVAL, 2.0)
        assert new is is_new and second.aside and second.transfer_syntax == ARRIVAL.transfer_syntax
        assert second.file != first.file and second.digest != first.digest
    again, new = spool.receive(incoming(spool, b"content"), implicit, 3.0)
    assert not new and again == first


def test_what_could_not_be_read_does_not_put_the_readable_one_aside(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    broken = dataclasses.replace(
        ARRIVAL, study_uid=None, series_uid=None, unreadable="it ends within an element"
    )
    spool.receive(incoming(spool, b"cont"), broken, 1.0)
    sound, new = spool.receive(incoming(spool, b"content"), ARRIVAL, 2.0)
    assert new and not sound.aside
    other, _ = spool.receive(incoming(spool, b"other content"), ARRIVAL, 3.0)
    assert other.aside


@settings(deadline=None)  # a busy disk is no fault
@given(st.text(max_size=80))
def test_no_path_is_built_from_a_uid(uid: str) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        spool = Spool(root)
        sidecar, _ = spool.receive(
            incoming(spool, b"x"), dataclasses.replace(ARRIVAL, sop_instance_uid=uid), 1.0
        )
        assert sidecar.sop_instance_uid == uid
        inside = [path for path in root.rglob("*") if path.is_file()]
        assert all(path.is_relative_to(spool.root / "spool") for path in inside)
        assert not set(sidecar.file) - set("0123456789abcdef-")


def test_a_crash_between_sidecar_and_announcement_is_repaired(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path)
    monkeypatch.setattr(Spool, "_announce", lambda *_: (_ for _ in ()).throw(OSError("killed here")))
    with pytest.raises(OSError, match="killed here"):
        spool.receive(incoming(spool, b"content"), ARRIVAL, 1.0)
    monkeypatch.undo()
    assert spool.arrivals() == []
    assert spool.repair() == 1
    assert len(spool.arrivals()) == 1


def test_a_crash_before_the_sidecar_leaves_nothing_that_was_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path)
    monkeypatch.setattr("workers.spool.sync_files", lambda *_: (_ for _ in ()).throw(OSError("killed here")))
    with pytest.raises(OSError, match="killed here"):
        spool.receive(incoming(spool, b"content"), ARRIVAL, 1.0)
    monkeypatch.undo()
    _, new = spool.receive(
        incoming(spool, b"content"), ARRIVAL, 2.0
    )  # the sender has it still, and sends again
    assert new and len(spool.arrivals()) == 1


def test_file_and_sidecar_are_flushed_then_named_and_the_names_flushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path)
    spool.repair()
    happened: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def flush(descriptor: int) -> None:
        happened.append(f"flush {Path(f'/proc/self/fd/{descriptor}').readlink().suffix or 'folder'}")
        fsync(descriptor)

    def rename(self: Path, target: Path) -> Path:
        happened.append(f"name {target.suffix}")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(Path, "replace", rename)
    spool.receive(incoming(spool, b"content").rename(spool.incoming / "x.dcm"), ARRIVAL, 1.0)
    assert sorted(happened[:2]) == ["flush .dcm", "flush .json"]
    assert happened[2:] == ["name .dcm", "name .json", "flush folder"]
    happened.clear()
    spool.receive(incoming(spool, b"content"), ARRIVAL, 2.0)  # a killed listener may have left it unflushed
    assert happened == ["flush folder"]


def test_what_arrived_before_a_long_outage_is_offered_again(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    ancient, last = (
        spool.receive(incoming(spool, content), dataclasses.replace(ARRIVAL, sop_instance_uid=uid), 1.0)[0]
        for uid, content in (("1.1", b"a"), ("1.2", b"b"))
    )
    week = 7 * 24 * 3600
    for sidecar, age in ((ancient, 3 * week), (last, week)):
        path = spool.path_of(sidecar).with_suffix(".json")
        os.utime(path, (time.time() - age,) * 2)
        spool.registered(sidecar)  # or its link was lost in the power cut
    assert spool.repair() == 1
    assert [found.file for found in spool.arrivals()] == [last.file]


def test_a_sidecar_whose_file_was_lost_is_forgotten(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    sidecar, _ = spool.receive(incoming(spool, b"content"), ARRIVAL, 1.0)
    spool.path_of(sidecar).unlink()
    assert spool.repair() == 0
    assert spool.arrivals() == list(spool.sidecars()) == []
