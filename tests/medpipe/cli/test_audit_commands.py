"""`audit export`, `audit verify` and `users`, as a person types them."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import sqlalchemy as sa

from medpipe.cli.app import EXIT_FAILED, EXIT_USAGE, run
from medpipe.config import load_config
from medpipe.review.passwords import is_password
from medpipe.review.users import Users
from workers.audit import note
from workers.registry import Registry
from workers.tables import audit


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    """Settings of a site with a trail of three records."""
    path = tmp_path / "medpipe.toml"
    path.write_text(f'[site]\nroot = "{tmp_path}"\n[review]\nusers_file = "{tmp_path / "users"}"\n')
    registry = Registry(load_config(path).site.database_url)
    registry.migrate()
    with registry.begin() as connection:
        for day in (1, 2, 3):
            note(connection, "anna", "study opened", f"1.2.{day}", {}, at=86_400.0 * day)
    registry.close()
    return path


@pytest.fixture
def medpipe(settings: Path) -> Callable[..., int]:
    return lambda *words: run(["--config", str(settings), *map(str, words)])


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    return lambda text: monkeypatch.setattr("sys.stdin", io.StringIO(text))


def change(settings: Path, statement: Any) -> None:
    registry = Registry(load_config(settings).site.database_url)
    with registry.begin() as connection:
        connection.execute(statement)
    registry.close()


def test_an_export_is_one_document_of_messages_and_is_on_record_itself(
    medpipe: Callable[..., int], tmp_path: Path
) -> None:
    path = tmp_path / "trail.xml"
    assert medpipe("audit", "export", path) == 0
    codes = [
        one.get("csd-code")
        for one in ET.parse(path).getroot().iterfind("AuditMessage/EventIdentification/EventID")
    ]
    assert codes == ["110103"] * 3 + ["110101"]
    assert path.stat().st_mode & 0o077 == 0
    assert medpipe("audit", "export", path) == EXIT_USAGE  # it is there already


def test_a_span_of_days(medpipe: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        medpipe(
            "audit",
            "export",
            "-",
            "--format",
            "jsonl",
            "--since",
            "1970-01-03",
            "--until",
            "1970-01-03T23:00Z",
        )
        == 0
    )
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["study_uid"] == "1.2.2"


@pytest.mark.parametrize(
    ("words", "why"),
    [(("--since", "yesterday"), "--since 'yesterday'"), (("--format", "csv"), "one of xml, jsonl")],
)
def test_what_cannot_be_asked_for(
    medpipe: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, str],
    why: str,
) -> None:
    assert medpipe("audit", "export", tmp_path / "x", *words) == EXIT_USAGE
    assert why in capsys.readouterr().err and not (tmp_path / "x").exists()


def test_a_whole_trail_and_a_spoiled_one(
    medpipe: Callable[..., int], settings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "trail.jsonl"
    assert medpipe("audit", "export", path, "--format", "jsonl") == 0
    assert medpipe("audit", "verify", "--against", path) == 0
    assert f"all 4 records of {path} are there" in capsys.readouterr().out
    change(settings, sa.delete(audit).where(audit.c.number == 4))
    assert medpipe("audit", "verify") == 0
    assert medpipe("audit", "verify", "--against", path) == EXIT_FAILED
    assert "record 4 of" in capsys.readouterr().err
    change(settings, sa.update(audit).where(audit.c.number == 2).values(who="bert"))
    assert medpipe("audit", "verify") == EXIT_FAILED
    assert "INTEGRITY: the audit trail is not whole: record 2 was changed" in capsys.readouterr().err


def test_what_the_repository_has_got_must_still_be_there(
    medpipe: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "audit" / "delivered.json"
    place.parent.mkdir()
    place.write_text(json.dumps({"number": 9, "chain": "a"}))
    assert medpipe("audit", "verify") == EXIT_FAILED
    assert "record 9 is not what the repository has got" in capsys.readouterr().err


def test_users_come_and_go(
    medpipe: Callable[..., int],
    typed: Callable[[str], None],
    settings: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    review = load_config(settings).review
    assert review is not None and review.has_sign_in
    users = Users(review)  # of a review that runs meanwhile
    typed("correct horse\n")
    assert medpipe("users", "add", "anna") == 0
    assert is_password(str(users.hash_of("anna")), "correct horse")
    typed("another horse\n")
    assert medpipe("users", "add", "anna") == 0
    assert is_password(str(users.hash_of("anna")), "another horse")
    assert medpipe("users", "list") == 0
    assert medpipe("users", "remove", "anna") == 0
    assert "anna" not in users
    assert medpipe("users", "remove", "anna") == EXIT_FAILED
    said = capsys.readouterr()
    assert said.out.splitlines() == ["anna: added", "anna: has a new password", "anna", "anna: removed"]
    assert "horse" not in said.out + said.err
    assert medpipe("audit", "export", "-", "--format", "jsonl") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(one["what"], one["detail"]["about"]) for one in lines if one["what"].startswith("user ")] == [
        ("user changed", "anna"), ("user changed", "anna"), ("user removed", "anna"),
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["", "../x", "a b", "x" * 65, "anna\n"])
def test_an_impossible_name(
    medpipe: Callable[..., int], typed: Callable[[str], None], tmp_path: Path, name: str
) -> None:
    typed("correct horse\n")
    assert medpipe("users", "add", name) == EXIT_USAGE
    assert not (tmp_path / "users").exists()


def test_users_need_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "other.toml"
    path.write_text(f'[site]\nroot = "{tmp_path}"\n[review]\n')
    assert run(["--config", str(path), "users", "list"]) == EXIT_USAGE
    assert "review.users_file is not set" in capsys.readouterr().err
