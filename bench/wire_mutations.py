"""Mutations of recorded sessions against a real listener: each must leave it serving, and nothing behind.

    .venv/bin/python bench/wire_mutations.py [--mutations 10000] [--seed 0]

The listener is a process of its own. Recorded sessions (echo, store in one and in many PDUs, a commitment report) are
broken by a seeded random choice of bit flips, cut ends, wrong lengths, and PDUs left out, doubled, swapped or put in
from another session. After every hundred the listener is asked to serve; at the end its threads, open files, left-over
files and memory are compared with those after the first hundred. Prints one Markdown table.
"""

from __future__ import annotations

import argparse
import collections
import random
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "deploy"))

import psutil
import tomli_w
from local_process import LocalProcess, free_port, wait_until
from raw_peer import (
    ACCEPTED,
    COMMITMENT,
    CONTEXTS,
    EXPLICIT,
    IMPLICIT,
    RELEASE,
    RELEASED,
    SECONDARY_CAPTURE,
    RawPeer,
    associate,
    c_echo,
    c_store,
    command,
    data_set,
    element,
    p_data,
    us,
)

Session = list[bytes]
PAUSE_SECONDS = 0.3
"""How long a mutated session is given to be answered before its peer hangs up."""


def sessions() -> list[Session]:
    """What a modality and an archive send us, PDU by PDU."""
    large = c_store(b"2.25.200", data_set(b"2.25.200", pixels=bytes(40_000)))
    report = {0x0002: COMMITMENT.encode(), 0x0100: us(0x0100), 0x0110: us(1), 0x0800: us(1)}
    report |= {0x1000: b"1.2.840.10008.1.20.1.1", 0x1002: us(1)}
    information = element(0x0008, 0x1195, b"2.25.300")
    contexts = [*CONTEXTS, (5, COMMITMENT, (IMPLICIT,))]
    return [
        [associate(), c_echo(), RELEASE],
        [associate([(3, SECONDARY_CAPTURE, (EXPLICIT,))]), *c_store(b"2.25.100", data_set()), RELEASE],
        [associate(), *large, c_echo(2), RELEASE],
        [associate(contexts), p_data(5, 3, command(report)), p_data(5, 2, information), RELEASE],
    ]


def mutated(rng: random.Random, recorded: list[Session]) -> Session:
    """One recorded session with one to four faults."""
    session = list(rng.choice(recorded))
    for _ in range(rng.randint(1, 4)):
        rng.choice(FAULTS)(rng, session, recorded)
    return session


def flip(rng: random.Random, session: Session, recorded: list[Session]) -> None:
    at = rng.randrange(len(session))
    broken = bytearray(session[at])
    for _ in range(rng.randint(1, 8)):
        if broken:
            broken[min(rng.randrange(len(broken)), rng.randrange(len(broken)))] ^= 1 << rng.randrange(8)
    session[at] = bytes(broken)


def cut(rng: random.Random, session: Session, recorded: list[Session]) -> None:
    at = rng.randrange(len(session))
    session[at] = session[at][: rng.randrange(len(session[at]) + 1)]


def misstate_length(rng: random.Random, session: Session, recorded: list[Session]) -> None:
    at = rng.randrange(len(session))
    length = rng.choice((0, 1, 2**31, 2**32 - 1, len(session[at]), rng.randrange(2**18)))
    session[at] = session[at][:2] + length.to_bytes(4, "big") + session[at][6:]


def misstate_inner_length(rng: random.Random, session: Session, recorded: list[Session]) -> None:
    at = rng.randrange(len(session))
    if len(session[at]) > 12:
        place = rng.randrange(6, len(session[at]) - 4)
        session[at] = session[at][:place] + rng.randbytes(rng.randint(1, 4)) + session[at][place + 4 :]


def leave_out(rng: random.Random, session: Session, recorded: list[Session]) -> None:
    if len(session) > 1:
        del session[rng.randrange(len(session))]


def double(rng: random.Random, session: Session, recorded: list[Session]) -> None:
    at = rng.randrange(len(session))
    session.insert(at, session[at])


def swap(rng: random.Random, session: Session, recorded: list[Session]) -> None:
    one, other = rng.randrange(len(session)), rng.randrange(len(session))
    session[one], session[other] = session[other], session[one]


def put_in(rng: random.Random, session: Session, recorded: list[Session]) -> None:
    session.insert(rng.randrange(len(session) + 1), rng.choice(rng.choice(recorded)))


def retype(rng: random.Random, session: Session, recorded: list[Session]) -> None:
    at = rng.randrange(len(session))
    session[at] = bytes((rng.randrange(10),)) + session[at][1:]


FAULTS = (flip, flip, cut, misstate_length, misstate_inner_length, leave_out, double, swap, put_in, retype)


def play(port: int, session: Session, rng: random.Random) -> str:
    """Sends a session as fast as it goes, and hangs up in one of several ways; how the listener ended it, if it did."""
    with RawPeer(port, seconds=PAUSE_SECONDS) as peer:
        kind, last = -1, "silence"
        try:
            peer.send(*session)
            while kind != 0:
                kind = peer.answer()[0]
                last = {
                    0: last,
                    2: "accepted",
                    3: "rejected",
                    4: "answered",
                    6: "released",
                    7: "aborted",
                }.get(kind, "other")
        except TimeoutError:
            last = f"{last}, then left waiting"
        if rng.random() < 0.3:
            peer.reset()
        return last


def serves(port: int) -> bool:
    """Whether an ordinary peer is answered."""
    with RawPeer(port, seconds=20) as peer:
        accepted = peer.ask(associate()) == ACCEPTED
        peer.send(c_echo())
        return accepted and peer.status() == 0 and peer.ask(RELEASE) == RELEASED


def main() -> None:
    """Plays all mutations against one listener process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mutations", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="medpipe-wire-") as name:
        folder = Path(name)
        port = free_port()
        settings = {
            "site": {"root": str(folder / "root"), "minimum_free": "100 MB"},
            "listener": {"port": port, "pdu_seconds": 2, "network_timeout": 2},
        }
        (folder / "medpipe.toml").write_text(tomli_w.dumps(settings))
        command_line = [sys.executable, "-m", "medpipe.cli", "--config", folder / "medpipe.toml", "listen"]
        listener = LocalProcess("listen", command_line, folder / "listen.log")
        listener.start()
        listener.wait_ready(lambda: "listening" in listener.tail(), 60)
        process, incoming = psutil.Process(listener.pid), folder / "root" / "spool" / "incoming"
        recorded, ends = sessions(), collections.Counter[str]()
        before = (0, 0, 0)
        began = time.monotonic()
        for number in range(options.mutations):
            ends[play(port, mutated(rng, recorded), rng)] += 1
            if number % 100 == 99:
                assert listener.running and serves(port), f"it does not serve after mutation {number}"
                print(f"{number + 1}: {dict(ends)}", file=sys.stderr)
            if number == 99:
                before = rested(process, incoming)
        seconds = time.monotonic() - began
        after = rested(process, incoming)
        tracebacks = listener.log.read_text(errors="replace").count("Traceback")
        left = len(list(incoming.iterdir()))
        listener.stop()
    print("| mutations | seed | seconds | threads | open files | memory | left-over files | tracebacks |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    changes = " | ".join(f"{b} -> {a}" for b, a in zip(before[:2], after[:2], strict=True))
    memory = f"{before[2] / 2**20:.0f} -> {after[2] / 2**20:.0f} MiB"
    print(
        f"| {options.mutations} | {options.seed} | {seconds:.0f} | {changes} | {memory} | {left} | {tracebacks} |"
    )
    print("\n" + ", ".join(f"{end}: {count}" for end, count in ends.most_common()))
    if after[0] > before[0] or after[1] > before[1] or left or tracebacks:
        sys.exit("the listener kept something")


def rested(process: psutil.Process, incoming: Path) -> tuple[int, int, int]:
    """Threads, file descriptors and resident memory once every connection has ended."""
    alone = 1  # the socket that listens
    wait_until(lambda: len(process.net_connections()) == alone and not list(incoming.iterdir()), 30)
    time.sleep(0.5)  # a thread ends after its connection
    return process.num_threads(), process.num_fds(), process.memory_info().rss


if __name__ == "__main__":
    main()
