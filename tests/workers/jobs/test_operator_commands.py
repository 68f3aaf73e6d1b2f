"""`medpipe remove`, `backup`, `restore` and `explain` as an operator types them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from medpipe.cli.app import run
from medpipe.logs import pseudonym
from workers.tables import JobState

Type = Callable[..., tuple[int, str, str]]


@pytest.fixture
def type_in(kept: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Type]:
    """`type_in("remove", "--failed")`: exit code, stdout, stderr."""
    settings = tmp_path / "medpipe.toml"
    settings.write_text(
        f'[site]\nroot = "{kept.site.root}"\n'
        '[peers.PACS]\nae_title = "A"\nhost = "127.0.0.1"\nport = 1\n'
        'dicomweb = "http://me:secret@127.0.0.1/dicom-web"\n'
        '[[rules]]\nname = "spots"\nwhen = { Modality = "OP" }\nbundle = "phantom-2d"\nsend = ["PACS"]\n'
    )
    levels = {
        name: logger.level
        for name, logger in logging.root.manager.loggerDict.items()
        if hasattr(logger, "level")
    }

    def call(*words: str) -> tuple[int, str, str]:
        code = run(["--config", str(settings), *words])
        said = capsys.readouterr()
        return code, said.out, said.err

    yield call
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def test_removing_asks_first(kept: Any, type_in: Type) -> None:
    kept.received().settle(JobState.FAILED, reason="TIME_LIMIT: too slow")
    code, _, said = type_in("remove", "--failed")
    assert code == 2 and "Remove 3 instances" in said and "--yes" in said and kept.files() == 6
    code, said, _ = type_in("remove", "--failed", "--older-than", "1d", "--yes")
    assert (code, said, kept.files()) == (0, f"removed: {kept.study}\n", 0)
    assert type_in("remove", "--failed", "--yes") == (0, "nothing to remove\n", "")


@pytest.mark.parametrize(
    "words", [("remove",), ("remove", "2.25.1", "--failed"), ("remove", "--failed", "--older-than", "soon")]
)
def test_what_to_remove_has_to_be_said(words: tuple[str, ...], type_in: Type) -> None:
    code, out, said = type_in(*words)
    assert (code, out) == (2, "") and said.startswith("error: USAGE")


def test_a_removed_study_explains_itself(kept: Any, type_in: Type) -> None:
    kept.received().settle(JobState.QUARANTINED, reason="GEOM_GAP: a slice is missing")
    type_in("remove", kept.study, "--yes")
    code, said, _ = type_in("explain", kept.study)
    assert code == 0 and "the files of 3 of its 3 instances were removed on" in said and "GEOM_GAP" in said
    assert type_in("explain", "2.25.404")[0] == 1


def test_a_study_is_explained_and_removed_by_its_name_in_the_log(kept: Any, type_in: Type) -> None:
    kept.received().settle(JobState.FAILED, reason="TIME_LIMIT: too slow")
    name = pseudonym(kept.study)
    code, said, _ = type_in("explain", name)
    assert (code, said) == type_in("explain", kept.study)[:2] and code == 0 and "unreadable: " in said
    assert type_in("status", name, "--json") == type_in("status", kept.study, "--json")
    assert type_in("remove", name[:-4], "--yes") == (0, f"removed: {kept.study}\n", "")
    assert (
        "were removed on" in type_in("explain", pseudonym("2.25.1.0"))[1]
    )  # as the log names a series of it


@pytest.mark.parametrize("command", ["explain", "status", "retry", "cancel", "remove", "reprocess"])
def test_a_name_that_the_log_has_for_nothing_here_is_said_to_be_so(command: str, type_in: Type) -> None:
    code, out, said = type_in(command, "uid-0123456789abcdef")
    assert (code, out) == (1, "") and said.startswith(
        "error: NOT_FOUND: uid-0123456789abcdef: nothing that was"
    )


def test_a_name_that_is_not_whole_must_be_of_one_study(kept: Any, type_in: Type) -> None:
    """Two of these studies have names that begin alike, by the pigeonhole principle with one digit to spare."""
    names: dict[str, list[str]] = {}
    for number in range(16**4 + 1):
        alike = names.setdefault(pseudonym(f"2.25.{number}")[:8], [])
        alike.append(f"2.25.{number}")
        if len(alike) == 2:
            break
    for uid in alike:
        kept.registry.mark_retrieval(uid, None)
    start = pseudonym(alike[0])[:8]
    code, _, said = type_in("explain", start)
    assert code == 2 and all(pseudonym(uid) in said for uid in alike) and "give more of it" in said
    code, _, said = type_in("explain", pseudonym(alike[1])[:-1])
    assert code == 1 and alike[1] in said  # found, and nothing of it is here
    assert type_in("explain", "uid-12")[0] == type_in("explain", "uid-not-hex")[0] == 2


def test_a_refused_study_says_what_became_of_it_below_the_rules(kept: Any, type_in: Type) -> None:
    kept.received().settle(JobState.QUARANTINED, reason="GEOM_GAP: a slice is missing")
    for name in (kept.study, pseudonym(kept.study)):
        code, said, _ = type_in("explain", name)
        lines = said.splitlines()
        assert code == 0 and lines[-2].endswith(": quarantined: GEOM_GAP: a slice is missing")
        assert (
            lines[-1] == "  GEOM_GAP, what to do: send the missing instance; the study is then processed anew"
        )


def test_a_backup_holds_the_settings_without_secrets_and_comes_back(
    kept: Any, type_in: Type, tmp_path: Path
) -> None:
    kept.received().settle(JobState.FAILED)
    folder = tmp_path / "backups"
    folder.mkdir()
    assert type_in("backup", str(folder))[0] == 0
    (path,) = folder.iterdir()
    assert b"secret" not in path.read_bytes() and b"me:***@" in path.read_bytes()
    code, said, _ = type_in("backup", "--verify", str(path))
    assert code == 0 and "whole" in said
    kept.site.root.rename(tmp_path / "gone")
    code, said, note = type_in("restore", str(path))
    assert code == 0 and "restored" in said and note == ""
    assert kept.files() == 6


def test_commands_refuse_a_newer_database_in_one_line(kept: Any, type_in: Type) -> None:
    kept.site.sql("UPDATE medpipe_revision SET version_num = '0999'")
    for words in (("status",), ("retry", "2.25.1"), ("remove", "2.25.1"), ("init",), ("work",)):
        code, _, said = type_in(*words)
        assert code == 1 and len(said.splitlines()) == 1, words
        # what runs as a service says it in its log
        began = '"message":"' if words == ("work",) else "error: "
        assert f"{began}DATABASE_NEWER: the database is of a newer version" in said, words


def test_commands_say_that_an_older_database_has_to_be_migrated(kept: Any, type_in: Type) -> None:
    kept.site.sql("UPDATE medpipe_revision SET version_num = '0001'")
    code, _, said = type_in("status")
    assert code == 2 and "`medpipe init` migrates it" in said
