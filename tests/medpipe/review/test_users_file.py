"""The file of users: what is in it holds at once; what is wrong with it lets nobody in."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from medpipe.config import Review
from medpipe.errors import ConfigError
from medpipe.review.sessions import Sessions
from medpipe.review.users import Users, UsersFile

A, B = ("scrypt:15:8:3:" + "A" * 22 + ":" + letter * 43 for letter in "AB")


@pytest.fixture
def file(tmp_path: Path) -> UsersFile:
    return UsersFile(tmp_path / "folder" / "users")


def test_a_file_that_is_not_there_names_nobody(file: UsersFile) -> None:
    assert file.users() == {} and "anna" not in Users(Review(users_file=file.path))


def test_a_new_file_is_its_owners_alone_and_a_mode_that_was_chosen_stays(file: UsersFile) -> None:
    assert file.put("anna", A) and not file.put("anna", B)
    assert file.path.stat().st_mode & 0o777 == 0o600
    file.path.chmod(0o640)
    file.put("bert", A)
    assert file.path.stat().st_mode & 0o777 == 0o640
    assert dict(UsersFile(file.path).users()) == {"anna": B, "bert": A}
    assert [path.name for path in file.path.parent.iterdir()] == ["users"]


def test_what_is_changed_by_hand_is_seen(file: UsersFile) -> None:
    users = Users(Review(users_file=file.path, users={"carl": A}))
    file.put("anna", A)
    assert "anna" in users and "carl" in users
    file.path.write_text(f"# of the night shift\n\nbert {B}\n")
    assert "anna" not in users and users.hash_of("bert") == B


@pytest.mark.parametrize("line", ["anna", "anna secret", f"an na {A}", f"../x {A}", f"anna:{A}", "\xff"])
def test_a_file_that_is_wrong_lets_nobody_in_and_is_not_repeated(
    file: UsersFile, line: str, caplog: pytest.LogCaptureFixture
) -> None:
    users = Users(Review(users_file=file.path))
    file.put("bert", A)
    assert "bert" in users
    file.path.write_bytes(f"bert {A}\n".encode() + line.encode("latin-1") + b"\n")
    assert "bert" not in users and "bert" not in users
    assert caplog.text.count("review.users_file: ") == 1 and "secret" not in caplog.text
    with pytest.raises(ConfigError):
        file.users()
    file.path.write_text(f"bert {A}\n")
    assert "bert" in users


def test_who_is_taken_out_is_signed_out(file: UsersFile) -> None:
    users = Users(Review(users_file=file.path))
    file.put("anna", A)
    sessions = Sessions(60, still_one=users.__contains__)
    token = sessions.open("anna")
    assert sessions.user_of(token) == "anna"
    file.remove("anna")
    assert sessions.user_of(token) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_file_that_root_makes_belongs_to_whoever_the_folder_belongs_to(file: UsersFile) -> None:
    file.path.parent.mkdir()
    os.chown(file.path.parent, 10001, 10001)
    file.put("anna", A)
    assert (file.path.stat().st_uid, file.path.stat().st_gid) == (10001, 10001)
