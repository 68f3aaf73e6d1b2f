"""What `medpipe doctor` says of certificates and secrets: in time, by name, and never what they are."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from local_authority import Identity, LocalAuthority

from medpipe.config import Config, parse_config
from workers.selftest import check_site
from workers.selftest.check import Check, State
from workers.selftest.credentials import check_certificates, check_secrets

PEER = {"ae_title": "ORTHANC", "host": "127.0.0.1", "port": 4242}


@pytest.fixture(scope="module")
def lasting(authority: LocalAuthority) -> Identity:
    return authority.issue("lasting", days=31)


@pytest.fixture(scope="module")
def ending(authority: LocalAuthority) -> Identity:
    return authority.issue("ending", days=29)


@pytest.fixture(scope="module")
def ended(authority: LocalAuthority) -> Identity:
    return authority.issue("ended", days=-1)


def looked_at(config: Config, now: datetime | None = None) -> dict[str, Check]:
    return {check.name: check for check in check_certificates(config, now)}


def test_certificates_are_told_of_in_time(lasting: Identity, ending: Identity, ended: Identity) -> None:
    found = looked_at(
        parse_config(
            {
                "listener": {"tls": ending.settings()},
                "review": lasting.settings(),
                "peers": {"PACS": {**PEER, "tls": {"ca": str(ended.certificate)}}},
            }
        )
    )
    assert {name: check.state for name, check in found.items()} == {
        "listener.tls.certificate": State.NOTE,
        "review.certificate": State.OK,
        "peers.PACS.tls.ca": State.FAILED,
    }
    assert "ending.pem expires on" in found["listener.tls.certificate"].found
    assert "in 28 days" in found["listener.tls.certificate"].found
    assert found["listener.tls.certificate"].advice == "have it renewed"
    assert "ended.pem expired on" in found["peers.PACS.tls.ca"].found


def test_every_certificate_that_the_settings_name_is_looked_at(lasting: Identity) -> None:
    both = {**lasting.settings(), "ca": str(lasting.certificate)}
    config = parse_config(
        {
            "listener": {"tls": both},
            "review": lasting.settings(),
            "audit": {"tls": both},
            "peers": {name: {**PEER, "tls": both} for name in ("A", "B")},
        }
    )
    tables = ("listener.tls", "audit.tls", "peers.A.tls", "peers.B.tls")
    wanted = {f"{table}.{key}" for table in tables for key in ("certificate", "ca")} | {"review.certificate"}
    assert set(looked_at(config)) == wanted


def test_the_first_one_of_a_file_to_end_counts(
    authority: LocalAuthority, ended: Identity, tmp_path: Path
) -> None:
    path = tmp_path / "chain.pem"
    path.write_text(authority.issue("leaf", days=90).certificate.read_text() + ended.certificate.read_text())
    tls = {"certificate": str(path), "private_key": str(ended.private_key)}
    (check,) = looked_at(parse_config({"listener": {"tls": tls}})).values()
    assert check.state is State.FAILED and "chain.pem (one of 2) expired" in check.found


def test_a_clock_that_is_wrong(lasting: Identity) -> None:
    config = parse_config({"review": lasting.settings()})
    (check,) = looked_at(config, datetime.now(UTC) - timedelta(days=400)).values()
    assert (check.state, check.advice) == (State.FAILED, "is this machine's clock right?")


def test_a_file_that_is_gone(tmp_path: Path) -> None:
    pair = {"certificate": str(tmp_path / "gone.pem"), "private_key": str(tmp_path / "gone.key")}
    (check,) = looked_at(parse_config({"review": pair})).values()
    assert check.state is State.FAILED and check.found.startswith("review.certificate: ")


@pytest.fixture
def rest(tmp_path: Path) -> Callable[[int], Config]:
    """`rest(0o644)`: settings that name a password's file with this mode."""

    def make(mode: int) -> Config:
        file = tmp_path / "word"
        file.write_text("hunter2")
        file.chmod(mode)
        orthanc = {"url": "http://127.0.0.1:8042", "user": "me", "password_file": str(file)}
        return parse_config({"peers": {"PACS": {**PEER, "orthanc": orthanc}}})

    return make


def test_secrets_that_lie_open(rest: Callable[[int], Config]) -> None:
    (check,) = check_secrets(rest(0o644))
    assert (check.name, check.state) == ("peers.PACS.orthanc.password", State.NOTE)
    assert "others" in check.found and check.advice.startswith("chmod 0640 ")
    (check,) = check_secrets(rest(0o640))
    assert (check.name, check.state) == ("secrets", State.OK)


def test_secrets_that_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GONE", raising=False)
    database = {"database": "postgresql+psycopg://me@db/x", "database_password": "env:GONE"}
    (check,) = check_secrets(parse_config({"site": database}))
    assert check.state is State.FAILED
    assert check.found == "site.database_password: the environment has no GONE"


def test_keys_and_users_that_lie_open(authority: LocalAuthority, tmp_path: Path) -> None:
    identity, users = authority.issue("open"), tmp_path / "users"
    identity.private_key.chmod(0o644)
    users.touch(0o666)
    users.chmod(0o666)
    config = parse_config({"listener": {"tls": identity.settings()}, "review": {"users_file": str(users)}})
    found = {check.name: check.state for check in check_secrets(config)}
    assert found == {"listener.tls.private_key": State.NOTE, "review.users_file": State.NOTE}


def test_a_password_in_an_address_is_noted_and_not_told() -> None:
    config = parse_config(
        {
            "site": {"database": "postgresql+psycopg://me:hunter2@db/x"},
            "peers": {
                "PACS": {**PEER, "dicomweb": "http://me:hunter2@pacs/x"},
                "B": {**PEER, "dicomweb": "http://p/x"},
            },
        }
    )
    checks = list(check_secrets(config))
    assert {check.name for check in checks} == {"site.database", "peers.PACS.dicomweb"}
    assert "hunter2" not in str(checks)


def test_the_doctor_looks_at_both(ended: Identity, rest: Callable[[int], Config], tmp_path: Path) -> None:
    document: dict[str, Any] = rest(0o644).model_dump(mode="json", exclude_none=True, include={"peers"})
    site = {"site": {"root": str(tmp_path / "root")}, "review": ended.settings()}
    found = {}
    for check in check_site(parse_config(document | site)):
        found[check.name] = check.state
        if check.name == "database":
            break  # the rest is the network, the GPU, the bundles
    assert found["review.certificate"] is State.FAILED
    assert found["peers.PACS.orthanc.password"] is State.NOTE
