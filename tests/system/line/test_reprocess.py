"""A study again, by its UID: what the PACS holds is not computed again, and forced it gives the identical bytes."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from local_orthanc import LocalOrthanc

from medpipe.config import load_config
from medpipe.identity import uid_from
from medpipe.logs import pseudonym
from workers.registry import Registry
from workers.retention import Janitor
from workers.spool import Spool


def seg_bytes(orthanc: LocalOrthanc, study_uid: str) -> dict[str, str]:
    uids = orthanc.sop_instance_uids(StudyInstanceUID=study_uid, Modality="SEG")
    return {uid: hashlib.sha256(orthanc.file(uid)).hexdigest() for uid in uids}


def jobs_computed(line: Any) -> list[int]:
    return [row["attempts"] for row in line.status()]


def remove_files(line: Any, study_uid: str) -> None:
    """What a worker does once `site.keep_days` are over."""
    config = load_config(line.config_file)
    spool, registry = Spool(config.site.root), Registry(config.site.database_url)
    janitor = Janitor(config, spool, registry)
    assert janitor.mark(study_uid, time.time()) and janitor.round() == [study_uid]
    registry.close()
    assert not list(spool.instances.glob("??/*.dcm")) and not list(config.site.root.glob("outbox/*/*"))


@pytest.mark.parametrize("line", ["postgresql"], indirect=True)  # the tests below are on SQLite
def test_reprocess_computes_once_and_force_gives_the_same_bytes(
    line: Any, orthanc: LocalOrthanc, spots: Callable[..., Path]
) -> None:
    study = uid_from("2.25", "spots", "7")
    orthanc.upload(spots(7))
    line.start("listen")  # storage commitment reports come to it; no worker: the command runs one itself
    said = line.run("reprocess", study)
    assert "is processed" in said
    first = seg_bytes(orthanc, study)
    assert len(first) == 1 and jobs_computed(line) == [1]

    said = line.run("reprocess", study)
    assert "nothing to do" in said
    assert jobs_computed(line) == [1] and seg_bytes(orthanc, study) == first

    remove_files(line, study)  # it is retrieved again, with or without --force
    assert "nothing to do" in line.run("reprocess", study)
    assert jobs_computed(line) == [1] and seg_bytes(orthanc, study) == first

    remove_files(line, study)
    for uid in orthanc.sop_instance_uids(StudyInstanceUID=study, Modality="SEG"):
        (found,) = orthanc.find("Instance", SOPInstanceUID=uid)
        orthanc.delete(f"/instances/{found['ID']}")
    said = line.run("reprocess", study, "--force", "--diff")
    assert "the same objects, byte for byte" in said
    assert seg_bytes(orthanc, study) == first
    (row,) = line.status()
    assert row["state"] == "confirmed"

    assert "nothing to do" in line.run("reprocess", pseudonym(study), "--dry-run")
    assert line.run("audit", "verify").startswith("whole: ")
    exported = line.run("audit", "export", "-", "--format", "jsonl").splitlines()
    of_study = {record["what"] for record in map(json.loads, exported) if record["study_uid"] == study}
    assert {
        "archive queried",
        "study reprocessed",
        "instances received",
        "results published",
        "instances sent",
    } <= of_study
    asked = [record for record in map(json.loads, exported) if record["what"] == "archive queried"]
    assert len(asked) == 5 and asked[-1]["detail"]["destination"] == orthanc.ae_title
    assert asked[-1]["number"] > max(
        r["number"] for r in map(json.loads, exported) if r["what"] == "study reprocessed"
    )
    assert {"application started", "application stopped"} <= {json.loads(text)["what"] for text in exported}


def test_a_retrieved_study_starts_no_second_job_by_rule(
    line: Any, orthanc: LocalOrthanc, spots: Callable[..., Path]
) -> None:
    study = uid_from("2.25", "spots", "8")
    orthanc.upload(spots(8))
    line.start("listen")
    line.start("work")
    line.run("reprocess", study)
    (row,) = line.wait(lambda rows: len(rows) == 1 and rows[0]["state"] == "confirmed")
    assert row["rule"] == "spots"


def test_a_dry_run_changes_nothing(
    line: Any, orthanc: LocalOrthanc, dcmtk: Any, spots: Callable[..., Path]
) -> None:
    line.start("listen")
    worker = line.start("work")
    dcmtk("storescu", "-aet", "MODALITY", "-aec", "MEDPIPE", "127.0.0.1", line.port, spots(9))
    line.wait(lambda rows: len(rows) == 1 and rows[0]["state"] == "confirmed")
    worker.terminate()
    worker.wait(20)
    study = uid_from("2.25", "spots", "9")
    assert "would be processed" in line.run("reprocess", study, "--force", "--dry-run")
    assert jobs_computed(line) == [1]
