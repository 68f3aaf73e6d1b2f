"""The settings of TLS are tried when they are read: one clear line that names the key."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from local_authority import Identity, LocalAuthority

from medpipe.config import Config, load_config, parse_config
from medpipe.errors import ConfigError

PEER = {"ae_title": "ORTHANC", "host": "127.0.0.1", "port": 4242}


@pytest.fixture(scope="module")
def identity(authority: LocalAuthority) -> Identity:
    return authority.issue("settings")


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Config]:
    """`load({...}, peer={...})` reads settings with these TLS tables for the listener and a peer."""

    def write(listener: dict[str, Any] | None = None, peer: dict[str, Any] | None = None) -> Config:
        document: dict[str, Any] = {"listener": {"tls": listener}} if listener else {}
        if peer is not None:
            document["peers"] = {"PACS": {**PEER, "tls": peer}}
        path = tmp_path / "medpipe.toml"
        path.write_text(tomli_w.dumps(document))
        return load_config(path)

    return write


@pytest.fixture
def complaint(load: Callable[..., Config]) -> Callable[..., str]:
    def ask(*tables: Any, **more: Any) -> str:
        with pytest.raises(ConfigError) as caught:
            load(*tables, **more)
        assert len(str(caught.value).splitlines()) == 1
        return str(caught.value)

    return ask


def test_sound_files_are_taken(load: Any, authority: LocalAuthority, identity: Identity) -> None:
    both = {**identity.settings(), "ca": str(authority.ca)}
    assert load(both, peer=both).peers["PACS"].tls.ca == authority.ca
    assert load(identity.settings(), peer={"ca": str(authority.ca)}).listener.tls.ca is None


@pytest.mark.parametrize("key", ["certificate", "private_key", "ca"])
def test_a_file_that_is_not_there_is_named_with_its_key(
    complaint: Any, authority: LocalAuthority, identity: Identity, key: str
) -> None:
    both = {**identity.settings(), "ca": str(authority.ca), key: "/nowhere/x.pem"}
    sentence = f"{key}: /nowhere/x.pem cannot be read (No such file or directory)"
    assert complaint(both).endswith(f"medpipe.toml: listener.tls.{sentence}")
    assert complaint(peer=both).endswith(f"medpipe.toml: peers.PACS.tls.{sentence}")


@pytest.mark.parametrize("key", ["certificate", "private_key", "ca"])
def test_a_file_of_another_kind(
    complaint: Any, authority: LocalAuthority, identity: Identity, tmp_path: Path, key: str
) -> None:
    (tmp_path / "der").write_bytes(b"\x30\x82\x01\x00")
    both = {**identity.settings(), "ca": str(authority.ca), key: str(tmp_path / "der")}
    assert f"listener.tls.{key}: {tmp_path / 'der'} holds no" in complaint(both)


def test_a_damaged_certificate(complaint: Any, identity: Identity, tmp_path: Path) -> None:
    text = identity.certificate.read_text()
    (tmp_path / "cut.pem").write_text(text[: len(text) // 2])
    cut = str(tmp_path / "cut.pem")
    assert "listener.tls.certificate, listener.tls.private_key: cannot be used" in complaint(
        {**identity.settings(), "certificate": cut}
    )
    assert f"peers.PACS.tls.ca: {cut} cannot be used" in complaint(peer={"ca": cut})


def test_a_key_of_another_certificate(complaint: Any, authority: LocalAuthority, identity: Identity) -> None:
    other = authority.issue("other").private_key
    said = complaint({**identity.settings(), "private_key": str(other)})
    assert f"listener.tls.private_key: {other} is not the key of listener.tls.certificate" in said


@pytest.fixture
def locked(authority: LocalAuthority, identity: Identity) -> dict[str, str]:
    """The certificate with its key under the passphrase "a secret"."""
    return authority.locked(identity, "a secret").settings()


def test_a_key_with_a_passphrase_is_not_asked_for_at_the_terminal(
    complaint: Any, locked: dict[str, str]
) -> None:
    said = complaint(locked)
    assert f"listener.tls.private_key: {locked['private_key']} asks for a password" in said
    assert said.endswith("name its file with passphrase_file")


def test_a_passphrase_opens_the_key(
    load: Any,
    authority: LocalAuthority,
    locked: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "word").write_text("a secret\n")
    monkeypatch.setenv("WORD", "a secret")
    load(
        {**locked, "passphrase_file": str(tmp_path / "word")},
        peer={**locked, "ca": str(authority.ca), "passphrase": "env:WORD"},
    )
    assert parse_config({"review": {**locked, "passphrase": "env:WORD"}}).review.context() is not None


def test_a_wrong_passphrase_is_named_and_not_told(
    complaint: Any, locked: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORD", "another secret")
    said = complaint({**locked, "passphrase": "env:WORD"})
    assert said.endswith(f"listener.tls.passphrase: it does not open {locked['private_key']}")
    damaged = tmp_path / "cut.pem"
    damaged.write_text(Path(locked["certificate"]).read_text()[:200] + "\n-----END CERTIFICATE-----\n")
    said = complaint({**locked, "certificate": str(damaged), "passphrase": "env:WORD"})
    assert f"listener.tls.certificate: {damaged} holds a certificate that cannot be read" in said
    assert "listener.tls.passphrase: the environment has no GONE" in complaint(
        {**locked, "passphrase": "env:GONE"}
    )


def test_half_of_a_pair(complaint: Any, authority: LocalAuthority, identity: Identity) -> None:
    assert "listener.tls.private_key: Field required" in complaint({"certificate": str(identity.certificate)})
    assert "peers.PACS.tls: certificate and private_key belong together" in complaint(
        peer={"ca": str(authority.ca), "certificate": str(identity.certificate)}
    )


def test_whom_to_trust_must_be_said(complaint: Any, identity: Identity) -> None:
    assert "peers.PACS.tls.ca: Field required" in complaint(peer=identity.settings())


@pytest.mark.parametrize("name", [".hospital", "two words"])
def test_a_name_that_no_certificate_has(complaint: Any, authority: LocalAuthority, name: str) -> None:
    said = complaint(peer={"ca": str(authority.ca), "server_name": name})
    assert "peers.PACS.tls.server_name" in said and name in said


def test_an_unknown_key_names_those_of_its_own_table(complaint: Any, identity: Identity) -> None:
    said = complaint({**identity.settings(), "cert": "x"})
    assert said.endswith("known here: certificate, private_key, passphrase, passphrase_file, ca")
