"""Patients with names that would be recognised go through the whole line; neither its logs nor its traces name them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from local_collector import LocalCollector
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


STEPS = ["read", "preprocess", "network", "crf", "lesions", "write", "publish"]


def test_neither_logs_nor_traces_name_the_patient(
    line: Any,
    dcmtk: Any,
    patient: Callable[..., Path],
    free_port: Callable[[], int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    port = free_port()
    with line.config_file.open("a") as settings:
        settings.write(f'\n[logs]\nlevel = "debug"\n\n[review]\nport = {port}\n')
    with LocalCollector() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
        line.start("serve")
        assert wait_until(lambda: b"listening" in line.log("serve"), 180), line.log("serve").decode()
        jobs = send_patients(line, dcmtk, patient)
        study = uid_from("2.25", "spots", "1")
        assert wait_until(lambda: b"review on" in line.log("serve"), 60)
        for page in ("/app", f"/app/studies/{study}", "/metrics", f"/dicom-web/studies/{study}/FREETEXT"):
            httpx2.get(f"http://127.0.0.1:{port}{page}", timeout=10)
        line.stop()
    check_logs(line.log("serve").decode(), study)
    check_trace(collector, jobs["confirmed"], study)


def send_patients(line: Any, dcmtk: Any, patient: Callable[..., Path]) -> dict[str, str]:
    """A good study, a broken one, one of two patients, and an instance again with other content: a job by its state."""
    good, broken = patient(1), patient(2, damage=True)
    two_patients = [patient(3, "a"), patient(3, "b", "PID-4711-OTHER")]
    again = dcmread(good)
    again.PatientComments = "FREETEXT, corrected"
    again.save_as(good.with_name("again.dcm"), enforce_file_format=True)
    for file in (good, broken, *two_patients, good.with_name("again.dcm")):
        dcmtk("storescu", "-aet", "MODALITY", "-aec", "MEDPIPE", "127.0.0.1", line.port, file)
    registry = Registry(load_config(line.config_file).site.database_url)

    def states() -> list[str]:
        return sorted(row.state for row in registry.jobs())

    assert wait_until(lambda: states() == ["confirmed", "quarantined", "quarantined"], 200), states()
    jobs = {row.state: row.id for row in registry.jobs()}
    registry.close()
    return jobs


def check_logs(text: str, study: str) -> None:
    lines = [line for line in text.splitlines() if not line.startswith("listening ")]
    assert [secret for secret in (*SECRETS, study) if secret in "\n".join(lines)] == []
    told = [json.loads(line) for line in lines]  # every line is one JSON object
    assert {one["role"] for one in told} >= {"listener", "worker", "review"}
    ours = [one["event"] for one in told if one.get("study") == pseudonym(study)]
    way = ["study.settled", "job.claimed", "job.ended", "result.sent", "result.confirmed"]
    assert [event for event in ours if event in way] == way
    assert "instance.aside" in ours


def check_trace(collector: LocalCollector, job: str, study: str) -> None:
    """The job's trace, from the first instance to the archive's word."""
    assert not any(secret.encode() in body for secret in (*SECRETS, study) for body in collector.raw)
    spans = collector.of(job)
    by_name = {span.name: span for span in spans}
    assert set(by_name) == {"study", "received", "settled", "claim", "job", *STEPS, "send", "confirm"}
    root, computing = by_name["study"], by_name["job"]
    assert root.parent == "" and root.attributes["medpipe.study"] == pseudonym(study)
    assert {span.parent for span in spans if span.name not in (*STEPS, "study")} == {root.span}
    assert {by_name[name].parent for name in STEPS} == {computing.span}
    order = ["received", "settled", "claim", "job", "send", "confirm"]
    assert sorted(order, key=lambda name: by_name[name].end) == order
    assert sum(by_name[name].seconds for name in STEPS) <= computing.seconds + 0.01
    assert by_name["network"].seconds > 0 and not any(span.is_error for span in spans)
