"""A few hundred broken sessions (bench/wire_mutations.py plays ten thousand): none stops or litters the listener."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import wire_mutations


def test_three_hundred_broken_sessions_leave_nothing(
    listen: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "pynetdicom")
    listening = listen(pdu_seconds=1, network_timeout=1)
    recorded = wire_mutations.sessions()
    assert wire_mutations.play(listening.port, recorded[1], random.Random(0)) == "released"
    open_files = len(list(Path("/proc/self/fd").iterdir()))

    def play(seed: int) -> str:
        rng = random.Random(seed)
        return wire_mutations.play(listening.port, wire_mutations.mutated(rng, recorded), rng)

    with ThreadPoolExecutor(8) as pool:
        ends = list(pool.map(play, range(300)))
    assert {"aborted", "released"} < set(ends)
    assert listening.is_quiet() and listening.serves() and listening.is_quiet()
    assert len(list(Path("/proc/self/fd").iterdir())) <= open_files
    assert not [record for record in caplog.records if record.exc_info and record.name.startswith("workers")]
