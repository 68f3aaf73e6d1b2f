"""A whole line on this machine: listener and workers as a site starts them, small pictures, a real PACS."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
import tomli_w
from local_orthanc import LocalOrthanc
from local_process import wait_until
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from medpipe.config import load_config
from medpipe.identity import uid_from
from workers.registry import Registry
from workers.settle import register_arrivals
from workers.spool import Spool
from workers.status import status_rows
from workers.work import prepare

OPHTHALMIC_8_BIT = "1.2.840.10008.5.1.4.1.1.77.1.5.1"
SEG = "1.2.840.10008.5.1.4.1.1.66.4"


@dataclass
class Line:
    """One installation under test. `start("work", fault="after_claim")` arms a fault point of that process."""

    folder: Path
    config_file: Path
    port: int
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, *command: str, fault: str = "") -> subprocess.Popen[bytes]:
        environment = {**os.environ, "TCP_NODELAY": "1", "OMP_NUM_THREADS": "1"}
        if fault:
            environment["MEDPIPE_FAULT"] = f"{fault}:{self.folder / ('fault-' + fault)}"
        with (self.folder / f"{command[0]}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "medpipe.cli", "--config", str(self.config_file), *command],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
            )
        self.processes.append(process)
        if command[0] == "listen":
            assert wait_until(lambda: b"listening" in self.log("listen"), 120), self.log("listen").decode()[
                -2000:
            ]
        return process

    def died_at(self, fault: str) -> bool:
        return (self.folder / f"fault-{fault}").exists()

    def log(self, name: str) -> bytes:
        path = self.folder / f"{name}.log"
        return path.read_bytes() if path.exists() else b""

    def run(self, *command: str) -> str:
        done = self._call(*command)
        assert done.returncode == 0, (
            f"{command}: exit {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        )
        return done.stdout

    def _call(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "medpipe.cli", "--config", str(self.config_file), *command],
            capture_output=True,
            text=True,
            timeout=300,
        )

    def change(self, section: str, **values: Any) -> None:
        """Other settings, for what is started from now on."""
        settings = tomllib.loads(self.config_file.read_text())
        settings[section] |= values
        self.config_file.write_text(tomli_w.dumps(settings))

    def status(self) -> list[dict[str, Any]]:
        """What `medpipe status --json` prints, without a process of its own: tests ask for it again and again."""
        config = load_config(self.config_file)
        registry = Registry(config.site.database_url)
        try:
            register_arrivals(Spool(config.site.root), registry)
            return status_rows(registry)
        finally:
            registry.close()

    def wait(
        self, good: Callable[[list[dict[str, Any]]], bool], seconds: float = 150
    ) -> list[dict[str, Any]]:
        """Status rows once they are as wanted; patient, since other tests share the cores."""
        end = time.monotonic() + seconds
        while not good(rows := self.status()):
            shown = [(row["state"], row["step"], row["reason"]) for row in rows]
            assert time.monotonic() < end, f"{shown}\n{self.log('work').decode()[-3000:]}"
            time.sleep(0.3)
        return rows

    def watch(
        self, good: Callable[[list[dict[str, Any]]], bool], seconds: float = 400
    ) -> list[dict[str, Any]]:
        """Like `wait`, without a process for each look, and patient: for long ways on a busy machine."""
        registry = Registry(load_config(self.config_file).site.database_url)
        try:
            end = time.monotonic() + seconds
            while not good(rows := status_rows(registry)):
                shown = [(row["state"], row["step"], row["reason"]) for row in rows]
                assert time.monotonic() < end, f"{shown}\n{self.log('work').decode()[-3000:]}"
                time.sleep(0.5)
            return rows
        finally:
            registry.close()

    def destroy(self) -> None:
        """The machine is gone: its processes, its disk, its database."""
        for process in self.processes:
            process.kill()
            process.wait(60)
        self.processes.clear()
        (self.folder / "listen.log").unlink(missing_ok=True)
        site = load_config(self.config_file).site
        shutil.rmtree(site.root)
        if not site.database_url.startswith("sqlite"):
            engine = sa.create_engine(site.database_url)
            with engine.begin() as connection:
                connection.execute(
                    sa.text("DROP SCHEMA dbos CASCADE; DROP SCHEMA public CASCADE; CREATE SCHEMA public")
                )
            engine.dispose()

    def stop(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.terminate()
        for process in self.processes:
            try:
                process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture
def line(site: Callable[..., Any], orthanc: LocalOrthanc, request: pytest.FixtureRequest) -> Iterator[Line]:
    """Listener's and worker's site beside an empty PACS; on PostgreSQL where the test is parametrized so."""
    options: dict[str, Any] = {
        "rules": [{"name": "spots", "when": {"Modality": "OP"}, "bundle": "phantom-2d", "send": ["PACS"]}],
        "worker": {"device": "cpu", "backend": "torch", "threads": 1},
    }
    if getattr(request, "param", "sqlite") == "postgresql":
        options["database"] = request.getfixturevalue("postgres").url
    made = site(orthanc, **options)
    line = Line(made.path.parent, made.path, made.config.listener.port)
    prepare(made.config)
    yield line
    line.stop()


def draw_spots(folder: Path, number: int, spots: int = 3, size: int = 128) -> Path:
    """A small colour picture with bright spots, as an Ophthalmic Photography instance of a study of its own."""
    rng = np.random.default_rng(number)
    picture = rng.integers(20, 60, (size, size, 3), dtype=np.uint8)
    for n in range(spots):
        row, column = 16 + 32 * (n // 3), 16 + 40 * (n % 3)
        picture[row : row + 8, column : column + 8] = 250
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = OPHTHALMIC_8_BIT
    dataset.SOPInstanceUID = uid_from("2.25", "spots", str(number), "picture")
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.StudyInstanceUID = uid_from("2.25", "spots", str(number))
    dataset.SeriesInstanceUID = uid_from("2.25", "spots", str(number), "series")
    dataset.PatientName, dataset.PatientID = f"Spots^{number}", f"SPOTS-{number}"
    dataset.PatientBirthDate = dataset.PatientSex = ""
    dataset.StudyDate = dataset.SeriesDate = dataset.ContentDate = "20260101"
    dataset.StudyTime = dataset.SeriesTime = dataset.ContentTime = "120000"
    dataset.AcquisitionDateTime = "20260101120000"
    dataset.AccessionNumber = dataset.ReferringPhysicianName = dataset.StudyID = ""
    dataset.Modality, dataset.Manufacturer, dataset.ManufacturerModelName = "OP", "test", "test"
    dataset.SeriesNumber, dataset.InstanceNumber = 1, 1
    dataset.ImageType = ["ORIGINAL", "PRIMARY"]
    dataset.PatientOrientation, dataset.ImageLaterality = ["L", "F"], "R"
    dataset.Rows = dataset.Columns = size
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation, dataset.NumberOfFrames = 7, 0, 1
    dataset.BurnedInAnnotation = "NO"
    dataset.PixelData = picture.tobytes()
    path = folder / f"spots-{number}.dcm"
    folder.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


@pytest.fixture
def spots(tmp_path: Path) -> Callable[..., Path]:
    """`spots(number, spots=3)` draws one small study and gives its file."""

    def draw(number: int, **options: int) -> Path:
        return draw_spots(tmp_path / "modality", number, **options)

    return draw
