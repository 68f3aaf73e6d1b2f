"""A series under two studies: the first keeps it, unharmed; the other takes it once the PACS is corrected."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydicom
from local_orthanc import LocalOrthanc

from medpipe.identity import uid_from

FIRST, SECOND = (uid_from("2.25", "spots", str(number)) for number in (1, 2))


def again_in(study: str, path: Path, name: str) -> Path:
    """The picture of `path` as another instance of the same series, under another study and its patient."""
    dataset = pydicom.dcmread(path)
    dataset.PatientID = "SPOTS-2"
    dataset.StudyInstanceUID, dataset.SOPInstanceUID = study, uid_from("2.25", name)
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    copy = path.with_name(f"{name}.dcm")
    dataset.save_as(copy)
    return copy


def test_the_first_study_keeps_the_series_and_a_corrected_pacs_gives_it_to_the_other(
    line: Any, orthanc: LocalOrthanc, dcmtk: Any, spots: Callable[..., Path]
) -> None:
    first, second = spots(1), spots(2)
    lost = again_in(SECOND, first, "astray")
    for file in (first, lost, second):
        orthanc.upload(file)
    line.change("listener", settle_seconds=2)  # the second study's two pictures are settled together
    line.start("listen")
    line.start("work")
    for files in ([first], [lost, second]):
        dcmtk("storescu", "-aet", "MODALITY", "-aec", "MEDPIPE", "127.0.0.1", line.port, *files)
    rows = line.wait(lambda rows: [row["state"] for row in rows].count("confirmed") == 2)
    assert sorted((row["study"], row["state"]) for row in rows) == sorted(
        [(FIRST, "confirmed"), (SECOND, "confirmed"), (SECOND, "quarantined")]
    )
    (refused,) = (row for row in rows if row["state"] == "quarantined")
    assert refused["reason"].startswith("SERIES_IN_TWO_STUDIES: ") and FIRST in refused["reason"]
    assert [
        len(orthanc.sop_instance_uids(StudyInstanceUID=uid, Modality="SEG")) for uid in (FIRST, SECOND)
    ] == [1, 1]

    assert "SERIES_IN_TWO_STUDIES" in line.run("reprocess", SECOND)
    (found,) = orthanc.find("Study", StudyInstanceUID=FIRST)
    orthanc.delete(f"/studies/{found['ID']}")
    assert "is processed" in line.run("reprocess", SECOND)
    newest, *_ = line.status()
    assert newest["study"] == SECOND and len(newest["images"]) == 2
    assert len(orthanc.sop_instance_uids(StudyInstanceUID=SECOND, Modality="SEG")) == 2
