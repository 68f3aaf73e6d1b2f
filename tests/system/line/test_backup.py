"""A site backed up in the middle of its work, destroyed, restored: each study has exactly one result at the PACS."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from local_orthanc import LocalOrthanc
from local_process import wait_until

from medpipe.identity import uid_from

BOTH = pytest.mark.parametrize("line", ["sqlite", "postgresql"], indirect=True)


def send(dcmtk: Any, line: Any, *files: Path) -> None:
    dcmtk("storescu", "-aet", "MODALITY", "-aec", "MEDPIPE", "127.0.0.1", line.port, *files)


def segs_of(orthanc: LocalOrthanc, number: int) -> set[str]:
    study = uid_from("2.25", "spots", str(number))
    return orthanc.sop_instance_uids(StudyInstanceUID=study, Modality="SEG")


def states(rows: list[dict[str, Any]]) -> list[str]:
    return sorted(row["state"] for row in rows)


@pytest.mark.timeout(900)  # it waits for work; on an idle machine it takes half a minute
@BOTH
def test_restored_the_line_goes_on_and_nothing_is_lost_or_doubled(
    line: Any,
    orthanc: LocalOrthanc,
    dcmtk: Any,
    spots: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    line.start("listen")
    worker = line.start("work")
    send(dcmtk, line, spots(1), spots(2))
    line.watch(lambda rows: states(rows) == ["confirmed"] * 2)
    worker.terminate()
    worker.wait(60)
    monkeypatch.setenv("MEDPIPE_STALL", "before_publish")
    line.start("work")
    monkeypatch.delenv("MEDPIPE_STALL")
    send(dcmtk, line, *(spots(number) for number in range(3, 7)))
    assert wait_until(lambda: b"stalled at before_publish" in line.log("work"), 400)
    line.watch(lambda rows: "running" in states(rows))  # the others are queued, or settle yet
    send(dcmtk, line, spots(7))  # acknowledged, and nobody registers it

    backup = tmp_path / "backup.tar"
    line.run("backup", str(backup))
    line.destroy()
    said = line.run("restore", str(backup))
    assert "restored" in said and "SPOTS" not in said

    line.start("listen")
    line.start("work")
    rows = line.watch(lambda rows: states(rows) == ["confirmed"] * 7)
    assert [len(segs_of(orthanc, number)) for number in range(1, 8)] == [1] * 7
    over = {uid_from("2.25", "spots", str(number)) for number in (1, 2)}
    assert all(row["attempts"] == 1 for row in rows if row["study"] in over)
