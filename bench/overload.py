"""Ten times more studies than the workers can do, until the disk is full: what the door, the queue and STAT make of it.

    .venv/bin/python bench/overload.py [--machines 4] [--step 4] [--times 10] [--seconds 60] [--room 300] [--more 12]

The listener is the one that ships, on PostgreSQL; the workers are too, only their inference child sleeps --step seconds
(deploy/simulated_machines.py). Studies of one photograph (512 x 512, 0.8 MB) come at a steady rate over associations
that stay open, one in twenty from AE EMERGENCY, whose rule is STAT: first as many as the workers can do, then --times
as many. What is refused is sent again 5 s later, as an archive does. `site.root` lies on a disk of its own (a loop
mount: the bench runs as root) with --room MB above `site.minimum_free`. 15 s after the first refusal somebody makes
room, and --more machines are started. Prints one row each 10 s, then what has become of everything.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import os
import queue
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "deploy"))

import psutil
import psycopg
import pydicom
import tomli_w
from local_postgres import LocalPostgres
from local_process import LocalProcess, free_port
from pynetdicom import AE
from server_load import Site

from medpipe.config import load_config
from medpipe.identity import uid_from
from medpipe.review.metrics import Metrics
from medpipe.samples import write_study
from workers.registry import Registry
from workers.work import prepare

HERE = Path(__file__).parents[1]
MINIMUM_FREE_MB = 50
AGAIN_SECONDS = 5.0
LOOK_SECONDS = 10.0
SENDERS = 6
BROKEN_OFF = 0xFFFF
"""Noted where the association ended before an answer came."""
QUEUED, SENT = 'jobs{state="queued"}', 'jobs{state="sent"}'


def main() -> None:
    """Prints two Markdown tables; fails when something that was acknowledged is not done, or done twice."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--machines", type=int, default=4)
    parser.add_argument("--step", type=float, default=4.0)
    parser.add_argument("--times", type=float, default=10)
    parser.add_argument(
        "--seconds", type=float, default=60, help="of the overload; a third of it before, at capacity"
    )
    parser.add_argument("--room", type=int, default=300, help="MB until the disk counts as full")
    parser.add_argument("--more", type=int, default=12, help="machines that are added in the end")
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("bench/overload.py mounts a disk of its own that can be full: run it as root")
    server = LocalPostgres({"max_connections": "300"})
    with tempfile.TemporaryDirectory(prefix="medpipe-overload-") as name:
        try:
            with disk(Path(name), MINIMUM_FREE_MB + 2 * options.room) as root:
                Overload(Path(name), root, server.create().start(), options).run()
        finally:
            server.remove()


@contextlib.contextmanager
def disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A file system of its own of this size."""
    image, root = folder / "disk.img", folder / "disk"
    with image.open("wb") as file:
        file.truncate(megabytes * 1_150_000)  # ext4 keeps some for itself
    root.mkdir()
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", "-F", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, root], check=True)
    try:
        yield root
    finally:
        subprocess.run(["umount", "--lazy", root], check=True)


@dataclass
class Door:
    """What the senders have seen: seconds of each C-STORE, and the answers; guarded by `lock`."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    seconds: list[float] = field(default_factory=list)
    answers: Counter[int] = field(default_factory=Counter)
    refused_at: float | None = None
    stored_at: float | None = None
    """When the first instance was refused, and the last one stored."""


class Senders:
    """Associations that stay open; each takes the study that is due."""

    def __init__(self, port: int, drawn: Path) -> None:
        self.door, self._port, self._drawn = Door(), port, pydicom.dcmread(drawn)
        if self._drawn.file_meta.TransferSyntaxUID.is_compressed:
            self._drawn.decompress(generate_instance_uid=False)
        self._due: queue.PriorityQueue[tuple[float, int]] = queue.PriorityQueue()
        self._over = threading.Event()
        self.sent = 0
        self._urgent: queue.PriorityQueue[tuple[float, int]] = queue.PriorityQueue()
        self._threads = [threading.Thread(target=self._run, args=(n == 0,)) for n in range(SENDERS)]
        for thread in self._threads:
            thread.start()

    def at(self, rate: float, seconds: float) -> None:
        """Studies at a steady rate, whatever the door says."""
        began = time.monotonic()
        for number in range(int(rate * seconds)):
            time.sleep(max(0.0, began + number / rate - time.monotonic()))
            self.sent += 1
            (self._urgent if is_urgent(self.sent) else self._due).put((time.monotonic(), self.sent))

    @property
    def left(self) -> int:
        """Studies that the door has not taken yet."""
        return self.sent - self.door.answers[0x0000]

    def end(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _run(self, urgent: bool) -> None:
        ae = AE("EMERGENCY" if urgent else "MODALITY")
        ae.add_requested_context(self._drawn.SOPClassUID, self._drawn.file_meta.TransferSyntaxUID)
        association = ae.associate("127.0.0.1", self._port, ae_title="MEDPIPE")
        due = self._urgent if urgent else self._due
        dataset = copy.deepcopy(self._drawn)
        while not self._over.is_set():
            try:
                at, number = due.get(timeout=0.5)
            except queue.Empty:
                continue
            time.sleep(max(0.0, at - time.monotonic()))
            rename(dataset, number)
            began = time.monotonic()
            said = association.send_c_store(dataset)
            answer = int(said.Status) if "Status" in said else BROKEN_OFF
            self._note(time.monotonic() - began, answer)
            if answer == BROKEN_OFF:
                association = ae.associate("127.0.0.1", self._port, ae_title="MEDPIPE")
            if answer:
                due.put((time.monotonic() + AGAIN_SECONDS, number))
        association.release()

    def _note(self, seconds: float, answer: int) -> None:
        with self.door.lock:
            self.door.seconds.append(seconds)
            self.door.answers[answer] += 1
            if answer and self.door.refused_at is None:
                self.door.refused_at = time.monotonic()
            if not answer:
                self.door.stored_at = time.monotonic()


def is_urgent(number: int) -> bool:
    return number % 20 == 0


def rename(dataset: pydicom.Dataset, number: int) -> None:
    """Makes the picture a study of its own."""
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        setattr(dataset, keyword, uid_from("2.25", "overload", keyword, str(number)))
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID


class Overload:
    """One site with its listener and its machines."""

    def __init__(self, folder: Path, disk: Path, server: LocalPostgres, options: argparse.Namespace) -> None:
        self.folder, self.disk, self.server, self.options = folder, disk, server, options
        self.database, self.port = server.new_database(), free_port()
        rules = [
            {"name": "emergency", "when": {"CallingAE": "EMERGENCY"}, "priority": "stat"},
            {"name": "photographs", "when": {"Modality": "OP"}},
        ]
        settings = {
            "site": {
                "root": str(disk / "root"),
                "minimum_free": f"{MINIMUM_FREE_MB} MB",
                "database": server.url(self.database),
            },
            "listener": {"port": self.port, "settle_seconds": 1},
            "rules": [{**rule, "bundle": "phantom-2d", "send": []} for rule in rules],
        }
        self.config_file, self.sleep = folder / "medpipe.toml", folder / "sleep"
        self.config_file.write_text(tomli_w.dumps(settings))
        self.sleep.write_text(str(options.step))
        self.config = load_config(self.config_file)
        prepare(self.config)
        self.ballast = disk / "ballast"
        free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
        with self.ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, free - (MINIMUM_FREE_MB + options.room) * 10**6)
        self.registry = Registry(self.config.site.database_url)
        self.metrics = Metrics(self.config, self.registry, fresh_seconds=0)
        command = [sys.executable, "-m", "medpipe.cli", "--config", self.config_file, "listen"]
        self.listener = LocalProcess("listen", command, folder / "listen.log")

    def machines(self, first: int, count: int) -> LocalProcess:
        command = [sys.executable, HERE / "deploy" / "simulated_machines.py", self.config_file]
        command += ["--scratch", self.folder / "scratch", "--sleep", self.sleep]
        command += ["--first", str(first), "--count", str(count)]
        return LocalProcess(f"machines-{first}", command, self.folder / f"machines-{first}.log")

    def run(self) -> None:
        options = self.options
        few, more = self.machines(0, options.machines), self.machines(options.machines, options.more)
        drawn = write_study("fundus", self.folder / "drawn", seed=1, width=512, height=512).files[0]
        senders: Senders | None = None
        with psycopg.connect(self.server.conninfo(self.database), autocommit=True) as connection:
            site = Site(connection, self.server, few, options.machines)
            try:
                self.listener.start()
                self.listener.wait_ready(lambda: "listening" in self.listener.tail(), 120)
                few.start()
                site.wait_for("SELECT count(*) FROM executor", options.machines, 120)
                senders = Senders(self.port, drawn)
                self.follow(site, senders, more)
                self.judge(site, senders)
            finally:
                if senders is not None:
                    senders.end()
                for process in (self.listener, few, more):
                    process.stop(30)
                self.registry.close()

    def follow(self, site: Site, senders: Senders, more: LocalProcess) -> None:
        """The course of it, one row each LOOK_SECONDS, until everything has ended."""
        capacity = self.options.machines / self.options.step
        arrivals = threading.Thread(target=self.arrive, args=(senders, capacity))
        print(
            "| second | phase | offered | taken | refused | door p50 / p95 / max"
            " | listener | waiting | queue age | free |"
        )
        print("| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
        self.began, self.phase, self.helped_at = time.monotonic(), "at capacity", 0.0
        arrivals.start()
        seen = Counter[int](), 0
        for look in range(1, 90):
            while time.monotonic() < self.began + look * LOOK_SECONDS:
                refused_at = senders.door.refused_at
                if not self.helped_at and refused_at and time.monotonic() > refused_at + 15:
                    self.ballast.unlink()
                    more.start()
                    self.helped_at, self.phase = time.monotonic(), "room, more workers"
                time.sleep(0.25)
            seen = self.row(senders, *seen)
            if not arrivals.is_alive() and not senders.left and self.figure(SENT) == senders.sent:
                break
        self.ended = time.monotonic()
        arrivals.join()

    def arrive(self, senders: Senders, capacity: float) -> None:
        senders.at(capacity, self.options.seconds / 3)
        self.phase = f"{self.options.times:g} x capacity"
        senders.at(capacity * self.options.times, self.options.seconds)

    def row(self, senders: Senders, answers: Counter[int], sent: int) -> tuple[Counter[int], int]:
        with senders.door.lock:
            now, taken_now = Counter(senders.door.answers), senders.sent
            times = sorted(senders.door.seconds)
            senders.door.seconds.clear()
        new = now - answers
        at = (
            [times[min(len(times) - 1, int(len(times) * share))] for share in (0.5, 0.95, 1.0)]
            if times
            else []
        )
        cells = [
            f"{time.monotonic() - self.began:.0f}",
            self.phase,
            taken_now - sent,
            new[0x0000],
            ", ".join(f"{count} x {status:04X}H" for status, count in sorted(new.items()) if status) or "-",
            " / ".join(f"{1000 * value:.0f}" for value in at) + " ms" if at else "-",
            f"{psutil.Process(self.listener.pid).memory_info().rss / 1e6:.0f} MB",
            f"{self.figure(QUEUED):.0f}",
            f"{self.figure('queue_age_seconds'):.0f} s",
            f"{self.figure('disk_free_bytes') / 1e6:.0f} MB",
        ]
        print(f"| {' | '.join(map(str, cells))} |", flush=True)
        return now, taken_now

    def figure(self, name: str) -> float:
        """One figure of /metrics."""
        found = re.search(rf"^medpipe_{re.escape(name)} (\S+)$", self.metrics.text(), re.MULTILINE)
        assert found is not None, name
        return float(found[1])

    def judge(self, site: Site, senders: Senders) -> None:
        """What has become of everything."""
        uids = {
            n: str(uid_from("2.25", "overload", "StudyInstanceUID", str(n)))
            for n in range(1, senders.sent + 1)
        }
        print("\n| what | value |")
        print("| --- | ---: |")
        for what, wanted in (("STAT", True), ("routine", False)):
            chosen = [uid for number, uid in uids.items() if is_urgent(number) == wanted]
            print(f"| {what}: received to claimed, p50 / p95 / max | {site.latency(chosen, 'received')} |")
        if self.helped_at and senders.door.stored_at:
            taken = max(0.0, senders.door.stored_at - self.helped_at)
            print(f"| last study taken after room was made | {taken:.0f} s |")
            print(f"| all ended after room and workers came | {self.ended - self.helped_at:.0f} s |")
        sent, twice = site.ended()
        print(f"| offered / ended / published more than once | {senders.sent} / {sent} / {twice} |")
        if sent != senders.sent or twice:
            sys.exit("a study was lost, or ended twice")


if __name__ == "__main__":
    main()
