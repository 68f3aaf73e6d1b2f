"""Each condition, made to happen, and gone again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from local_authority import LocalAuthority
from local_process import free_port

from medpipe.certificates import first_end
from medpipe.config import parse_config
from workers.alerts.conditions import Condition
from workers.listener import Listener

NOW = 1_800_000_000.0
MINUTE = 60.0


def only(conditions: tuple[Condition, ...], kind: str) -> Condition:
    (found,) = [one for one in conditions if one.key.partition(":")[0] == kind]
    return found


def test_a_site_without_trouble(make_site: Callable[..., Any]) -> None:
    site = make_site()
    site.job("2.25.1", "confirmed", NOW - 90 * MINUTE)
    site.job("2.25.2", "queued", NOW - 5 * MINUTE)
    assert site.look(NOW) == site.look(NOW).__class__(())


def test_a_job_that_waits_too_long(make_site: Callable[..., Any]) -> None:
    site = make_site(alerts={"queue_minutes": 20})
    site.job("2.25.1", "queued", NOW - 25 * MINUTE)
    site.job("2.25.2", "queued", NOW - 5 * MINUTE)
    site.job("2.25.3", "confirmed", NOW - 1 * MINUTE)  # others are finished meanwhile: no standstill
    assert site.keys(NOW) == {"queue"}
    condition = only(site.look(NOW).conditions, "queue")
    assert condition.sentence == "2 jobs wait, the oldest for 25 minutes"
    assert "0 workers are alive" in condition.advice


def test_jobs_that_wait_for_room_on_a_disk(make_site: Callable[..., Any]) -> None:
    site = make_site()
    site.job("2.25.1", "queued", NOW, "DISK_FULL: Disk quota exceeded")
    site.job("2.25.2", "queued", NOW, "INFERENCE_CRASHED: out of memory")
    site.job("2.25.3", "failed", NOW, "DISK_FULL: Disk quota exceeded")  # a person's business
    assert site.keys(NOW) == {"room", "failed"}
    assert only(site.look(NOW).conditions, "room").sentence.startswith("1 jobs wait for room on the disk")


def test_nothing_is_finished_while_a_job_runs(make_site: Callable[..., Any]) -> None:
    site = make_site(alerts={"queue_minutes": 20})
    site.job("2.25.1", "confirmed", NOW - 300 * MINUTE)
    running = site.job("2.25.2", "running", NOW - 40 * MINUTE)
    assert site.keys(NOW) == {"standstill"}
    assert "nothing was finished for 40 minutes" in only(site.look(NOW).conditions, "standstill").sentence
    with site.registry.begin() as connection:
        connection.exec_driver_sql(
            f"UPDATE job SET state = 'confirmed', updated_at = {NOW} WHERE id = '{running}'"
        )
    assert site.keys(NOW) == set()


def test_tries_to_send_do_not_hide_that_nothing_is_finished(make_site: Callable[..., Any]) -> None:
    site = make_site(alerts={"queue_minutes": 20})
    site.job("2.25.1", "running", NOW - 40 * MINUTE)
    site.job("2.25.2", "sending", NOW - 1 * MINUTE)
    assert site.keys(NOW) == {"standstill"}


def test_nobody_registers_what_has_arrived(make_site: Callable[..., Any]) -> None:
    site = make_site()
    arrival = site.config.site.root / "spool" / "arrivals" / "x.json"
    arrival.write_text("{}")
    os.utime(arrival, (NOW - 31 * MINUTE, NOW - 31 * MINUTE))
    assert site.keys(NOW) == {"standstill"}
    assert site.keys(NOW - 2 * MINUTE) == set()


def test_a_study_that_never_becomes_a_job(make_site: Callable[..., Any]) -> None:
    site = make_site()
    with site.registry.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO study (study_uid, calling_aes, first_at, last_at, instances, generation, settled, retention)"
            f" VALUES ('2.25.1', '[]', 1, {NOW - 31 * MINUTE}, 1, 1, 0, 'kept')"
        )
    assert site.keys(NOW) == {"standstill"}


def test_dead_letters_by_number_and_code_never_by_what_the_reason_says(make_site: Callable[..., Any]) -> None:
    site = make_site()
    first = site.job("2.25.1", "failed", NOW - 50, "INFERENCE_CRASHED: died of Doe^Jane")
    condition = only(site.look(NOW).conditions, "failed")
    assert condition.sentence == f"1 jobs have failed; the newest: {first} phantom-2d INFERENCE_CRASHED"
    second = site.job("2.25.2", "failed", NOW - 20, "PACS: PEER_REFUSED: status 0xA900")
    worse = only(site.look(NOW).conditions, "failed")
    assert worse.mark > condition.mark
    assert f"{second} phantom-2d PEER_REFUSED" in worse.sentence and "Doe" not in worse.sentence


def test_a_disk_below_the_watermark(make_site: Callable[..., Any], tmp_path: Path) -> None:
    site = make_site(alerts={"disk": "900000 TB"}, worker={"scratch": str(tmp_path)})
    assert site.keys(NOW) == {"disk:root", "disk:scratch"}
    full = make_site(alerts={"disk": "900000 TB"})
    full.config = full.config.model_copy(
        update={"site": full.config.site.model_copy(update={"minimum_free": 9 * 10**17})}
    )
    assert only(full.look(NOW).conditions, "disk").sentence.endswith("nothing is received any more")
    assert only(full.look(NOW).conditions, "disk").mark > 0


def test_the_database_is_away_and_what_it_knows_is_unknown(make_site: Callable[..., Any]) -> None:
    site = make_site()
    site.job("2.25.1", "failed", NOW)
    site.registry.close()
    path = site.config.site.root / "medpipe.sqlite"
    shutil.move(path, path.with_suffix(".away"))
    path.mkdir()
    seen = site.look(NOW)
    assert [one.key for one in seen.conditions] == ["database"]
    assert seen.unknown == {"queue", "standstill", "room", "failed"}


def test_a_peer_that_does_not_answer_c_echo(make_site: Callable[..., Any], tmp_path: Path) -> None:
    archive = parse_config(
        {
            "site": {"root": str(tmp_path / "archive")},
            "listener": {"ae_title": "ARCHIVE", "port": free_port(), "calling": ["MEDPIPE"]},
        }
    )
    peer = {"ae_title": "ARCHIVE", "host": "127.0.0.1", "port": archive.listener.port, "timeout": 5}
    site = make_site(peers={"PACS": peer}, alerts={"peer_minutes": 12})
    with Listener(archive):
        assert site.keys(NOW) == set()
    condition = only(site.look(NOW).conditions, "peer")
    assert (condition.key, condition.after) == ("peer:PACS", 12 * MINUTE)
    assert "ARCHIVE" in condition.sentence


def test_certificates_that_end(make_site: Callable[..., Any], authority: LocalAuthority) -> None:
    ours, old = authority.issue("ends-in-two-days"), authority.issue("expired", days=-1)
    site = make_site(
        listener={"tls": {**ours.settings(), "ca": str(authority.ca)}},
        review={**old.settings(), "port": 8443},
    )
    end = first_end("ours", ours.certificate).timestamp()
    marks = {}
    for days in (30, 20, 6, 0.5):
        found = {one.key: one for one in site.look(end - days * 86400).conditions}
        marks[days] = found["certificate:listener.tls.certificate"].mark if days < 21 else None
        assert ("certificate:listener.tls.certificate" in found) == (days < 21)
    assert list(marks.values()) == [None, 0.0, 1.0, 2.0]
    expired = {one.key: one for one in site.look(end - 86400).conditions}["certificate:review.certificate"]
    assert expired.sentence.endswith("has expired") and expired.mark == 3.0


@pytest.mark.parametrize("content", ["", "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"])
def test_a_file_without_a_certificate_is_told_too(
    make_site: Callable[..., Any], authority: LocalAuthority, tmp_path: Path, content: str
) -> None:
    ours = authority.issue("soon-broken")
    site = make_site(listener={"tls": ours.settings()})
    ours.certificate.write_text(content)
    condition = only(site.look(NOW).conditions, "certificate")
    assert "listener.tls.certificate" in condition.sentence and "certificate" in condition.advice
