"""Secrets: from a file or from the environment, one rule for all; in no settings, message or repr."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import make_url

from medpipe.cli.app import run
from medpipe.config import Config, Section, is_open_to_others, masked, parse_config, secret, secrets_of
from medpipe.config.audit import Audit
from medpipe.config.network import ListenerTls, OrthancRest, Peer, PeerTls
from medpipe.config.processing import Site
from medpipe.config.reporting import Mail, Webhook
from medpipe.config.review import Review
from medpipe.config.secrets import secret_keys
from medpipe.errors import ConfigError
from medpipe.pacs.orthanc import Orthanc

PEER = {"ae_title": "ORTHANC", "host": "127.0.0.1", "port": 4242}
REST = {"url": "http://127.0.0.1:8042", "user": "medpipe"}
TLS = {"certificate": "/c", "private_key": "/k", "ca": "/a"}
WORD = "hunter2-correct-horse"

Place = tuple[str, str, dict[str, Any]]


def with_keys(place: str, keys: dict[str, Any]) -> dict[str, Any]:
    """A document in which these keys are added to the table at a place, and all else is as it has to be."""
    document: dict[str, Any] = {
        "site": {"database": "postgresql+psycopg://me@db/medpipe"},
        "listener": {"tls": dict(TLS)},
        "review": {},
        "audit": {"tls": dict(TLS)},
        "alerts": {
            "webhook": {"urls": ["https://alerts.example/"]},
            "mail": {"host": "mail.example", "user": "me", "sender": "a@b.example", "to": ["c@d.example"]},
        },
        "peers": {"PACS": {**PEER, "dicomweb_user": "me", "orthanc": dict(REST), "tls": dict(TLS)}},
    }
    table = document
    for part in place.split("."):
        table = table[part]
    table.update(keys)
    return document


SECRETS = [
    ("site", "database_password"),
    ("listener.tls", "passphrase"),
    ("review", "passphrase"),
    ("audit.tls", "passphrase"),
    ("peers.PACS", "dicomweb_password"),
    ("peers.PACS.orthanc", "password"),
    ("peers.PACS.tls", "passphrase"),
    ("alerts.webhook", "authorization"),
    ("alerts.mail", "password"),
]


def test_every_secret_that_there_is_is_tried_here() -> None:
    known = {(kind.__name__, key) for kind in Section.__subclasses__() for key in secret_keys(kind)}
    kinds = {"site": Site, "listener.tls": ListenerTls, "review": Review, "audit.tls": PeerTls, "peers.PACS": Peer,
             "peers.PACS.orthanc": OrthancRest, "peers.PACS.tls": PeerTls,
             "alerts.webhook": Webhook, "alerts.mail": Mail}  # fmt: skip
    assert known == {(kinds[place].__name__, key) for place, key in SECRETS}
    assert secret_keys(Audit) == ()


@pytest.fixture(params=SECRETS, ids=lambda one: ".".join(one))
def each(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Place and key of one secret."""
    place: tuple[str, str] = request.param
    return place


def found(document: dict[str, Any]) -> str | None:
    """What the one secret of a document is."""
    (one,) = secrets_of(parse_config(document))
    place, table, key = one
    word = secret(table, place, key)
    return word.get_secret_value() if word is not None else None


def test_from_a_file(each: tuple[str, str], tmp_path: Path) -> None:
    place, key = each
    file = tmp_path / "secret"
    file.write_text(f" {WORD} with a space\n")  # the line's end is not part of it, a space is
    assert found(with_keys(place, {f"{key}_file": str(file)})) == f" {WORD} with a space"


def test_from_the_environment(each: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    place, key = each
    monkeypatch.setenv("HOSPITAL_SECRET", WORD)
    assert found(with_keys(place, {key: "env:HOSPITAL_SECRET"})) == WORD


def test_in_the_settings_it_is_refused_and_not_repeated(each: tuple[str, str]) -> None:
    place, key = each
    for written in (WORD, f"env:{WORD} x", 5, ["env:A"]):
        with pytest.raises(
            ConfigError, match=rf"{place}.{key}: a secret does not stand in the settings"
        ) as caught:
            parse_config(with_keys(place, {key: written}))
        assert WORD not in str(caught.value) and WORD not in repr(caught.value)


def test_two_ways_at_once_are_one_too_many(each: tuple[str, str]) -> None:
    place, key = each
    with pytest.raises(ConfigError, match=f"{key} and {key}_file are both given") as caught:
        parse_config(with_keys(place, {key: "env:SECRET", f"{key}_file": "/etc/secret"}))
    assert len(str(caught.value).splitlines()) == 1


def test_what_is_missing_is_named(
    each: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, key = each
    monkeypatch.delenv("HOSPITAL_SECRET", raising=False)
    with pytest.raises(ConfigError, match=rf"{place}.{key}: the environment has no HOSPITAL_SECRET"):
        found(with_keys(place, {key: "env:HOSPITAL_SECRET"}))
    file = tmp_path / "secret"
    for content, why in ((None, "cannot be read"), (b"\n", "is empty"), (b"\xff\xfe", "holds no text")):
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(ConfigError, match=rf"{place}.{key}_file: .* {why}"):
            found(with_keys(place, {f"{key}_file": str(file)}))


def test_it_is_shown_nowhere(each: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    place, key = each
    monkeypatch.setenv("HOSPITAL_SECRET", WORD)
    config = parse_config(with_keys(place, {key: "env:HOSPITAL_SECRET"}))
    (one,) = secrets_of(config)
    word = secret(one[1], one[0], one[2])
    assert WORD not in f"{config!r} {config} {masked(config)} {word!r} {word}"


def test_passwords_in_addresses_are_shown_nowhere_either() -> None:
    raw = with_keys("site", {"database": f"postgresql+psycopg://me:{WORD}@db/medpipe"})
    raw["peers"]["PACS"] |= {"dicomweb": f"http://me:{WORD}@pacs/dicom-web", "dicomweb_user": ""}
    config = parse_config(raw)
    assert WORD not in f"{config!r} {masked(config)}"


@pytest.mark.parametrize(
    "raw",
    [
        {"site": {"database": f"postgres://me:{WORD}@db/medpipe"}},
        {"site": {"database": f"postgresql+psycopg://me:{WORD}@db:port/x"}},
        {"peers": {"PACS": {**PEER, "orthanc": {"url": f"http://me:{WORD}@host:8042"}}}},
        {"peers": {"PACS": {**PEER, "orthanc": {**REST, "password": WORD, "colour": 1}}}},
        {"peers": {"PACS": {**PEER, "orthanc": {**REST, "passwort": WORD}}}},
        {"peers": {"PACS": {**PEER, "tls": {"ca": "/a", "certificate": "/c", "passphrase": WORD}}}},
        {"audit": {"repository": f"tls://me:{WORD}@arr:6514"}},
        {"review": {"users": {"anna": WORD}}},
        {"listener": {"tls": {"passphrase": WORD}}},
    ],
    ids=lambda raw: str(raw)[:40],
)
def test_no_complaint_repeats_one(raw: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(raw)
    assert WORD not in str(caught.value)


def test_config_show_prints_where_it_is_and_not_what(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DB", WORD)
    path = tmp_path / "medpipe.toml"
    path.write_text('[site]\ndatabase = "postgresql+psycopg://me@db/medpipe"\ndatabase_password = "env:DB"\n')
    assert run(["--config", str(path), "config", "show"]) == 0
    said = capsys.readouterr()
    assert "env:DB" in said.out and WORD not in said.out + said.err


# --- what they are for -----------------------------------------------------------------------------------------------


def test_the_database_gets_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB", "p@ss/w:rd")
    config = parse_config(
        {"site": {"database": "postgresql+psycopg://me@db:5432/medpipe", "database_password": "env:DB"}}
    )
    url = make_url(config.site.database_url)
    assert (url.username, url.password, url.host, url.database) == ("me", "p@ss/w:rd", "db", "medpipe")


@pytest.mark.parametrize(
    ("database", "why"),
    [("sqlite", "is for a PostgreSQL server"), ("postgresql+psycopg://me:a@db/x", "is another one")],
)
def test_a_password_for_no_server_or_beside_another_is_refused(database: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        parse_config({"site": {"database": database, "database_password": "env:DB"}})


@pytest.fixture
def pacs(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Peer]:
    monkeypatch.setenv("OWN", "own word")
    monkeypatch.setenv("REST", "rest word")
    rest = {**REST, "password": "env:REST"}

    def make(dicomweb: str, **keys: Any) -> Peer:
        return parse_config(
            {"peers": {"PACS": {**PEER, "dicomweb": dicomweb, "orthanc": rest, **keys}}}
        ).peers["PACS"]

    return make


def test_dicomweb_has_its_own_user_or_that_of_the_same_server(pacs: Callable[..., Peer]) -> None:
    same, other = "http://127.0.0.1:8042/dicom-web", "http://127.0.0.1:8043/dicom-web"
    own = {"dicomweb_user": "reader", "dicomweb_password": "env:OWN"}
    assert pacs(same).dicomweb_login("p") == ("medpipe", "rest word")
    assert pacs(same, **own).dicomweb_login("p") == ("reader", "own word")
    assert pacs("http://me:p%40ss@127.0.0.1:8042/dicom-web").dicomweb_login("p") == ("me", "p@ss")
    for elsewhere in (other, "https://127.0.0.1:8042/dicom-web", "http://evil:8042/dicom-web"):
        assert pacs(elsewhere).dicomweb_login("p") is None  # a password goes to its own server only


def test_a_user_of_dicomweb_is_one() -> None:
    for keys, why in (
        ({"dicomweb": "http://a:b@pacs/x", "dicomweb_user": "me"}, "leave one out"),
        ({"dicomweb_password": "env:X"}, "whose password"),
    ):
        with pytest.raises(ConfigError, match=why):
            parse_config({"peers": {"PACS": {**PEER, **keys}}})


def test_orthancs_rest_interface_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REST", "rest word")
    orthanc = Orthanc(OrthancRest(**REST, password="env:REST"))
    assert orthanc._headers["Authorization"] == "Basic bWVkcGlwZTpyZXN0IHdvcmQ="


@pytest.mark.parametrize(
    ("mode", "is_open"),
    [(0o600, False), (0o640, False), (0o400, False), (0o644, True), (0o660, True), (0o602, True)],
)
def test_a_file_that_others_may_read(tmp_path: Path, mode: int, is_open: bool) -> None:
    file = tmp_path / "secret"
    file.touch()
    file.chmod(mode)
    assert is_open_to_others(file) is is_open


def test_nothing_is_set_by_default() -> None:
    assert list(secrets_of(Config())) == []
