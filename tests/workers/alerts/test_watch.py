"""The watch: what happens on a site is told, by every channel, once, through restarts and outages."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest
from local_process import wait_until

from medpipe.errors import UsageError
from workers.alerts import Watch, channels_of, run_watch

NOW = 1_800_000_000.0
MINUTE = 60.0


@pytest.fixture
def watch(make_site: Callable[..., Any], webhook: Any) -> Callable[..., tuple[Any, Callable[[], Watch]]]:
    """`site, start = watch()`: a site whose webhook is the server, and a function that starts a new watch of it."""

    def make(**alerts: Any) -> tuple[Any, Callable[[], Watch]]:
        site = make_site(alerts={"webhook": {"urls": [webhook.url]}, **alerts})
        return site, lambda: Watch(site.config, site.look, channels_of(site.config.alerts, {}))

    return make


def test_a_dead_letter_is_told_once_and_its_end_too(watch: Any, webhook: Any) -> None:
    site, start = watch()
    one = start()
    one.round(NOW)
    assert webhook.posts == []
    failed = site.job("2.25.1", "failed", NOW, "INFERENCE_CRASHED: died")
    for minute in range(10):
        one.round(NOW + minute * MINUTE)
    assert webhook.alerts == [("failed", "", "began")]
    start().round(NOW + 11 * MINUTE)  # after a restart
    assert len(webhook.posts) == 1
    with site.registry.begin() as connection:
        connection.exec_driver_sql(f"UPDATE job SET state = 'confirmed' WHERE id = '{failed}'")
    for minute in (12, 16, 18, 24):
        start().round(NOW + minute * MINUTE)
    assert webhook.alerts == [("failed", "", "began"), ("failed", "", "over")]


def test_a_second_dead_letter_is_told_too(watch: Any, webhook: Any) -> None:
    site, start = watch()
    site.job("2.25.1", "failed", NOW)
    start().round(NOW)
    site.job("2.25.2", "failed", NOW + MINUTE)
    start().round(NOW + MINUTE)
    assert len(webhook.posts) == 1  # at most one message in five minutes
    start().round(NOW + 6 * MINUTE)
    assert [body["alerts"][0]["sentence"][:6] for _, _, body in webhook.posts] == ["1 jobs", "2 jobs"]


def test_a_webhook_that_fails_is_told_later_and_mail_goes_on(
    watch: Any,
    webhook: Any,
    mail_server: Any,
    authority: Any,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Any,
) -> None:
    password = tmp_path / "password"
    password.write_text("s3cret")
    mail = {
        "host": "127.0.0.1",
        "port": mail_server.port,
        "user": "medpipe",
        "password_file": str(password),
        "sender": "medpipe@hospital.example",
        "to": ["night@hospital.example"],
        "ca": str(authority.ca),
    }
    site, start = watch(mail=mail)
    webhook.status = 500
    site.job("2.25.1", "failed", NOW)
    for minute in range(4):
        start().round(NOW + minute * MINUTE)
    assert (len(webhook.posts), len(mail_server.letters)) == (1, 1)
    assert "answers HTTP 500" in caplog.text and "s3cret" not in caplog.text
    webhook.status = 200
    start().round(NOW + 6 * MINUTE)
    assert (len(webhook.posts), len(mail_server.letters)) == (2, 1)


def test_a_channel_with_a_defect_does_not_keep_the_others_from_telling(watch: Any, webhook: Any) -> None:
    site, _ = watch()
    site.job("2.25.1", "failed", NOW)

    class Broken:
        name = "broken"

        def send(self, message: Any) -> None:
            raise ZeroDivisionError

    Watch(site.config, site.look, [Broken(), *channels_of(site.config.alerts, {})]).round(NOW)
    assert webhook.alerts == [("failed", "", "began")]


def test_killed_between_two_channels_it_does_not_tell_the_first_again(watch: Any, webhook: Any) -> None:
    site, start = watch()
    site.job("2.25.1", "failed", NOW)

    class Deadly:
        name = "deadly"

        def send(self, message: Any) -> None:
            raise SystemExit

    with pytest.raises(SystemExit):
        Watch(site.config, site.look, [*channels_of(site.config.alerts, {}), Deadly()]).round(NOW)
    start().round(NOW + 6 * MINUTE)
    assert webhook.alerts == [("failed", "", "began")]


def test_a_fault_of_ours_does_not_end_the_watch(watch: Any, webhook: Any, caplog: Any) -> None:
    site, _ = watch(every=1)
    looks: list[float] = []
    stop = threading.Event()

    def see(now: float) -> Any:
        looks.append(now)
        if len(looks) > 1:
            stop.set()
            return site.look(now)
        raise ValueError("Doe^Jane")

    Watch(site.config, see, channels_of(site.config.alerts, {})).run(stop)
    assert len(looks) == 2 and "stumbled" in caplog.text


def test_the_process_watches_alone_and_the_next_one_takes_over(
    watch: Any, webhook: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    site, _ = watch(every=1)
    site.job("2.25.1", "failed", NOW)
    stops = [threading.Event(), threading.Event()]
    threads = [threading.Thread(target=run_watch, args=(site.config, stop)) for stop in stops]
    threads[0].start()
    assert wait_until(lambda: len(webhook.posts) == 1, 30)
    threads[1].start()
    assert caplog.text.count("watching; tells webhook 127.0.0.1") == 1
    stops[0].set()
    threads[0].join(30)
    assert wait_until(lambda: caplog.text.count("watching; tells webhook 127.0.0.1") == 2, 30)
    stops[1].set()
    threads[1].join(30)
    assert len(webhook.posts) == 1


def test_without_anybody_to_tell_there_is_nothing_to_watch(make_site: Callable[..., Any]) -> None:
    with pytest.raises(UsageError, match=r"alerts\.webhook"):
        run_watch(make_site().config, threading.Event())
