"""Backup and restore: what a moment of the database names is in the file, and nothing damaged comes back."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from medpipe.config import Config, parse_config
from medpipe.errors import IntegrityError, NewerDatabase, UsageError
from workers import faults
from workers.audit import Notices, is_whole
from workers.backup import restore, take, verify
from workers.database import migrate
from workers.publish import outbox, publish
from workers.queue import job_workflow_id
from workers.registry import Registry
from workers.settle import register_arrivals
from workers.spool import Spool
from workers.tables import JobState, audit, instance, job, study


def names(path: Path) -> set[str]:
    with tarfile.open(path) as tar:
        return set(tar.getnames())


def back_up(kept: Any, folder: Path, **options: bool) -> Path:
    return take(kept.site.config, folder / "site.tar", "", **options).path


@pytest.fixture
def elsewhere(tmp_path: Path) -> Config:
    """Another, empty place."""
    return parse_config({"site": {"root": str(tmp_path / "elsewhere")}})


def with_results(kept: Any, finding: Any) -> str:
    """A study of which a job has just published, and is sending."""
    job_id: str = kept.received().settle(JobState.QUEUED)
    workflow = job_workflow_id(job_id, 1)
    token = kept.site.claim(workflow)
    kept.site.put(job_id, state="running")
    row = kept.registry.job(job_id)
    publish(kept.registry, kept.site.queue, kept.site.root, row, *finding("A"), workflow, token)
    return job_id


def rows(config: Config, table: sa.Table) -> list[Any]:
    registry = Registry(config.site.database_url)
    try:
        with registry.read() as connection:
            return list(connection.execute(sa.select(table)).all())
    finally:
        registry.close()


def test_all_of_an_open_study_is_in_the_backup_and_comes_back(
    kept: Any, finding: Any, tmp_path: Path, elsewhere: Config
) -> None:
    job_id = with_results(kept, finding)
    kept.receive(9)  # acknowledged, and not registered yet
    path = back_up(kept, tmp_path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert verify(path).manifest.files == 1 + 2 * 4 + 2 + 1
    restore(elsewhere, path, "me")
    spool = Spool(elsewhere.site.root)
    assert [sidecar.sop_instance_uid for sidecar in spool.arrivals()] == ["2.25.1.9"]
    for one in rows(elsewhere, instance):
        assert spool.path_named(one.file).read_bytes() == kept.spool.path_named(one.file).read_bytes()
    (row,) = rows(elsewhere, job)
    assert (row.id, row.state) == (job_id, "sending")
    (folder,) = outbox(elsewhere.site.root).iterdir()
    assert sorted(file.name for file in folder.iterdir()) == ["A.seg.dcm", "manifest.json"]
    with Registry(elsewhere.site.database_url).read() as connection:
        assert is_whole(connection)


def test_what_waits_for_the_audit_trail_is_in_the_backup(
    kept: Any, tmp_path: Path, elsewhere: Config
) -> None:
    Notices(kept.site.root).leave("CT1", "caller refused", called="MEDPIPE")
    restore(elsewhere, back_up(kept, tmp_path), "me")
    (notice,) = (elsewhere.site.root / "audit").iterdir()
    assert json.loads(notice.read_text())["who"] == "CT1"


@pytest.mark.parametrize("name", ["commitments/2.25.77.json", "reconcile/PACS.json"])
def test_what_an_archive_has_yet_to_say_is_in_the_backup(
    name: str, kept: Any, tmp_path: Path, elsewhere: Config
) -> None:
    path = kept.site.root / name
    path.parent.mkdir(exist_ok=True)
    path.write_text('{"waiting": 7}')
    restore(elsewhere, back_up(kept, tmp_path), "me")
    assert (elsewhere.site.root / name).read_text() == '{"waiting": 7}'


def test_a_study_that_is_over_comes_back_without_its_files_unless_all_is_asked_for(
    kept: Any, tmp_path: Path, elsewhere: Config
) -> None:
    kept.received().settle(JobState.CONFIRMED)
    path = back_up(kept, tmp_path)
    assert not [name for name in names(path) if name.startswith("spool/")]
    restore(elsewhere, path, "me")
    assert {one.retention for one in rows(elsewhere, instance)} == {"removed"}
    (row,) = rows(elsewhere, study)
    assert (row.retention, row.instances) == ("removed", 0)
    everything = take(kept.site.config, tmp_path / "all.tar", "", everything=True).path
    assert len([name for name in names(everything) if name.startswith("spool/")]) == 6


def test_what_is_removed_meanwhile_is_not_named_by_the_backup(
    make_kept: Callable[..., Any], tmp_path: Path, elsewhere: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = make_kept().received()
    kept.settle(JobState.CONFIRMED)
    left = iter([lambda: kept.janitor.round()])
    monkeypatch.setattr(faults, "point", lambda name: next(left, lambda: None)())
    path = back_up(kept, tmp_path, everything=True)
    manifest = verify(path).manifest
    assert len(manifest.surplus) == 1 and not manifest.missing  # one was copied before all of them went
    monkeypatch.undo()
    restore(elsewhere, path, "me")
    assert not list((elsewhere.site.root / "spool").rglob("*.dcm"))
    assert {one.retention for one in rows(elsewhere, instance)} == {"removed"}


def test_what_arrives_meanwhile_leaves_no_row_without_its_file(
    kept: Any, tmp_path: Path, elsewhere: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.received().settle(JobState.FAILED)
    numbers = iter(range(10, 14))

    def arrive(name: str) -> None:
        number = next(numbers, None)
        if number is not None:
            kept.receive(number)
            kept.register()

    monkeypatch.setattr(faults, "point", arrive)
    path = back_up(kept, tmp_path)
    monkeypatch.undo()
    restore(elsewhere, path, "me")
    spool, registry = Spool(elsewhere.site.root), Registry(elsewhere.site.database_url)
    register_arrivals(spool, registry)
    registry.close()
    for one in rows(elsewhere, instance):
        assert one.retention == "kept" and spool.path_named(one.file).is_file()


def test_a_file_that_the_disk_has_lost_is_named_and_stops_no_backup(
    kept: Any, tmp_path: Path, elsewhere: Config
) -> None:
    lost = kept.receive(0)
    kept.received().settle(JobState.FAILED)
    kept.spool.path_of(lost).unlink()
    path = back_up(kept, tmp_path)
    assert [Path(name).name for name in verify(path).manifest.missing] == [f"{lost.file}.dcm"]
    restore(elsewhere, path, "me")
    assert sorted(one.retention for one in rows(elsewhere, instance)) == ["kept", "kept", "removed"]


def test_what_lies_aside_is_not_counted_when_files_are_missing(
    kept: Any, tmp_path: Path, elsewhere: Config
) -> None:
    lost = kept.receive(0)
    kept.received()
    kept.receive(1, content=b"other")
    kept.register()
    kept.settle(JobState.FAILED)
    kept.spool.path_of(lost).unlink()
    restore(elsewhere, back_up(kept, tmp_path), "me")
    assert sorted((one.retention, one.aside) for one in rows(elsewhere, instance)) == [
        ("kept", False), ("kept", False), ("kept", True), ("removed", False)
    ]  # fmt: skip
    assert rows(elsewhere, study)[0].instances == 2


@pytest.mark.parametrize(
    "member",
    ["spool/", "database/medpipe.sqlite", "manifest.json", "SHA256SUMS", "SHA256SUMS.sha256", "settings/"],
)
def test_a_backup_with_one_changed_byte_is_refused_and_nothing_is_written(
    member: str, kept: Any, tmp_path: Path, elsewhere: Config
) -> None:
    kept.received().settle(JobState.FAILED)
    path = take(kept.site.config, tmp_path / "site.tar", "[site]\n").path
    with tarfile.open(path) as tar:
        found = next(one for one in tar.getmembers() if one.name == member or one.name.startswith(member))
    with path.open("r+b") as file:
        file.seek(found.offset_data + found.size // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
    with pytest.raises(IntegrityError, match="damaged"):
        restore(elsewhere, path, "me")
    assert not elsewhere.site.root.exists()


def test_a_backup_that_changes_between_two_readings_is_refused(
    kept: Any, tmp_path: Path, elsewhere: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.receive(0, content=b"as received")
    kept.received().settle(JobState.FAILED)
    path = back_up(kept, tmp_path)

    def verified_and_changed(path: Path) -> Any:
        backup = verify(path)
        path.write_bytes(path.read_bytes().replace(b"as received", b"as invented"))
        return backup

    monkeypatch.setattr("workers.backup.restoring.verify", verified_and_changed)
    with pytest.raises(IntegrityError, match="changed while it was read"):
        restore(elsewhere, path, "me")
    assert (
        not (elsewhere.site.root / "spool").exists() and not (elsewhere.site.root / "medpipe.sqlite").exists()
    )


def test_a_backup_that_was_cut_off_is_refused(kept: Any, tmp_path: Path) -> None:
    path = back_up(kept, tmp_path)
    whole = path.read_bytes()
    for length in (0, 700, len(whole) // 2, len(whole) - 12 * 1024):
        path.write_bytes(whole[:length])
        with pytest.raises(IntegrityError):
            verify(path)


@pytest.mark.parametrize("name", ["../evil", "/evil", "spool/../../evil"])
def test_no_member_is_written_outside_of_the_root(name: str, tmp_path: Path) -> None:
    path = tmp_path / "evil.tar"
    with tarfile.open(path, "w") as tar:
        member = tarfile.TarInfo(name)
        tar.addfile(member, io.BytesIO())
    with pytest.raises(IntegrityError, match="no plain file"):
        verify(path)


def test_a_backup_is_restored_into_an_empty_place_only(kept: Any, tmp_path: Path) -> None:
    kept.received().settle(JobState.FAILED)
    path = back_up(kept, tmp_path)
    with pytest.raises(UsageError, match="is not empty"):
        restore(kept.site.config, path, "me")
    with pytest.raises(UsageError, match="never takes another one's place"):
        back_up(kept, tmp_path)


def test_a_backup_of_a_newer_version_is_refused(
    kept: Any, tmp_path: Path, elsewhere: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.backup.taking._versions", lambda connection: ("0999", 1))
    path = back_up(kept, tmp_path)
    with pytest.raises(NewerDatabase, match=r"the backup .* is of a newer version"):
        restore(elsewhere, path, "me")


def test_a_backup_of_a_newer_form_is_refused(
    kept: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = back_up(kept, tmp_path)
    monkeypatch.setattr("workers.backup.archive.FORMAT", 0)
    with pytest.raises(IntegrityError, match=r"made by medpipe .*; use that version, or a newer one"):
        verify(path)


def test_a_newer_database_is_refused_and_left_as_it_is(kept: Any, tmp_path: Path) -> None:
    kept.site.sql("UPDATE medpipe_revision SET version_num = '0999'")
    with pytest.raises(NewerDatabase, match="the database is of a newer version of medpipe"):
        migrate(kept.site.config.site.database_url)
    with pytest.raises(NewerDatabase):
        back_up(kept, tmp_path)


COMMAND = """
import sys
from pathlib import Path
from medpipe.config import parse_config
from workers.backup import restore, take
config = parse_config({"site": {"root": sys.argv[1]}})
if sys.argv[2] == "take":
    take(config, Path(sys.argv[3]), "")
else:
    restore(config, Path(sys.argv[3]), "me")
"""


def killed(point: str, what: str, root: Path, path: Path, marker: Path) -> None:
    fault = {"MEDPIPE_FAULT": f"{point}:{marker}"}
    command = [sys.executable, "-c", COMMAND, str(root), what, str(path)]
    assert subprocess.run(command, env={**os.environ, **fault}, timeout=60).returncode == -signal.SIGKILL


@pytest.mark.parametrize("point", ["in_backup", "before_backup"])
def test_a_killed_backup_leaves_nothing_that_looks_like_one(point: str, kept: Any, tmp_path: Path) -> None:
    kept.received().settle(JobState.FAILED)
    folder = tmp_path / "backups"
    folder.mkdir()
    killed(point, "take", kept.site.root, folder / "site.tar", tmp_path / "died")
    assert [path.name for path in folder.iterdir()] == [".site.tar.unfinished"]
    assert not list(folder.glob("*.tar"))
    path = back_up(kept, folder)
    assert list(folder.iterdir()) == [path] and verify(path).manifest.files == 8


def test_a_killed_restore_lets_nothing_start_and_goes_on_when_run_again(
    kept: Any, tmp_path: Path, elsewhere: Config
) -> None:
    kept.received().settle(JobState.FAILED)
    path = back_up(kept, tmp_path)
    other = take(kept.site.config, tmp_path / "other.tar", "# another").path
    killed("in_restore", "restore", elsewhere.site.root, path, tmp_path / "died")
    with pytest.raises(UsageError, match="a restore has not ended"):
        Spool(elsewhere.site.root)
    with pytest.raises(UsageError, match="another backup"):
        restore(elsewhere, other, "me")
    restore(elsewhere, path, "me")
    assert len(list(Spool(elsewhere.site.root).instances.glob("??/*.dcm"))) == 3


def test_a_restore_that_was_killed_between_its_last_steps_goes_on(
    kept: Any, tmp_path: Path, elsewhere: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.received().settle(JobState.FAILED)
    path = back_up(kept, tmp_path)
    with monkeypatch.context() as broken:
        broken.setattr(shutil, "rmtree", _broken)
        with pytest.raises(KeyboardInterrupt):
            restore(elsewhere, path, "me")
    restore(elsewhere, path, "me")
    assert len(rows(elsewhere, instance)) == 3
    assert not (elsewhere.site.root / ".restoring").exists()


def test_what_came_into_the_place_meanwhile_is_not_lost(
    kept: Any, tmp_path: Path, elsewhere: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.received().settle(JobState.FAILED)
    path = back_up(kept, tmp_path)
    with monkeypatch.context() as broken:
        broken.setattr("workers.backup.restoring._remove_empty", _broken)
        with pytest.raises(KeyboardInterrupt):
            restore(elsewhere, path, "me")
    came = elsewhere.site.root / "spool" / "instances" / "ab" / "came.dcm"
    came.parent.mkdir(parents=True)
    came.write_bytes(b"new")
    with pytest.raises(UsageError, match=r"came\.dcm came while the backup was restored"):
        restore(elsewhere, path, "me")
    assert came.read_bytes() == b"new"
    came.unlink()
    came.parent.rmdir()
    restore(elsewhere, path, "me")
    assert [row.who for row in rows(elsewhere, audit) if row.what == "restored"] == [
        "me"
    ]  # three tries, once done


def _broken(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_a_backup_is_streamed(kept: Any, tmp_path: Path) -> None:
    """A process with 25 MB of address space more than at its start backs up and verifies a file of 60 MB."""
    large = kept.receive(0)
    with kept.spool.path_of(large).open("r+b") as file:
        file.truncate(60_000_000)
    kept.register()
    code = (
        "import resource, sys\nfrom pathlib import Path\nfrom medpipe.config import parse_config\n"
        "from workers.backup import take, verify\nimport alembic.script\n"
        "config = parse_config({'site': {'root': sys.argv[1]}})\n"
        "size = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (size + 25_000_000,) * 2)\n"
        "verify(take(config, Path(sys.argv[2]), '').path)\n"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(kept.site.root), str(tmp_path / "large.tar")], check=True, timeout=60
    )
