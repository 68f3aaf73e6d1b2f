"""A listener in this process, and peers made of bytes."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from local_process import free_port, wait_until
from raw_peer import ACCEPTED, RELEASE, RELEASED, RawPeer, associate, c_echo

from medpipe.config import parse_config
from workers.listener import Listener
from workers.reactor import AcceptedAssociation


class Listening:
    """A running listener under test."""

    def __init__(self, listener: Listener, root: Path) -> None:
        self.listener, self.root = listener, root

    @property
    def port(self) -> int:
        return self.listener.port

    def peer(self, **options: Any) -> RawPeer:
        return RawPeer(self.port, **options)

    def serves(self, address: str = "127.0.0.1") -> bool:
        """Whether an ordinary peer is answered."""
        with self.peer(address=address) as peer:
            answers = peer.ask(associate()) == ACCEPTED
            peer.send(c_echo())
            answers &= peer.status() == 0
            return answers and peer.ask(RELEASE) == RELEASED

    def sidecars(self) -> list[dict[str, Any]]:
        paths = sorted((self.root / "spool" / "instances").glob("??/*.json"))
        return [json.loads(path.read_text()) for path in paths]

    def bytes_of(self, sidecar: dict[str, Any]) -> bytes:
        name = sidecar["file"]
        return (self.root / "spool" / "instances" / name[:2] / f"{name}.dcm").read_bytes()

    def left_over(self) -> list[Path]:
        return list((self.root / "spool" / "incoming").iterdir())

    def connections(self) -> int:
        assert self.listener._acceptor is not None
        return len(self.listener._acceptor.door)

    def is_quiet(self) -> bool:
        """Whether every connection has ended, with its thread and its file."""
        return wait_until(lambda: not self.connections() and not threads() and not self.left_over(), 20)


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if isinstance(thread, AcceptedAssociation)]


def started(root: Path, settings: dict[str, Any]) -> Listening:
    config = parse_config(
        {
            "site": {"root": str(root), "minimum_free": "1 MB"},
            "listener": {"port": free_port(), "calling": ["MODALITY", "ORTHANC"], **settings},
        }
    )
    return Listening(Listener(config).__enter__(), root)


@pytest.fixture
def listen(tmp_path: Path) -> Iterator[Callable[..., Listening]]:
    """`listen(pdu_seconds=1)` starts a listener with these settings."""
    running: list[Listening] = []

    def start(**settings: Any) -> Listening:
        running.append(started(tmp_path / f"root-{len(running)}", settings))
        return running[-1]

    yield start
    for listening in running:
        listening.listener.__exit__()
    assert wait_until(lambda: not threads(), 20)


@pytest.fixture(scope="package")
def listener_of_all(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listening]:
    listening = started(tmp_path_factory.mktemp("wire") / "root", {})
    yield listening
    listening.listener.__exit__()


@pytest.fixture
def listening(listener_of_all: Listening) -> Listening:
    """One listener for all, its spool empty."""
    for path in (listener_of_all.root / "spool").rglob("*.*"):
        if path.is_file():
            path.unlink()
    return listener_of_all
