"""10,000 queued studies and 50 simulated workers on PostgreSQL: rates, order, latency, connections, idle load.

    .venv/bin/python bench/scale.py [--studies 10000] [--machines 50] [--step 0.5] [--kills 3] [--watch 20]

The studies are received into a spool, registered, settled and queued by the code that the line uses; the headers of the
first --read are read as the steward reads them, of the others the plan is made from the registry. The workers are the
ones that ship, each with a host name, boot, scratch and process of its own; only their inference child sleeps
(deploy/simulated_machines.py). One study in twenty is STAT. All share this machine's cores with the database, which
does not sync to disk: the rate is that of the cores, and the CPU time per study is what scales.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "deploy"))

import psycopg
import pydicom
import tomli_w
from local_postgres import LocalPostgres
from local_process import LocalProcess
from server_load import Meter, Site

from medpipe.bundle import find_bundle
from medpipe.config import load_config
from medpipe.identity import uid_from
from medpipe.samples import write_study
from workers.queue import JobQueue
from workers.registry import ROUTINE, STAT, JobPlan, Registry, StudyRow, content_digest
from workers.settle import Steward, register_arrivals
from workers.spool import Arrival, Spool
from workers.work import prepare

BUNDLE = "phantom-2d"
LONG = 600.0
"""Seconds of a step that is not meant to end while the load of busy workers is measured."""

ENDED = "SELECT count(*) FROM job WHERE state = 'sent'"
RUNNING = """SELECT j.id, e.pid, j.attempts FROM job j
    JOIN dbos.workflow_status w ON w.workflow_uuid = 'job:' || j.id || ':g1:a1' AND w.status = 'PENDING'
    JOIN executor e ON e.executor_id = w.executor_id
    WHERE j.state = 'running' ORDER BY j.updated_at DESC LIMIT 1"""
"""The study that was begun last: its job, its worker, its attempts."""


def main() -> None:
    """Prints Markdown tables; fails when a study was lost, ended twice or overtaken by one that may not."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=10_000)
    parser.add_argument("--machines", type=int, default=50)
    parser.add_argument("--step", type=float, default=0.5, help="seconds that a child sleeps")
    parser.add_argument("--end-after", type=int, default=0, help="drain only so many (0: all)")
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--read", type=int, default=200)
    parser.add_argument("--watch", type=float, default=20, help="seconds for which each load is watched")
    parser.add_argument("--singles", type=int, default=40, help="studies that come one by one")
    options = parser.parse_args()
    server = LocalPostgres({"max_connections": "600", "shared_preload_libraries": "pg_stat_statements"})
    with tempfile.TemporaryDirectory(prefix="medpipe-scale-") as name:
        try:
            bench = Bench(Path(name), server.create().start(), options)
            bench.fill()
            bench.work()
        finally:
            server.remove()


class Bench:
    """One site: its database, its spool, its machines."""

    def __init__(self, folder: Path, server: LocalPostgres, options: argparse.Namespace) -> None:
        self.folder, self.server, self.options = folder, server, options
        self.database = server.new_database()
        self.sleep = folder / "sleep"
        settings = {
            "site": {
                "root": str(folder / "root"),
                "minimum_free": "100 MB",
                "database": server.url(self.database),
            },
            "rules": [
                {
                    "name": "emergency",
                    "when": {"CallingAE": "EMERGENCY"},
                    "bundle": BUNDLE,
                    "priority": "stat",
                    "send": [],
                },
                {"name": "photographs", "when": {"Modality": "OP"}, "bundle": BUNDLE, "send": []},
            ],
            "listener": {"settle_seconds": 0},
        }
        self.config_file = folder / "medpipe.toml"
        self.config_file.write_text(tomli_w.dumps(settings))
        self.config = load_config(self.config_file)
        prepare(self.config)
        self.spool, self.registry = Spool(self.config.site.root), Registry(self.config.site.database_url)
        self.queue = JobQueue(self.config.site.database_url)
        self.bundle = find_bundle(BUNDLE)
        self.taken_over: list[float] = []
        self.urgent: list[str] = []
        self.rate = 0.0
        drawn = write_study("fundus", folder / "drawn", seed=1, width=256, height=192).files[0]
        self.drawn = pydicom.dcmread(drawn)

    # --- the queue is filled -----------------------------------------------------------------------------------

    def fill(self) -> None:
        """Brings all studies into the spool, the registry and onto the queue; prints the rates."""
        count = self.options.studies
        began = time.perf_counter()
        for number in range(count):
            self.receive(number, "EMERGENCY" if number % 20 == 10 else "MODALITY")
        received = time.perf_counter()
        register_arrivals(self.spool, self.registry)
        registered = time.perf_counter()
        studies = self.registry.unsettled()
        asked = time.perf_counter()
        with Steward(self.config, self.spool, self.registry, self.queue.enqueue, ask_peers=False) as steward:
            steward.settle(studies[0])  # starts the reader
            first = time.perf_counter()
            for study in studies[1 : self.options.read]:
                steward.settle(study)
            read = time.perf_counter()
        for study in studies[self.options.read :]:
            self.settle(study)
        settled = time.perf_counter()
        print("| step | studies/s |")
        print("| --- | ---: |")
        print(f"| received into the spool | {count / (received - began):.0f} |")
        print(f"| registered | {count / (registered - received):.0f} |")
        print(f"| settled and queued, headers read | {(self.options.read - 1) / (read - first):.0f} |")
        print(
            f"| settled and queued, from the registry | {(count - self.options.read) / (settled - read):.0f} |"
        )
        print(f"\nAll that is unsettled, asked for once: {1000 * (asked - registered):.0f} ms\n", flush=True)

    def receive(self, number: int, calling_ae: str) -> str:
        """One small photograph, a study of its own, through the spool's own door; its UID."""
        dataset = self.drawn
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
            setattr(dataset, keyword, uid_from("2.25", "scale", keyword, str(number)))
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        path = self.spool.incoming / f"{number}.dcm"
        dataset.save_as(path)
        arrival = Arrival(
            dataset.SOPInstanceUID,
            dataset.SOPClassUID,
            dataset.StudyInstanceUID,
            dataset.SeriesInstanceUID,
            dataset.file_meta.TransferSyntaxUID,
            calling_ae,
            "MEDPIPE",
        )
        self.spool.receive(path, arrival, time.time())
        return str(dataset.StudyInstanceUID)

    def settle(self, study: StudyRow) -> None:
        """What the steward does with a study once its headers are read."""
        rows = self.registry.instances_of(study.study_uid)
        priority = STAT if study.calling_aes == ("EMERGENCY",) else ROUTINE
        plan = JobPlan(
            study.study_uid,
            self.bundle.id,
            self.bundle.version,
            self.bundle.hash,
            content_digest((row.sop_instance_uid, row.digest) for row in rows),
            tuple(str(row.file) for row in rows),
            "emergency" if priority == STAT else "photographs",
            priority,
            (),
            study.last_at,
        )
        self.registry.settle(study, [plan], self.queue.enqueue)

    # --- the workers work ---------------------------------------------------------------------------------------

    def work(self) -> None:
        """Busy, draining, idle; then what has become of every study."""
        options = self.options
        self.sleep.write_text(str(LONG))
        command: list[str | Path] = [
            sys.executable,
            Path(__file__).parents[1] / "deploy" / "simulated_machines.py",
        ]
        command += [self.config_file, "--scratch", self.folder / "scratch", "--sleep", self.sleep]
        machines = LocalProcess(
            "machines", [*command, "--count", str(options.machines)], self.folder / "machines.log"
        )
        with psycopg.connect(self.server.conninfo(self.database), autocommit=True) as connection:
            site = Site(connection, self.server, machines, options.machines)
            machines.start()
            try:
                site.wait_for("SELECT count(*) FROM job WHERE state = 'running'", options.machines, 180)
                print(Meter.HEAD)
                meter = Meter(site)
                time.sleep(options.watch)
                print(meter.row(f"busy, {options.studies - options.machines} waiting"), flush=True)
                self.drain(site)
                meter = Meter(site)
                time.sleep(options.watch)
                print(meter.row("idle"), flush=True)
                singles = self.trickle("MODALITY", options.studies + options.singles, 0.5)
                if not options.end_after:
                    site.wait_for(ENDED, options.studies + 2 * options.singles, 60)
                self.judge(site, singles)
            except BaseException:
                print(machines.tail(30), file=sys.stderr)
                raise
            finally:
                machines.stop(60)
                self.queue.close()
                self.registry.close()

    def drain(self, site: Site) -> None:
        """All studies to their end, with STAT ones coming in between and workers killed."""
        options = self.options
        meter, began = Meter(site), time.monotonic()
        self.sleep.write_text(str(options.step))
        with ThreadPoolExecutor(1) as pool:
            coming = pool.submit(self.trickle, "EMERGENCY", options.studies, 1.0)
            total = options.end_after or options.studies + options.singles
            for number in range(options.kills):
                site.wait_for(ENDED, total * (number + 1) // (options.kills + 2), 600)
                self.taken_over.append(self.kill(site))
            self.urgent = coming.result()
        site.wait_for(ENDED, total, 900)
        self.rate = total / (time.monotonic() - began)
        print(meter.row("draining", total), flush=True)

    def kill(self, site: Site) -> float:
        """Kills a machine in the middle of a step; seconds until another one has begun it."""
        while (found := site.connection.execute(RUNNING).fetchone()) is None:
            time.sleep(0.05)
        job, pid, attempts = found
        os.kill(pid, signal.SIGKILL)
        began = time.monotonic()
        site.wait_for(f"SELECT attempts FROM job WHERE id = '{job}'", attempts + 1, 60)
        return time.monotonic() - began

    def trickle(self, calling_ae: str, first: int, pause: float) -> list[str]:
        """Studies that come one by one while the workers are there, whose steward finds them; their UIDs."""
        studies = []
        for number in range(first, first + self.options.singles):
            studies.append(self.receive(number, calling_ae))
            time.sleep(pause)
        return studies

    def judge(self, site: Site, singles: list[str]) -> None:
        """Prints rate, latency and order, and fails where a study was lost or done twice."""
        options = self.options
        print("\n| what | value |")
        print("| --- | ---: |")
        print(
            f"| throughput | {self.rate:.1f}/s; {options.machines / options.step:.0f}/s if only the sleep took time |"
        )
        for what, chosen in (
            ("single study, all workers idle", singles),
            ("STAT behind the queue", self.urgent),
        ):
            print(f"| {what}: received to claimed, p50 / p95 / max | {site.latency(chosen, 'received')} |")
            print(f"| {what}: queued to claimed, p50 / p95 / max | {site.latency(chosen, 'queued')} |")
        print(f"| next claim after a finished study, p50 / p95 / max | {site.gaps()} |")
        print(
            f"| longest overtaking of a queued study by a later one of its priority | {site.overtaken()} places |"
        )
        print(
            f"| routine claimed while STAT of the first {options.studies} waited | {site.routine_before_stat()} |"
        )
        taken = ", ".join(f"{seconds:.1f} s" for seconds in self.taken_over) or "-"
        print(f"| killed machines' studies begun elsewhere after | {taken} |")
        ended, twice = site.ended()
        lost = "-" if options.end_after else options.studies + 2 * options.singles - ended
        print(f"| ended / published more than once / lost | {ended} / {twice} / {lost} |")
        if lost not in ("-", 0) or twice or site.routine_before_stat():
            sys.exit("a study was lost, ended twice, or had to wait for one that is less urgent")


if __name__ == "__main__":
    main()
