"""Time and peak memory per step of one study, from settled to sent, the worker warm: a photograph and a CT.

    .venv/bin/python bench/end_to_end.py [--rounds 3] [--kinds fundus,ct]

A real Orthanc is the PACS. Memory is the proportional set size (PSS) summed over the worker, its inference child
and the guarded reader, sampled while one more study runs: the sampling takes most of a core, so that no time is taken
of that one. "other" is everything but network and CRF.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "deploy"))

import psutil
import sqlalchemy as sa
import tomli_w
from local_orthanc import LocalOrthanc
from local_process import LocalProcess, free_port, wait_until

from medpipe.config import load_config
from medpipe.samples import write_study
from workers.registry import Registry
from workers.tables import delivery, job, result

STEPS = ("assemble", "preprocess", "network", "crf", "lesions", "write")
SAMPLES: dict[str, dict[str, Any]] = {
    "fundus": {"width": 4288, "height": 2848},
    "ct": {"shape": (200, 512, 512)},
}
NAMES = {"fundus": "photograph 4288 x 2848", "ct": "CT 512 x 512 x 200"}


class Memory(threading.Thread):
    """Highest sum of PSS over a process and all its children."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._root, self._over, self.peak = psutil.Process(pid), threading.Event(), 0

    def run(self) -> None:
        while not self._over.wait(0.05):
            total = 0
            for process in [self._root, *self._root.children(recursive=True)]:
                try:
                    total += process.memory_full_info().pss
                except psutil.Error:
                    continue
            self.peak = max(self.peak, total)

    def stop(self) -> float:
        self._over.set()
        self.join()
        return self.peak / 1e9


def main() -> None:
    """Prints one Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kinds", default="fundus,ct")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="medpipe-bench-") as name:
        measure(Path(name), options.kinds.split(","), options.rounds)


def measure(folder: Path, kinds: list[str], rounds: int) -> None:
    orthanc = LocalOrthanc(folder / "orthanc").start()
    config_file = folder / "medpipe.toml"
    config_file.write_text(tomli_w.dumps(settings(folder, orthanc)))
    config = load_config(config_file)
    orthanc.add_modality("medpipe", config.listener.ae_title, config.listener.port)
    command = [sys.executable, "-m", "medpipe.cli", "--config", config_file]
    worker = LocalProcess("work", [*command, "work"], folder / "work.log")
    listener = LocalProcess("listen", [*command, "listen"], folder / "listen.log")
    registry = Registry(config.site.database_url)
    try:
        worker.start()
        listener.start()
        listener.wait_ready(lambda: "listening" in listener.tail(), 30)
        print(f"| study | {' | '.join(STEPS)} | queue and send | settled to sent | other | peak memory |")
        print("| --- |" + " ---: |" * (len(STEPS) + 4))
        for kind in kinds:
            port = config.listener.port
            runs = [one(folder, kind, seed, port, worker, registry) for seed in range(rounds + 1)]
            row = {
                key: statistics.median(run[key] for run in runs[1:]) for key in runs[0]
            }  # the first one warms up
            memory = Memory(worker.pid)
            memory.start()
            one(folder, kind, rounds + 1, port, worker, registry)
            peak = memory.stop()
            cells = [f"{row[step]:.2f} s" for step in STEPS]
            cells += [
                f"{row['queue']:.2f} s",
                f"{row['total']:.2f} s",
                f"{row['other']:.2f} s",
                f"{peak:.2f} GB",
            ]
            print(f"| {NAMES.get(kind, kind)} | {' | '.join(cells)} |", flush=True)
    finally:
        registry.close()
        for process in (listener, worker):
            process.stop()
        orthanc.stop()
    print(f"\nMedians of {rounds} studies each, {os.cpu_count()} cores, no GPU, TTA off.")


def settings(folder: Path, orthanc: LocalOrthanc) -> dict[str, Any]:
    peer = {
        "ae_title": orthanc.ae_title,
        "host": orthanc.host,
        "port": orthanc.dicom_port,
        "commitment": True,
    }
    rules = [
        {"name": "photographs", "when": {"Modality": "OP"}, "bundle": "fundus-lesions", "send": ["PACS"]},
        {"name": "volumes", "when": {"Modality": ["CT", "MR"]}, "bundle": "phantom", "send": ["PACS"]},
    ]
    return {
        "site": {"root": str(folder / "root"), "minimum_free": "100 MB"},
        "listener": {"port": free_port(), "settle_seconds": 2},
        "worker": {"device": "cpu"},
        "peers": {"PACS": peer},
        "rules": rules,
    }


def one(
    folder: Path, kind: str, seed: int, port: int, worker: LocalProcess, registry: Registry
) -> dict[str, float]:
    """Sends one drawn study and follows it to the PACS."""
    study = write_study(kind, folder / f"{kind}-{seed}", seed=seed, **SAMPLES[kind])
    encapsulated = ["-xy"] if kind == "fundus" else []
    subprocess.run(
        ["storescu", "-aec", "MEDPIPE", *encapsulated, "127.0.0.1", str(port), *map(str, study.files)],
        check=True,
        env={**os.environ, "TCP_NODELAY": "1"},
    )

    def sent() -> sa.Row[Any] | None:
        with registry.read() as connection:
            columns = (job.c.created_at, job.c.seconds, job.c.state, job.c.reason)
            query = (
                sa.select(*columns, sa.func.max(delivery.c.sent_at).label("at"))
                .join(result, result.c.job == job.c.id)
                .join(delivery, delivery.c.sop_instance_uid == result.c.sop_instance_uid)
                .where(job.c.study_uid == study.study_uid)
                .group_by(*columns)
            )
            return connection.execute(query).one_or_none()

    found = wait_until(lambda: (row := sent()) is not None and row.at is not None, 600, 0.1)
    row = sent()
    if not found or row is None:
        sys.exit(f"{kind} {seed}: no result\n{worker.tail(40)}")
    time.sleep(0.2)
    steps = {step: float(row.seconds.get(step, 0.0)) for step in STEPS}
    total = row.at - row.created_at
    return {
        **steps,
        "queue": total - sum(steps.values()),
        "total": total,
        "other": total - steps["network"] - steps["crf"],
    }


if __name__ == "__main__":
    main()
