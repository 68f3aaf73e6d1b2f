"""Instances per second and peak memory of the listener, of DCMTK's storescp and of Orthanc, with the same files.

    .venv/bin/python bench/listener.py [--instances 100] [--rounds 5] [--associations 1,4] [--servers medpipe,...]

The instances are one drawn CT (512 x 512, 16 bits). Each round starts every server anew on an empty folder, in turn;
`storescu` sends the files over one association, or shares of them over several at once. TCP_NODELAY=1 for all, PDUs of
128 KiB for all, servers on the first half of the CPUs and senders on the rest. Medians over the rounds; memory is the
highest sum of resident sizes of the server's processes. storescp flushes nothing to disk, Orthanc each file; medpipe
each file, its sidecar and their names. `medpipe x 2` is `listener.processes = 2`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "deploy"))

import psutil
import tomli_w
from local_orthanc import LocalOrthanc
from local_process import LocalProcess, free_port

from medpipe.samples import write_study

PDU = 131072
CALLING = "MODALITY"
SERVERS = ("medpipe", "medpipe x 2", "storescp", "Orthanc")


def main() -> None:
    """Prints one Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--instances", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--associations", default="1,4")
    parser.add_argument("--servers", default=",".join(SERVERS))
    options = parser.parse_args()
    os.environ["TCP_NODELAY"] = "1"
    counts = [int(number) for number in options.associations.split(",")]
    servers = options.servers.split(",")
    rates: dict[tuple[str, int], list[float]] = {(name, n): [] for name in servers for n in counts}
    peaks: dict[tuple[str, int], list[float]] = {(name, n): [] for name in servers for n in counts}
    with tempfile.TemporaryDirectory(prefix="medpipe-bench-") as name:
        folder = Path(name)
        files = list(write_study("ct", folder / "ct", shape=(options.instances, 512, 512)).files)
        for turn in range(options.rounds):
            for count in counts:
                for server in servers[turn % len(servers) :] + servers[: turn % len(servers)]:
                    rate, peak = measure(server, files, count, folder / "server")
                    rates[server, count].append(rate)
                    peaks[server, count].append(peak)
                    print(f"round {turn + 1}: {server}, {count}: {rate:.0f}/s", file=sys.stderr)
    print(f"| server | {' | '.join(f'{n} assoc.: instances/s | memory' for n in counts)} |")
    print(f"| --- |{' ---: | ---: |' * len(counts)}")
    for server in servers:
        cells = [
            f"{statistics.median(rates[server, n]):.0f} ({min(rates[server, n]):.0f}-{max(rates[server, n]):.0f})"
            f" | {statistics.median(peaks[server, n]):.0f} MB"
            for n in counts
        ]
        print(f"| {server} | {' | '.join(cells)} |")


def measure(server: str, files: list[Path], associations: int, folder: Path) -> tuple[float, float]:
    """Instances per second and peak memory (MB) of one server, started for this and removed again."""
    folder.mkdir()
    cpus = sorted(os.sched_getaffinity(0))
    half = max(1, len(cpus) // 2)
    try:
        os.sched_setaffinity(0, cpus[:half])  # what is started now inherits it
        port, title, pids, stop, stored = START[server.split(" ")[0]](folder, server)
        os.sched_setaffinity(0, cpus[half:] or cpus)
        memory = Memory(pids)
        memory.start()
        seconds = send(files, associations, port, title)
        peak = memory.stop()
        assert stored() == len(files), f"{server}: {stored()} of {len(files)} instances stored"
        stop()
    finally:
        os.sched_setaffinity(0, cpus)
        shutil.rmtree(folder)
    return len(files) / seconds, peak


def send(files: list[Path], associations: int, port: int, title: str) -> float:
    """Seconds from the first sender's start to the last one's end."""
    began = time.perf_counter()
    senders = [
        subprocess.Popen(
            ["storescu", "-aet", CALLING, "-aec", title, "127.0.0.1", str(port)]
            + [str(path) for path in files[share::associations]]
        )
        for share in range(associations)
    ]
    codes = [sender.wait() for sender in senders]
    seconds = time.perf_counter() - began
    assert not any(codes), f"storescu ended with {codes}"
    return seconds


class Memory(threading.Thread):
    """Highest sum of resident sizes over processes and their children."""

    def __init__(self, pids: list[int]) -> None:
        super().__init__(daemon=True)
        self._roots, self._over, self._peak = [psutil.Process(pid) for pid in pids], threading.Event(), 0

    def run(self) -> None:
        while not self._over.wait(0.02):
            total = 0
            for process in [p for root in self._roots for p in (root, *root.children(recursive=True))]:
                try:
                    total += process.memory_info().rss
                except psutil.Error:
                    continue
            self._peak = max(self._peak, total)

    def stop(self) -> float:
        self._over.set()
        self.join()
        return self._peak / 1e6


Started = tuple[int, str, list[int], Callable[[], object], Callable[[], int]]
"""Port, AE title, process ids, how to stop it, how many instances it holds."""


def start_medpipe(folder: Path, server: str) -> Started:
    port, root = free_port(), folder / "root"
    processes = int(server.partition(" x ")[2] or 1)
    settings = {
        "site": {"root": str(root), "minimum_free": "100 MB"},
        "listener": {"port": port, "processes": processes},
    }
    (folder / "medpipe.toml").write_text(tomli_w.dumps(settings))
    command = [sys.executable, "-m", "medpipe.cli", "--config", folder / "medpipe.toml", "listen"]
    listeners = [LocalProcess("listen", command, folder / f"listen-{n}.log") for n in range(processes)]
    for listener in listeners:
        listener.start()
    for listener in listeners:
        listener.wait_ready(lambda log=listener.tail: "listening " in log(), 60)

    def stop() -> None:
        for listener in listeners:
            listener.stop()

    def stored() -> int:
        return len(list((root / "spool" / "arrivals").glob("*.json")))

    return port, "MEDPIPE", [listener.pid for listener in listeners], stop, stored


def start_storescp(folder: Path, server: str) -> Started:
    port, out = free_port(), folder / "out"
    out.mkdir()
    command = ["storescp", "--fork", "+xa", "-pdu", str(PDU), "-od", str(out), "-aet", "STORESCP", str(port)]
    process = LocalProcess("storescp", command, folder / "storescp.log")
    process.start()
    process.wait_ready(lambda: echoes(port, "STORESCP"), 20)
    return port, "STORESCP", [process.pid], process.stop, lambda: len(list(out.iterdir()))


def start_orthanc(folder: Path, server: str) -> Started:
    sender = {"AET": CALLING, "Host": "127.0.0.1", "Port": 104, "AllowStore": True}
    orthanc = LocalOrthanc(
        folder, modalities={"sender": sender}, settings={"MaximumPduLength": PDU, "DicomThreadsCount": 4}
    )
    orthanc.start()
    assert orthanc.process is not None

    def stored() -> int:
        return int(orthanc.get("/statistics")["CountInstances"])

    return orthanc.dicom_port, orthanc.ae_title, [orthanc.process.pid], orthanc.stop, stored


def echoes(port: int, title: str) -> bool:
    command = ["echoscu", "-aec", title, "127.0.0.1", str(port)]
    return subprocess.run(command, capture_output=True).returncode == 0


START: dict[str, Callable[[Path, str], Started]] = {
    "medpipe": start_medpipe,
    "storescp": start_storescp,
    "Orthanc": start_orthanc,
}


if __name__ == "__main__":
    main()
