"""No answer of a peer is lost to pynetdicom's own thread."""

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from pynetdicom.association import Association
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from medpipe.config import Peer
from medpipe.pacs.gate import Gate
from medpipe.pacs.network import association, build_context


def test_nothing_passes_once_it_is_closed() -> None:
    passed, stop = 0, threading.Event()

    def pass_through() -> None:
        nonlocal passed
        while not stop.is_set():
            gate.wait()
            time.sleep(0.005)
            passed += 1

    thread = threading.Thread(target=pass_through)
    gate = Gate(thread)
    thread.start()
    try:
        for _ in range(5):
            gate.clear()
            before = passed
            time.sleep(0.02)
            assert passed == before and not gate.is_set()
            gate.set()
            time.sleep(0.02)
            assert passed > before and gate.is_set()
    finally:
        stop.set()
        gate.set()
        thread.join()
    gate.clear()  # whose thread has ended: nobody to wait for


def test_the_thread_itself_may_close_it() -> None:
    closed = threading.Event()
    thread = threading.Thread(target=lambda: (gate.clear(), closed.set()))
    gate = Gate(thread)
    thread.start()
    assert closed.wait(5)
    thread.join()


def test_answers_come_to_who_asked(start_peer: Callable[..., Peer], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where pynetdicom's thread is slow to say that it goes on, it took the answer itself: no answer in time."""

    def tell(assoc: Any, paused: bool) -> None:
        if not paused and assoc.is_requestor:
            time.sleep(0.02)
        assoc.__dict__["paused"] = paused

    slow = property(lambda assoc: assoc.__dict__["paused"], tell)
    monkeypatch.setattr(Association, "_is_paused", slow, raising=False)
    with association(start_peer([Verification]), "MEDPIPE", [build_context(Verification)]) as assoc:
        for _ in range(20):
            time.sleep(0.003)
            assert assoc.send_c_echo().get("Status") == 0
