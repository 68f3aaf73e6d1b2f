"""Settling: quiet studies become jobs as the rules say, and what becomes of nothing says why."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any

import pydicom
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from medpipe.config import parse_config
from medpipe.samples import write_study
from workers.registry import Registry
from workers.settle import Steward, rescan
from workers.spool import Arrival, Spool
from workers.status import retry
from workers.tables import instance


class Site:
    """A spool, a registry and a steward without listener, engine or peers."""

    def __init__(self, root: Path, rules: list[dict[str, Any]], settle_seconds: float = 0) -> None:
        document = {
            "site": {"root": str(root)},
            "listener": {"settle_seconds": settle_seconds},
            "rules": rules,
        }
        self.config = parse_config(document)
        self.spool, self.registry = Spool(root), Registry(self.config.site.database_url)
        self.registry.migrate()
        self.queued: list[tuple[str, int]] = []
        self.steward = Steward(self.config, self.spool, self.registry, self._enqueue, ask_peers=False)

    def _enqueue(self, connection: Connection, job_id: str, priority: int, generation: int) -> None:
        self.queued.append((job_id, priority))

    def receive(self, path: Path) -> None:
        header = pydicom.dcmread(path, stop_before_pixels=True)
        copy = self.spool.incoming / path.name
        shutil.copy(path, copy)
        arrival = Arrival(
            header.SOPInstanceUID,
            header.SOPClassUID,
            header.StudyInstanceUID,
            header.SeriesInstanceUID,
            header.file_meta.TransferSyntaxUID,
            "EYEPACS",
            "MEDPIPE",
        )
        self.spool.receive(copy, arrival, 1.0)


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    return write_study("fundus", tmp_path / "sample", seed=1, width=320, height=256).files[0]


RULE = {"name": "photographs", "when": {"Modality": "OP"}, "bundle": "phantom-2d", "priority": "stat"}


def settled(site: Site) -> list[Any]:
    with site.steward:
        site.steward.tick()
    rows = site.registry.jobs()
    site.registry.close()
    return rows


def test_a_quiet_study_becomes_a_job_with_its_rules_priority(tmp_path: Path, photograph: Path) -> None:
    site = Site(tmp_path / "root", [RULE])
    site.receive(photograph)
    (row,) = settled(site)
    assert (row.bundle, row.rule, row.state) == ("phantom-2d", "photographs", "queued")
    assert site.queued == [(row.id, 1)]
    assert site.spool.arrivals() == []


def test_a_study_that_is_not_yet_quiet_waits(tmp_path: Path, photograph: Path) -> None:
    site = Site(tmp_path / "root", [RULE], settle_seconds=4e9)
    site.receive(photograph)
    assert settled(site) == []


def test_the_worker_that_leads_settles_and_another_does_not(tmp_path: Path, photograph: Path) -> None:
    site = Site(tmp_path / "root", [RULE])
    site.receive(photograph)
    answers, jobs, stop = iter([False, False, True]), [], threading.Event()

    def leads() -> bool:
        jobs.append(len(site.registry.jobs()))
        answer = next(answers, None)
        if answer is None:
            stop.set()
        return bool(answer)

    with site.steward:
        site.steward.run(stop, leads, every=0.01)
    site.registry.close()
    assert jobs == [0, 0, 0, 1]  # before each round


def test_a_study_that_no_rule_wants_is_ignored_and_says_why(tmp_path: Path, photograph: Path) -> None:
    site = Site(tmp_path / "root", [{**RULE, "when": {"Modality": "CT"}}])
    site.receive(photograph)
    (row,) = settled(site)
    assert row.state == "ignored" and row.reason.startswith("NO_RULE: ") and site.queued == []


def test_two_patients_under_one_study_are_quarantined(tmp_path: Path, photograph: Path) -> None:
    other = pydicom.dcmread(photograph)
    other.PatientID, other.SOPInstanceUID = "SOMEBODY ELSE", "2.25.77"
    other.file_meta.MediaStorageSOPInstanceUID = other.SOPInstanceUID
    other.save_as(tmp_path / "other.dcm")
    site = Site(tmp_path / "root", [RULE])
    site.receive(photograph)
    site.receive(tmp_path / "other.dcm")
    (row,) = settled(site)
    assert row.state == "quarantined" and row.reason.startswith("TWO_PATIENTS: ")
    assert "SOMEBODY" not in row.reason


def of_series(photograph: Path, path: Path, study: str, series: str, number: int = 0) -> Path:
    """The photograph again as another instance, of the study and series that are named."""
    other = pydicom.dcmread(photograph)
    other.StudyInstanceUID, other.SeriesInstanceUID = study, series
    other.SOPInstanceUID = other.file_meta.MediaStorageSOPInstanceUID = f"{study}.{series[5:]}.{number}"
    other.save_as(path)
    return path


def test_a_series_stays_with_the_study_that_had_it_first(tmp_path: Path, photograph: Path) -> None:
    """The later study goes on without it; of neither study anything is lost."""
    site = Site(tmp_path / "root", [RULE])
    for study, series in (("2.25.1", "2.25.7"), ("2.25.2", "2.25.7"), ("2.25.2", "2.25.8")):
        site.receive(of_series(photograph, tmp_path / f"{study}-{series}.dcm", study, series))
    rows = settled(site)
    assert sorted((row.study_uid, row.bundle, row.state) for row in rows) == [
        ("2.25.1", "phantom-2d", "queued"),
        ("2.25.2", "", "quarantined"),
        ("2.25.2", "phantom-2d", "queued"),
    ]
    (refused,) = (row for row in rows if row.state == "quarantined")
    assert refused.reason.startswith("SERIES_IN_TWO_STUDIES: ") and "2.25.1" in refused.reason
    (good,) = (row for row in rows if row.study_uid == "2.25.2" and row.bundle)
    assert len(good.instances) == 1


def test_a_late_part_of_a_study_with_anothers_series_says_both(tmp_path: Path, photograph: Path) -> None:
    site = Site(tmp_path / "root", [RULE])

    def arrive(study: str, series: str, number: int = 0) -> None:
        site.receive(
            of_series(photograph, tmp_path / f"{study}-{series}-{number}.dcm", study, series, number)
        )

    with site.steward:
        arrive("2.25.1", "2.25.7")
        arrive("2.25.2", "2.25.8")
        site.steward.tick()
        with site.registry.begin() as connection:  # as retention leaves it
            removed = sa.update(instance).where(instance.c.study_uid == "2.25.2").values(retention="removed")
            connection.execute(removed)
        arrive("2.25.2", "2.25.7", 1)  # the first study's series
        arrive("2.25.2", "2.25.8", 1)  # a part of what was removed
        site.steward.tick()
    rows = site.registry.jobs("2.25.2")
    site.registry.close()
    (apart,) = (row for row in rows if row.state == "quarantined")
    assert apart.reason.startswith("STUDY_REMOVED: ") and "SERIES_IN_TWO_STUDIES: " in apart.reason


def test_a_late_instance_of_the_first_study_and_a_retry_of_the_other_change_nothing(
    tmp_path: Path, photograph: Path
) -> None:
    site = Site(tmp_path / "root", [RULE])
    with site.steward:
        for number, study in enumerate(("2.25.1", "2.25.2", "2.25.1")):
            path = of_series(photograph, tmp_path / f"{number}.dcm", study, "2.25.7", number)
            site.receive(path)
            site.steward.tick()
        (refused,) = site.registry.jobs("2.25.2")
        retry(site.registry, None, "2.25.2", "somebody")  # type: ignore[arg-type]  # no job is queued again
        assert site.registry.jobs("2.25.2") == []
        site.steward.tick()
    again, first = (site.registry.jobs(study) for study in ("2.25.2", "2.25.1"))
    site.registry.close()
    assert [(row.id, row.state) for row in again] == [(refused.id, "quarantined")]
    assert first[0].state == "queued" and len(first[0].instances) == 2


def test_rows_are_rebuilt_from_the_spool(tmp_path: Path, photograph: Path) -> None:
    site = Site(tmp_path / "root", [RULE])
    site.receive(photograph)
    assert rescan(site.spool, site.registry) == 1
    assert rescan(site.spool, site.registry) == 0
    assert len(settled(site)) == 1
