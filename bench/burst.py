"""200 one-picture studies at once while a worker is killed three times: every study ends with one SEG in the PACS.

    .venv/bin/python bench/burst.py [--studies 200] [--kills 3] [--database sqlite,postgresql] [--workers 1,2]

SQLite runs with one worker, PostgreSQL with two that share nothing but spool, outbox and database. A killed worker
is started again, as systemd would. Prints one row per database.
"""

from __future__ import annotations

import argparse
import collections
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "deploy"))

import pydicom
import tomli_w
from local_orthanc import LocalOrthanc
from local_postgres import LocalPostgres
from local_process import LocalProcess, free_port

from medpipe.config import load_config
from medpipe.identity import uid_from
from medpipe.samples import write_study
from workers.registry import Registry
from workers.status import status_rows

DRAWINGS = 8
FINAL = {"confirmed", "failed", "quarantined", "ignored", "cancelled"}


def main() -> None:
    """Prints one Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=200)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--database", default="sqlite,postgresql")
    parser.add_argument("--workers", default="1,2")
    parser.add_argument("--minutes", type=float, default=30)
    options = parser.parse_args()
    print(
        "| database | workers | studies | kills | one SEG each | received in | ended in | longest take-over |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    failed = False
    workers = [int(n) for n in options.workers.split(",")]
    for database, count in zip(options.database.split(","), workers, strict=True):
        with tempfile.TemporaryDirectory(prefix="medpipe-burst-") as name:
            failed |= not burst(Path(name), database, count, options)
    if failed:
        sys.exit("not every study ended with one SEG")


def burst(folder: Path, database: str, workers: int, options: argparse.Namespace) -> bool:
    folder.chmod(0o755)
    files = studies(folder / "studies", options.studies)
    orthanc = LocalOrthanc(folder / "orthanc").start()
    server = LocalPostgres().create().start() if database == "postgresql" else None
    url = server.url(server.new_database()) if server is not None else "sqlite"
    config_file = folder / "medpipe.toml"
    config_file.write_text(tomli_w.dumps(settings(folder, orthanc, url)))
    config = load_config(config_file)
    orthanc.add_modality("medpipe", config.listener.ae_title, config.listener.port)
    command = [sys.executable, "-m", "medpipe.cli", "--config", config_file]
    subprocess.run([*command, "init"], check=True, capture_output=True)
    registry = Registry(config.site.database_url)
    listener = LocalProcess("listen", [*command, "listen"], folder / "listen.log")
    pool = [LocalProcess(f"work-{n}", [*command, "work"], folder / f"work-{n}.log") for n in range(workers)]
    try:
        listener.start()
        listener.wait_ready(lambda: "listening" in listener.tail(), 60)
        for worker in pool:
            worker.start()
        began = time.monotonic()
        subprocess.run(
            ["storescu", "-aec", "MEDPIPE", "-xy", "127.0.0.1", str(config.listener.port), *map(str, files)],
            check=True,
            env={**os.environ, "TCP_NODELAY": "1"},
        )
        received = time.monotonic() - began
        takeovers = follow(registry, pool, len(files), options)
        ended = time.monotonic() - began
        rows = status_rows(registry)
        segs = collections.Counter(
            found["MainDicomTags"].get("StudyInstanceUID") or found["ParentStudy"]
            for found in orthanc.find("Series", Modality="SEG")
        )
        per_series = [len(found["Instances"]) for found in orthanc.find("Series", Modality="SEG")]
        good = sum(1 for count in segs.values() if count == 1)
        confirmed = sum(1 for row in rows if row["state"] == "confirmed")
        whole = good == len(files) == confirmed and set(per_series) == {1}
        longest = f"{max(takeovers):.1f} s" if takeovers else "-"
        cells = [
            database,
            workers,
            len(files),
            len(takeovers),
            good,
            f"{received:.1f} s",
            f"{ended:.0f} s",
            longest,
        ]
        print(f"| {' | '.join(map(str, cells))} |", flush=True)
        if not whole:
            for row in rows:
                if row["state"] != "confirmed":
                    print(row["study"], row["state"], row["reason"], file=sys.stderr)
        return whole
    finally:
        registry.close()
        for process in (listener, *pool):
            process.stop()
        orthanc.stop()
        if server is not None:
            server.remove()


def follow(
    registry: Registry, pool: list[LocalProcess], studies: int, options: argparse.Namespace
) -> list[float]:
    """Kills a worker in the middle of a job, again and again; seconds until the job it held was running elsewhere."""
    takeovers: list[float] = []
    deadline = time.monotonic() + 60 * options.minutes
    while time.monotonic() < deadline:
        rows = status_rows(registry)
        done = sum(1 for row in rows if row["state"] in FINAL)
        if len(rows) >= studies and done >= studies:
            break
        running = [row for row in rows if row["state"] == "running"]
        if (
            len(takeovers) < options.kills
            and done >= (len(takeovers) + 1) * studies / (options.kills + 2)
            and running
        ):
            victim = pool[len(takeovers) % len(pool)]
            victim.signal(signal.SIGKILL)
            killed = time.monotonic()
            victim.kill()
            victim.start()
            held = {row["job"]: row["attempts"] for row in running}
            while time.monotonic() - killed < 60:
                now = {row["job"]: row for row in status_rows(registry)}
                if all(now[job]["attempts"] > n or now[job]["state"] != "running" for job, n in held.items()):
                    break
                time.sleep(0.1)
            takeovers.append(time.monotonic() - killed)
        time.sleep(0.5)
    return takeovers


def studies(folder: Path, count: int) -> list[Path]:
    """One-picture studies of 512 x 512: a few drawings under many patients and UIDs."""
    drawn = [
        pydicom.dcmread(write_study("fundus", folder / f"drawn-{n}", seed=n, width=512, height=512).files[0])
        for n in range(min(DRAWINGS, count))
    ]
    files = []
    for number in range(count):
        dataset = drawn[number % len(drawn)]
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
            setattr(dataset, keyword, uid_from("2.25", "burst", keyword, str(number)))
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.PatientID = f"BURST-{number}"
        path = folder / f"{number}.dcm"
        dataset.save_as(path)
        files.append(path)
    return files


def settings(folder: Path, orthanc: LocalOrthanc, url: str) -> dict[str, Any]:
    peer = {
        "ae_title": orthanc.ae_title,
        "host": orthanc.host,
        "port": orthanc.dicom_port,
        "commitment": True,
    }
    rule = {"name": "photographs", "when": {"Modality": "OP"}, "bundle": "fundus-lesions", "send": ["PACS"]}
    return {
        "site": {"root": str(folder / "root"), "minimum_free": "100 MB", "database": url},
        "listener": {"port": free_port(), "settle_seconds": 1},
        "worker": {"device": "cpu"},
        "results": {"no_lesion": "empty-seg"},
        "peers": {"PACS": peer},
        "rules": [rule],
    }


if __name__ == "__main__":
    main()
