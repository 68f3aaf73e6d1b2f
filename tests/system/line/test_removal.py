"""A late picture of a study whose files are gone: kept apart, and the full result stays, until the study is whole."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydicom
import pytest
from local_orthanc import LocalOrthanc

from medpipe.config import load_config
from medpipe.identity import uid_from
from workers.registry import Registry
from workers.retention import Janitor
from workers.spool import Spool

STUDY = uid_from("2.25", "spots", "1")


def let_days_pass(line: Any) -> None:
    """What a worker does once `site.keep_days` are over."""
    config = load_config(line.config_file)
    registry = Registry(config.site.database_url)
    janitor = Janitor(config, Spool(config.site.root), registry)
    assert janitor.mark(STUDY, time.time())
    janitor.finish(STUDY)
    registry.close()


def late_picture(first: Path) -> Path:
    """Another picture of the same series."""
    dataset = pydicom.dcmread(first)
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uid_from("2.25", "late")
    path = first.with_name("late.dcm")
    dataset.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.timeout(900)  # it waits for work; on an idle machine it takes some seconds
def test_a_late_picture_takes_no_full_results_place(
    line: Any, orthanc: LocalOrthanc, dcmtk: Any, spots: Callable[..., Path]
) -> None:
    def send(path: Path) -> None:
        orthanc.upload(path)
        dcmtk("storescu", "-aet", "MODALITY", "-aec", "MEDPIPE", "127.0.0.1", line.port, path)

    def segs() -> int:
        return len(orthanc.sop_instance_uids(StudyInstanceUID=STUDY, Modality="SEG"))

    line.start("listen")
    line.start("work")
    send(spots(1))
    line.watch(lambda rows: [row["state"] for row in rows] == ["confirmed"])
    let_days_pass(line)
    send(late_picture(spots(1)))
    apart, full = line.watch(lambda rows: [row["state"] for row in rows] == ["quarantined", "confirmed"])
    assert apart["reason"].startswith("STUDY_REMOVED") and segs() == 1
    assert {result["state"] for result in full["results"]} == {"confirmed"}
    assert "the files of 1 of its 2 instances were removed" in line.run("explain", STUDY)

    line.run("reprocess", STUDY)
    rows = line.watch(lambda rows: [row["state"] for row in rows] == ["confirmed"] * 2)
    assert max(len(row["images"]) for row in rows) == 2 and segs() == 2
