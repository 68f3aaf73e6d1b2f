"""The configuration: every fault names the key, the value and what is allowed."""

from pathlib import Path

import pytest

from medpipe.config import Config, find_config, load_config, masked, parse_config
from medpipe.errors import ConfigError

PEER = {"ae_title": "ORTHANC", "host": "127.0.0.1", "port": 4242}


def complaint(raw: dict[str, object]) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_config(raw, "medpipe.toml")
    return str(caught.value)


def test_every_key_has_a_default_but_peers_and_rules() -> None:
    config = parse_config({})
    assert config.listener.host == "127.0.0.1"
    assert config.site.minimum_free == 5 * 10**9
    assert config.peers == {} and config.rules == ()


def test_an_unknown_key_names_the_known_ones() -> None:
    message = complaint({"listener": {"prot": 104}})
    assert message.startswith("medpipe.toml: listener.prot: unknown key")
    assert "port" in message and "ae_title" in message


@pytest.mark.parametrize(
    ("raw", "key", "given"),
    [
        ({"listener": {"port": 70000}}, "listener.port", "70000"),
        ({"listener": {"ae_title": "A" * 17}}, "listener.ae_title", "AAAA"),
        ({"site": {"minimum_free": "lots"}}, "site.minimum_free", "lots"),
        ({"site": {"uid_root": "1.2.03"}}, "site.uid_root", "1.2.03"),
        ({"site": {"database": "mysql://x"}}, "site.database", "mysql"),
        ({"worker": {"device": "gpu"}}, "worker.device", "gpu"),
        (
            {"peers": {"PACS": {**PEER, "orthanc": {"url": "http://me:secret@host:8042"}}}},
            "peers.PACS.orthanc.url",
            "user and password_file",
        ),
        (
            {"rules": [{"name": "a", "bundle": "b", "when": {"Rows": {"min": 5, "max": 1}}}]},
            "rules.0.when.Rows",
            "min",
        ),
        (
            {"rules": [{"name": "a", "bundle": "b", "when": {"Modality": {"matches": "("}}}]},
            "rules.0.when.Modality",
            "(",
        ),
    ],
)
def test_an_impossible_value_names_key_and_value(raw: dict[str, object], key: str, given: str) -> None:
    message = complaint(raw)
    assert key in message and given in message


def test_a_rule_can_only_send_to_a_known_peer() -> None:
    rule = {"name": "fundus", "bundle": "fundus-lesions", "send": ["PACS"]}
    assert "'PACS', which is no peer (peers: ARCHIVE)" in complaint(
        {"rules": [rule], "peers": {"ARCHIVE": PEER}}
    )
    assert parse_config({"rules": [rule], "peers": {"PACS": PEER}}).rules[0].send == ("PACS",)


def test_two_faults_are_told_at_once() -> None:
    assert len(complaint({"site": {"keep_days": -1}, "listener": {"port": 0}}).splitlines()) == 2


def test_sizes_have_units() -> None:
    assert parse_config({"site": {"minimum_free": "1.5 GiB"}}).site.minimum_free == int(1.5 * 2**30)


def test_broken_toml_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "medpipe.toml"
    path.write_text("[site\n")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_config(path)


def test_the_file_is_searched_in_the_documented_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_config(environment={}) is None or find_config(environment={}) == Path(
        "/etc/medpipe/medpipe.toml"
    )
    (tmp_path / "medpipe.toml").touch()
    assert find_config(environment={}) == Path("medpipe.toml")
    assert find_config(environment={"MEDPIPE_CONFIG": "/x.toml"}) == Path("/x.toml")
    assert find_config(Path("/y.toml"), environment={"MEDPIPE_CONFIG": "/x.toml"}) == Path("/y.toml")


def test_a_password_is_never_shown() -> None:
    config = Config.model_validate({"site": {"database": "postgresql+psycopg://me:secret@db:5432/medpipe"}})
    assert "secret" not in str(masked(config))
    assert "secret" in config.site.database_url


@pytest.mark.parametrize(
    "url", ["orthanc/dicom-web", "ftp://pacs/x", "http://", "http://pacs:port/x", "http://pacs/x?a=b"]
)
def test_dicomweb_is_an_address(url: str) -> None:
    assert "peers.PACS.dicomweb: http(s)://host:port/dicom-web" in complaint(
        {"peers": {"PACS": {**PEER, "dicomweb": url}}}
    )


def test_passwords_are_neither_shown_nor_repeated_in_complaints() -> None:
    raw = {"peers": {"PACS": {**PEER, "dicomweb": "http://medpipe:s3cret@pacs:8042/dicom-web/"}}}
    config = parse_config(raw)
    assert config.peers["PACS"].dicomweb == "http://medpipe:s3cret@pacs:8042/dicom-web"
    assert masked(config)["peers"]["PACS"]["dicomweb"] == "http://medpipe:***@pacs:8042/dicom-web"
    raw["peers"]["PACS"]["dicomweb"] = "http://medpipe:s3cret@pacs:8042/dicom-web?x"
    assert "s3cret" not in complaint(raw)


def test_the_viewed_pacs_is_the_named_one_or_the_first_with_dicomweb() -> None:
    web = {**PEER, "dicomweb": "http://pacs/dicom-web"}
    peers = {"A": PEER, "B": web, "C": web}
    assert parse_config({"peers": {"A": PEER}}).viewed_peer() is None
    assert (parse_config({"peers": peers}).viewed_peer() or ("",))[0] == "B"
    assert (parse_config({"peers": peers, "review": {"pacs": "C"}}).viewed_peer() or ("",))[0] == "C"
    assert "review.pacs is 'D', which is no peer (peers: A, B, C)" in complaint(
        {"peers": peers, "review": {"pacs": "D"}}
    )


def test_certificate_and_key_come_together() -> None:
    assert "certificate and private_key belong together" in complaint({"review": {"certificate": "/x.pem"}})


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "pacs.example"])
def test_who_may_call_must_be_said_where_others_can(host: str) -> None:
    assert f"listener: host '{host}' can be reached by others: say who may call" in complaint(
        {"listener": {"host": host}}
    )
    for calling in (["PACS"], ["*"]):
        assert parse_config({"listener": {"host": host, "calling": calling}}).listener.host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_on_loopback_anyone_may_call(host: str) -> None:
    assert parse_config({"listener": {"host": host}}).listener.calling == ("*",)


def test_an_empty_list_of_callers_is_not_taken_for_anyone() -> None:
    assert "listener: calling is empty" in complaint({"listener": {"calling": []}})
