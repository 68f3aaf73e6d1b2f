"""Patients with names that would be recognised go through the whole line; no process writes them to its log."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from local_process import wait_until
from pydicom import dcmread

from medpipe.config import load_config
from medpipe.identity import uid_from
from medpipe.logs import pseudonym
from workers.registry import Registry

SECRETS = (
    "RECOGNISABLE",
    "GIVENNAME",
    "PID-4711",
    "19431127",
    "ACC-0815",
    "DR-HOUSE",
    "FREETEXT",
    "1.2.3.4.5.4711",
)


@pytest.fixture
def patient(spots: Callable[..., Path]) -> Callable[..., Path]:
    """`patient(1, suffix="a")`: a small study in which everything that tells who it is can be searched for."""

    def make(number: int, suffix: str = "", patient_id: str = "PID-4711", damage: bool = False) -> Path:
        path = spots(number)
        dataset = dcmread(path)
        dataset.PatientName, dataset.PatientID = "RECOGNISABLE^GIVENNAME", patient_id
        dataset.PatientBirthDate, dataset.AccessionNumber = "19431127", "ACC-0815"
        dataset.ReferringPhysicianName = dataset.OperatorsName = "DR-HOUSE"
        dataset.StudyDescription = dataset.SeriesDescription = dataset.PatientComments = "FREETEXT"
        # values against the standard, which libraries like to quote when they complain
        dataset.add_new("PatientAge", "LO", "RECOGNISABLE is 083Y old")
        dataset.add_new("DeviceUID", "LO", "1.2.3.4.5.4711-RECOGNISABLE")
        if suffix:
            dataset.SOPInstanceUID = uid_from("2.25", "other", suffix)
            dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        if damage:
            dataset.PixelData = dataset.PixelData[: len(dataset.PixelData) // 3 // 2 * 2]
        made = path.with_name(f"{number}{suffix}.dcm")
        dataset.save_as(made, enforce_file_format=True)
        return made

    return make


def test_no_log_names_the_patient(
    line: Any, dcmtk: Any, patient: Callable[..., Path], free_port: Callable[[], int]
) -> None:
    port = free_port()
    with line.config_file.open("a") as settings:
        settings.write(f'\n[logs]\nlevel = "debug"\n\n[review]\nport = {port}\n')
    line.start("serve")
    assert wait_until(lambda: b"listening" in line.log("serve"), 60), line.log("serve").decode()
    good, broken = patient(1), patient(2, damage=True)
    two_patients = [patient(3, "a"), patient(3, "b", "PID-4711-OTHER")]
    again = dcmread(good)
    again.PatientComments = "FREETEXT, corrected"
    again.save_as(good.with_name("again.dcm"), enforce_file_format=True)
    for file in (good, broken, *two_patients, good.with_name("again.dcm")):
        dcmtk("storescu", "-aet", "MODALITY", "-aec", "MEDPIPE", "127.0.0.1", line.port, file)
    ended = {"confirmed", "quarantined", "failed"}
    registry = Registry(load_config(line.config_file).site.database_url)
    states = lambda: sorted(row.state for row in registry.jobs())  # noqa: E731
    assert wait_until(lambda: len(states()) == 3 and set(states()) <= ended, 120), states()
    assert states() == ["confirmed", "quarantined", "quarantined"]
    registry.close()
    study = uid_from("2.25", "spots", "1")
    review = f"http://127.0.0.1:{port}"
    assert wait_until(lambda: b"review on" in line.log("serve"), 60)
    for page in ("/app", f"/app/studies/{study}", "/metrics", f"/dicom-web/studies/{study}/FREETEXT"):
        httpx2.get(review + page, timeout=10)
    line.stop()

    lines = [text for text in line.log("serve").decode().splitlines() if not text.startswith("listening ")]
    told = [json.loads(text) for text in lines]  # every line is one JSON object
    assert {one["role"] for one in told} >= {"listener", "worker", "review"}
    ours = [one["event"] for one in told if one.get("study") == pseudonym(study)]
    way = ["study.settled", "job.claimed", "job.ended", "results.sent", "results.confirmed"]
    assert [event for event in ours if event in way] == way
    assert "instance.aside" in ours
    log = "\n".join(lines)
    assert [secret for secret in SECRETS if secret in log] == []
    assert study not in log
