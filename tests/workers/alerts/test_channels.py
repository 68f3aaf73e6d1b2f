"""Somebody is told: by a real HTTP server and a real SMTP server; what goes wrong is one line without a secret."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from local_authority import LocalAuthority
from local_process import free_port

from medpipe.config import Alerts, masked, parse_config
from medpipe.errors import ConfigError
from workers.alerts import ChannelFailed, channels_of, trial_message
from workers.alerts.memory import Alert
from workers.alerts.message import Message

MESSAGE = Message(
    "MEDPIPE@here",
    1_800_000_000.0,
    (Alert("peer:PACS", "ARCHIVE does not answer", "see it", 0.0, 1_799_999_400.0, True),),
    (Alert("failed", "1 jobs have failed", "see it", 5.0, 1_799_990_000.0, True),),
)


def hook(url: str, **options: Any) -> Any:
    (channel,) = channels_of(
        Alerts.model_validate({"webhook": {"urls": [url], **options}}),
        {"HOOK": "Bearer e"},
    )
    return channel


@pytest.fixture
def mail(mail_server: Any, authority: LocalAuthority) -> Callable[..., Any]:
    """`mail(user=...)`: the channel to the SMTP server."""

    def make(environment: dict[str, str] | None = None, **options: Any) -> Any:
        settings = (
            {
                "host": "127.0.0.1",
                "port": mail_server.port,
                "user": "medpipe",
                "sender": "medpipe@hospital.example",
                "to": ["night@hospital.example", "day@hospital.example"],
                "ca": str(authority.ca),
            }
            | ({"password": "env:MAIL"} if environment else {})
            | options
        )
        (channel,) = channels_of(Alerts.model_validate({"mail": settings}), environment or {})
        return channel

    return make


def test_a_webhook_gets_json(webhook: Any, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("Bearer s3cret\n")
    hook(webhook.url, authorization_file=secret).send(MESSAGE)
    ((path, headers, body),) = webhook.posts
    assert (path, headers["Authorization"]) == ("/hook/s3cret-path", "Bearer s3cret")
    assert headers["Content-Type"] == "application/json"
    assert {key: body[key] for key in ("source", "site", "at")} == {
        "source": "medpipe",
        "site": "MEDPIPE@here",
        "at": "2027-01-15T08:00:00Z",
    }
    assert body["alerts"] == [
        {
            "alert": "peer",
            "about": "PACS",
            "state": "began",
            "since": "2027-01-15T07:50:00Z",
            "sentence": "ARCHIVE does not answer",
            "advice": "see it",
        },
        {
            "alert": "failed",
            "about": "",
            "state": "over",
            "since": "2027-01-15T05:13:20Z",
            "sentence": "1 jobs have failed",
            "advice": "see it",
        },
    ]
    assert "peer PACS: ARCHIVE does not answer" in body["text"] and "failed is over" in body["text"]


def test_the_secret_may_stand_in_the_environment(webhook: Any) -> None:
    hook(webhook.url, authorization="env:HOOK").send(MESSAGE)
    assert webhook.posts[0][1]["Authorization"] == "Bearer e"


@pytest.mark.parametrize("status", [301, 400, 500])
def test_an_answer_that_is_no_success_fails_and_no_redirection_is_followed(webhook: Any, status: int) -> None:
    webhook.status = status
    with pytest.raises(ChannelFailed, match=f"HTTP {status}") as raised:
        hook(webhook.url).send(MESSAGE)
    assert "s3cret" not in str(raised.value) and len(webhook.posts) == 1


def test_nobody_there_or_no_file_of_the_secret_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ChannelFailed, match="ConnectError"):
        hook(f"http://127.0.0.1:{free_port()}/s3cret").send(MESSAGE)
    with pytest.raises(ChannelFailed, match="No such file"):
        hook("http://127.0.0.1:1/", authorization_file=tmp_path / "none").send(MESSAGE)


def test_a_secret_does_not_leave_this_machine_unencrypted() -> None:
    with pytest.raises(ChannelFailed, match="use https"):
        hook("http://alerts.hospital.example/x", authorization="env:HOOK").send(MESSAGE)


def test_mail_within_tls_with_a_password(mail: Callable[..., Any], mail_server: Any, tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("s3cret\n")
    mail(password_file=password).send(MESSAGE)
    ((user, recipients, letter),) = mail_server.letters
    assert (user, recipients) == ("medpipe", ["night@hospital.example", "day@hospital.example"])
    assert letter["Subject"] == "medpipe MEDPIPE@here: peer, failed (1 new, 1 over)"
    assert letter["From"] == "medpipe@hospital.example" and letter["Auto-Submitted"] == "auto-generated"
    assert "ARCHIVE does not answer" in letter.get_content()


def test_a_wrong_password_a_foreign_certificate_and_nobody_there(
    mail: Callable[..., Any], mail_server: Any, authority: LocalAuthority, tmp_path: Path
) -> None:
    with pytest.raises(ChannelFailed, match=r"refuses it \(SMTP 535\)") as raised:
        mail({"MAIL": "wr0ng"}).send(MESSAGE)
    assert "wr0ng" not in str(raised.value)
    stranger = LocalAuthority(tmp_path / "stranger")
    with pytest.raises(ChannelFailed, match="SSLCertVerificationError"):
        mail({"MAIL": "s3cret"}, ca=str(stranger.ca)).send(MESSAGE)
    with pytest.raises(ChannelFailed, match="ConnectionRefusedError"):
        mail(port=free_port()).send(MESSAGE)
    assert mail_server.letters == []


def test_a_password_is_never_sent_in_the_clear(mail: Callable[..., Any], mail_server: Any) -> None:
    with pytest.raises(ChannelFailed):
        mail({"MAIL": "s3cret"}, security="none").send(MESSAGE)
    assert mail_server.letters == []


def test_the_test_message_says_that_it_is_one(webhook: Any) -> None:
    hook(webhook.url).send(trial_message("MEDPIPE", 0.0))
    assert webhook.alerts == [("test", "", "began")]
    assert "nothing is wrong" in webhook.posts[0][2]["text"]


@pytest.mark.parametrize(
    ("alerts", "said"),
    [
        ({"webhook": {"urls": ["ftp://x/s3cret"]}}, "http(s)://host/path"),
        ({"webhook": {"urls": ["https://user:s3cret@host/"]}}, "authorization_file"),
        ({"webhook": {"urls": []}}, "at least 1 item"),
        ({"mail": {"host": "mail.example", "security": "none", "sender": "a@b", "to": ["c@d"]}}, "starttls"),
        ({"mail": {"host": "mail.example", "sender": "a@b", "to": ["c d@e"]}}, "night@hospital.example"),
        ({"mail": {"host": "mail.example", "sender": "a@b", "to": ["c@d"], "pass": "x"}}, "password_file"),
    ],
)
def test_settings_that_cannot_be(alerts: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_config({"alerts": alerts})
    assert said in str(raised.value) and "s3cret" not in str(raised.value)


def test_the_settings_are_shown_without_the_address_path() -> None:
    config = parse_config({"alerts": {"webhook": {"urls": ["https://hooks.example/services/s3cret"]}}})
    assert masked(config)["alerts"]["webhook"]["urls"] == ["https://hooks.example/***"]
