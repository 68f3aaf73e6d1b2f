"""`review`, `hash-password`, `fetch-viewer`: what they say to a person and what they refuse."""

from __future__ import annotations

import io

import pytest

from medpipe.cli.app import EXIT_FAILED, EXIT_USAGE, run
from medpipe.review.passwords import is_password


@pytest.fixture
def typed(monkeypatch):
    """What a pipe gives to the command."""
    return lambda text: monkeypatch.setattr("sys.stdin", io.StringIO(text))


def test_a_hash_is_of_the_password_that_was_piped_in(typed, capsys):
    typed("correct horse\n")
    assert run(["hash-password"]) == 0
    assert is_password(capsys.readouterr().out.strip(), "correct horse")


def test_a_short_password_is_refused(typed, capsys):
    typed("1234567\n")
    assert run(["hash-password"]) == EXIT_USAGE
    said = capsys.readouterr()
    assert said.out == "" and "at least 8 characters" in said.err and "1234567" not in said.err


def test_an_open_address_without_users_is_refused_in_one_line(tmp_path, capsys):
    path = tmp_path / "medpipe.toml"
    path.write_text(f'[site]\nroot = "{tmp_path}"\n[review]\nhost = "0.0.0.0"\n')
    assert run(["--config", str(path), "review"]) == EXIT_USAGE
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "users is empty" in line and "medpipe hash-password" in line


def test_another_package_than_the_pinned_one_is_refused(tmp_path, capsys):
    package, settings = tmp_path / "ohif.tgz", tmp_path / "medpipe.toml"
    package.write_bytes(b"something else")
    settings.write_text(f'[review]\nviewer = "{tmp_path / "viewer"}"\n')
    assert run(["--config", str(settings), "fetch-viewer", "--package", str(package)]) == EXIT_FAILED
    assert "INTEGRITY" in capsys.readouterr().err and not (tmp_path / "viewer").exists()
