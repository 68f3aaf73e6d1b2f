"""Listeners as processes: bounded memory, several on one port, and nothing lost when one of them is killed."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from local_process import LocalProcess, StartError, wait_until
from pydicom.dataset import Dataset
from pynetdicom.dsutils import encode
from raw_peer import (
    ABORTED,
    ACCEPTED,
    COMMITMENT,
    CONTEXTS,
    IMPLICIT,
    RawPeer,
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

from workers.commitments import expect_report, find_report


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[Any], LocalProcess]]:
    """`start(site)` starts one `listen` process and waits until it listens."""
    started: list[LocalProcess] = []

    def run(site: Any) -> LocalProcess:
        process = LocalProcess(
            "listen",
            [sys.executable, "-m", "medpipe.cli", "--config", site.path, "listen"],
            tmp_path / f"listen-{len(started)}.log",
        )
        started.append(process)
        process.start()
        process.wait_ready(lambda: "listening" in process.tail(), 60)
        return process

    yield run
    for process in started:
        process.stop()


def peak(process: LocalProcess) -> int:
    """The most memory that a process has ever had resident, in bytes."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def spooled(site: Any) -> set[str]:
    paths = (site.root / "spool" / "instances").glob("??/*.json")
    return {json.loads(path.read_text())["sop_instance_uid"] for path in paths}


def test_neither_a_large_instance_nor_claims_nor_crowds_take_memory(
    site: Callable[..., Any], start: Callable[[Any], LocalProcess]
) -> None:
    made = site(listener={"maximum_connections_per_address": 20, "maximum_connections": 30})
    process, port = start(made), made.config.listener.port
    with RawPeer(port) as peer:
        assert peer.ask(associate()) == ACCEPTED
        peer.send(*c_store(b"2.25.1", data_set(b"2.25.1")))
        assert peer.status() == 0
    before = peak(process)
    block = p_data(3, 0, bytes(131072 - 6))
    with RawPeer(port) as peer:
        assert peer.ask(associate()) == ACCEPTED
        first, head = c_store(b"2.25.100", data_set(b"2.25.100", pixels=b""))
        peer.send(first, head[:11] + b"\0" + head[12:])  # the data set goes on
        for _ in range(300 * 2**20 // 131066):
            peer.send(block)
        peer.send(p_data(3, 2, b""))
        assert peer.status() == 0
    for claim in (1 << 30, 0xFFFFFFFF):
        with RawPeer(port) as peer:
            peer.send(pdu(1, bytes(1000), claim))
            assert peer.answer()[0] in (ABORTED, 0)
    crowd = [RawPeer(port) for _ in range(500)]
    for idle in crowd:
        idle.send(pdu(1, bytes(1000), 250_000))
    with RawPeer(port) as peer:
        assert peer.ask(associate()) == ACCEPTED
        peer.send(c_echo())
        assert peer.status() == 0
    assert psutil.Process(process.pid).num_threads() < 60
    for idle in crowd:
        idle.socket.close()
    assert peak(process) - before < 40 * 2**20
    assert spooled(made) == {"2.25.1", "2.25.100"}


def report(transaction: str, instance: str) -> list[bytes]:
    """A storage commitment report (PS3.4 section J.3.3) in PDUs."""
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = (
        "1.2.840.10008.5.1.4.1.1.7",
        instance,
    )
    information = Dataset()
    information.TransactionUID, information.ReferencedSOPSequence = transaction, [reference]
    body = {0x0002: COMMITMENT.encode(), 0x0100: us(0x0100), 0x0110: us(1), 0x0800: us(1)}
    body |= {0x1000: b"1.2.840.10008.1.20.1.1", 0x1002: us(1)}
    return [p_data(5, 3, command(body)), p_data(5, 2, encode(information, True, True) or b"")]


def test_two_listeners_share_a_port_its_instances_and_its_reports(
    site: Callable[..., Any], start: Callable[[Any], LocalProcess]
) -> None:
    made = site(listener={"processes": 2})
    pair, port = [start(made) for _ in range(2)], made.config.listener.port
    with pytest.raises(StartError, match="as many listen on port"):
        start(made)
    role = item(0x54, struct.pack(">H", len(COMMITMENT)) + COMMITMENT.encode() + b"\0\1")
    request = associate([*CONTEXTS, (5, COMMITMENT, (IMPLICIT,))], calling="ORTHANC", more=role)
    peers = [RawPeer(port) for _ in range(16)]
    assert [peer.ask(request) for peer in peers] == [ACCEPTED] * 16
    held = [len(psutil.Process(process.pid).net_connections()) for process in pair]
    assert min(held) > 1, "the kernel gave all sixteen connections to one process"
    for number, peer in enumerate(peers):
        uid = f"2.25.{number + 1}"
        expect_report(made.root, f"2.25.9{number}", "ORTHANC")
        peer.send(*c_store(uid.encode(), data_set(uid.encode())))
        assert peer.status() == 0
        peer.send(*report(f"2.25.9{number}", uid))
        assert peer.status() == 0
        peer.socket.close()
        found = find_report(made.root, f"2.25.9{number}")
        assert found is not None and found.committed[0][1] == uid
    assert spooled(made) == {f"2.25.{number + 1}" for number in range(16)}


def test_one_of_two_killed_loses_nothing_it_acknowledged(
    site: Callable[..., Any], start: Callable[[Any], LocalProcess]
) -> None:
    made = site(listener={"processes": 2})
    pair, port = [start(made) for _ in range(2)], made.config.listener.port
    acknowledged: list[str] = []
    enough = threading.Event()

    def send(share: int) -> None:
        with RawPeer(port) as peer:
            if peer.ask(associate()) != ACCEPTED:
                return
            for number in range(200):
                uid = f"2.25.{share}.{number}"
                peer.send(*c_store(uid.encode(), data_set(uid.encode())))
                if peer.status() != 0:
                    return
                acknowledged.append(uid)
                if len(acknowledged) >= 30:
                    enough.set()

    senders = [threading.Thread(target=send, args=(share,)) for share in range(1, 9)]
    for sender in senders:
        sender.start()
    assert enough.wait(60)
    os.kill(pair[0].pid, signal.SIGKILL)
    for sender in senders:
        sender.join(120)
    assert len(acknowledged) < 8 * 200
    assert set(acknowledged) <= spooled(made)
    with RawPeer(port) as peer:  # the kernel now gives all to the other one
        assert peer.ask(associate()) == ACCEPTED
    again = start(made)
    assert wait_until(lambda: again.running, 5)


def test_a_stranger_on_the_shared_port_is_noticed(
    site: Callable[..., Any], start: Callable[[Any], LocalProcess]
) -> None:
    made = site(listener={"processes": 2})
    with socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        stranger.bind(("127.0.0.1", made.config.listener.port))
        stranger.listen()
        with pytest.raises(StartError, match="is another listener running"):
            start(made)
