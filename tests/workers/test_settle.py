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
from workers import settle
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

    def receive(self, path: Path, at: float = 1.0) -> None:
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
        self.spool.receive(copy, arrival, at)


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


MR_RULE = {"name": "volumes", "when": {"Modality": "MR"}, "bundle": "phantom"}


def spoilt(path: Path) -> Path:
    """An instance that says its patient twice: the listener keeps it, the reader refuses it."""
    raw = path.read_bytes()
    at = raw.rindex(b"\xe0\x7f\x10\x00O")
    path.write_bytes(raw[:at] + b"\x10\x00\x20\x00LO\x04\x00ELSE" + raw[at:])
    return path


@pytest.mark.parametrize("which", [0, 7])
def test_no_volume_is_made_of_what_is_left_of_a_series(tmp_path: Path, which: int) -> None:
    """Without its first or last slice nothing else would show that the volume is shorter."""
    site = Site(tmp_path / "root", [MR_RULE])
    slices = write_study("mr", tmp_path / "mr", seed=1, shape=(8, 32, 32)).files
    for number, path in enumerate(slices):
        site.receive(spoilt(path) if number == which else path)
    (row,) = settled(site)
    assert row.state == "quarantined" and site.queued == []
    assert row.reason.startswith("UNREADABLE: 1 instance of series ")


def test_a_picture_beside_one_that_cannot_be_read_is_processed_and_the_other_is_not_forgotten(
    tmp_path: Path, photograph: Path
) -> None:
    site = Site(tmp_path / "root", [RULE])
    dataset = pydicom.dcmread(photograph)
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "2.25.9"
    dataset.save_as(tmp_path / "other.dcm")
    site.receive(photograph)
    site.receive(spoilt(tmp_path / "other.dcm"))
    rows = {row.bundle: row for row in settled(site)}
    assert rows["phantom-2d"].state == "queued" and len(rows["phantom-2d"].instances) == 1
    assert rows[""].state == "quarantined" and rows[""].reason.startswith("UNREADABLE: 1 instance of series ")


def test_a_study_that_cannot_be_read_waits_for_a_person(tmp_path: Path, photograph: Path) -> None:
    site = Site(tmp_path / "root", [RULE])
    site.receive(spoilt(photograph))
    (row,) = settled(site)
    assert row.state == "quarantined" and row.reason.startswith("UNREADABLE")


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


ROUTINE_RULE = {**RULE, "name": "others", "priority": "routine"}
URGENT_RULE = {**RULE, "when": {"Modality": "OP", "SeriesDescription": "URGENT", "Instances": {"min": 2}}}


def described(photograph: Path, path: Path, study: str, description: str, number: int = 0) -> Path:
    of_series(photograph, path, study, f"{study}.9", number)
    header = pydicom.dcmread(path)
    header.SeriesDescription = description
    header.save_as(path)
    return path


def test_urgent_studies_settle_before_others_that_came_earlier(
    tmp_path: Path, photograph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More are complete than one round settles, and only headers and the number of instances say what is urgent."""
    monkeypatch.setattr(settle, "_STUDIES_PER_ROUND", 2)
    site = Site(tmp_path / "root", [URGENT_RULE, ROUTINE_RULE])
    described_as = {"2.25.1": "", "2.25.2": "URGENT", "2.25.3": "", "2.25.4": "URGENT", "2.25.5": "URGENT"}
    for study, description in described_as.items():
        for number in range(1 if study == "2.25.2" else 2):
            name = tmp_path / f"{study}-{number}.dcm"
            site.receive(described(photograph, name, study, description, number), at=float(study[-1]))
    orders = []
    with site.steward:
        for _ in range(3):
            jobs = site.steward.tick()
            orders.append([site.registry.job(one).study_uid for one in jobs])
    rules = {row.study_uid: row.rule for row in site.registry.jobs()}
    site.registry.close()
    assert orders == [["2.25.4", "2.25.5"], ["2.25.1", "2.25.2"], ["2.25.3"]]
    assert rules["2.25.2"] == "others" and rules["2.25.4"] == "photographs"


def test_one_that_turns_urgent_by_what_comes_later_is_seen(
    tmp_path: Path, photograph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settle, "_STUDIES_PER_ROUND", 1)
    site = Site(tmp_path / "root", [URGENT_RULE, ROUTINE_RULE])
    for study in ("2.25.1", "2.25.2", "2.25.3"):
        description = "URGENT" if study == "2.25.3" else ""
        name = tmp_path / f"{study}.dcm"
        site.receive(described(photograph, name, study, description), at=float(study[-1]))
    with site.steward:
        (first,) = site.steward.tick()
        site.receive(described(photograph, tmp_path / "late.dcm", "2.25.3", "URGENT", 1), at=4.0)
        (second,) = site.steward.tick()
        studies = [site.registry.job(one).study_uid for one in (first, second)]
    site.registry.close()
    assert studies == ["2.25.1", "2.25.3"]


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
