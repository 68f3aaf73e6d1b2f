"""/metrics: what Prometheus' own parser reads there, and that the figures follow the registry."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
import sqlalchemy as sa
from prometheus_client.parser import text_string_to_metric_families

from medpipe.review.metrics import Family, Metrics
from workers.database import clock
from workers.tables import JobState, delivery, executor, job


@pytest.fixture
def figures(configure, registry):
    """A function that reads the page: (name, labels) -> value."""
    metrics = Metrics(configure(), registry, fresh_seconds=0)

    def read():
        return parsed(metrics.text())

    return read


def parsed(text):
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_jobs_studies_and_instances_are_counted(figures, case):
    assert figures()["medpipe_jobs", "confirmed"] == figures()["medpipe_instances_received_total",] == 0
    case().save()
    case(study="1.2.4", state=JobState.QUARANTINED, reason="NO_RULE: none", delivered=None).save()
    now = figures()
    assert (now["medpipe_jobs", "confirmed"], now["medpipe_jobs", "quarantined"]) == (1, 1)
    assert (now["medpipe_jobs", "failed"], now["medpipe_studies", "kept"]) == (0, 2)
    assert (now["medpipe_instances_received_total",], now["medpipe_spool_bytes",]) == (2, 20)
    assert now["medpipe_database_up",] == 1 and now["medpipe_disk_free_bytes",] > 0


def test_a_queued_job_ages_until_it_runs(figures, registry, case):
    number = case(state=JobState.QUEUED, delivered=None).save()
    with registry.begin() as connection:
        connection.execute(sa.update(job).values(updated_at=time.time() - 500))
    assert 500 <= figures()["medpipe_queue_age_seconds",] < 560
    with registry.begin() as connection:
        registry.move(connection, number, JobState.RUNNING)
    now = figures()
    assert (now["medpipe_queue_age_seconds",], now["medpipe_jobs", "running"]) == (0, 1)


def test_seconds_of_steps_are_those_of_the_last_hour(figures, registry, case):
    for number in range(3):
        case(study=f"1.2.{number}").save()
    with registry.begin() as connection:
        for number, seconds in enumerate((1.0, 2.0, 100.0)):
            one = sa.update(job).where(job.c.study_uid == f"1.2.{number}")
            connection.execute(one.values(seconds={"network": seconds}, updated_at=time.time()))
        old = sa.update(job).where(job.c.study_uid == "1.2.2")
        connection.execute(old.values(updated_at=time.time() - 4000))
    now = figures()
    assert now["medpipe_step_seconds", "fundus-lesions", "network", "0.5"] == 1.5
    assert now["medpipe_step_seconds", "fundus-lesions", "network", "0.95"] == pytest.approx(1.95)


def test_a_peer_that_does_not_answer_is_down(figures, registry, case):
    case(delivered="waiting").save()
    assert (figures()["medpipe_peer_up", "PACS"], figures()["medpipe_peer_results_waiting", "PACS"]) == (1, 2)
    with registry.begin() as connection:
        connection.execute(sa.update(delivery).values(reason="PEER_UNREACHABLE: no answer"))
    now = figures()
    assert (now["medpipe_peer_up", "PACS"], now["medpipe_peer_up", "ARCHIVE"]) == (0, 1)
    with registry.begin() as connection:
        connection.execute(sa.update(delivery).values(state="sent", sent_at=1234.5, reason=None))
    now = figures()
    assert (now["medpipe_peer_up", "PACS"], now["medpipe_peer_results_waiting", "PACS"]) == (1, 0)
    assert now["medpipe_peer_last_sent_timestamp_seconds", "PACS"] == 1234.5


def test_workers_that_beat_are_alive(figures, registry):
    with registry.begin() as connection:
        for number, age in enumerate((0, 1, 60)):
            row = {"executor_id": f"e{number}", "host": "h", "boot_id": "b", "pid": number}
            connection.execute(sa.insert(executor).values(**row, beat_at=clock(connection) - age))
    assert figures()["medpipe_workers_alive",] == 2


def test_the_page_is_open_to_a_scraper_and_names_no_study(browser, case):
    case(study="1.2.826.777", reason="UNREADABLE: 1.2.826.777").save()
    client = browser(users={"anna": "scrypt:15:8:3:" + "A" * 24 + ":" + "A" * 43})
    answer = client.get("/metrics")
    assert answer.status_code == 200 and answer.headers["content-type"].startswith(
        "text/plain; version=0.0.4"
    )
    assert parsed(answer.text)["medpipe_jobs", "confirmed"] == 1
    assert "1.2.826" not in answer.text and client.get("/app").status_code == 303


def test_a_database_that_is_away_is_a_figure(browser, tmp_path):
    client = browser()
    client.app.state.site.registry.engine.dispose()
    for path in (tmp_path / "site").glob("medpipe.sqlite*"):
        path.unlink()
    now = parsed(client.get("/metrics").text)
    assert now["medpipe_database_up",] == 0 and ("medpipe_jobs", "queued") not in now


def test_asked_too_often_it_gives_the_last_answer(configure, registry, case):
    metrics = Metrics(configure(), registry, fresh_seconds=1000)
    before = metrics.text()
    case().save()
    assert metrics.text() == before


def test_every_figure_is_explained(figures, registry, case):
    case().save()
    with registry.begin() as connection:
        connection.execute(sa.update(delivery).values(sent_at=1.0))
        connection.execute(sa.update(job).values(seconds={"network": 1.0}, updated_at=time.time()))
    page = (Path(__file__).parents[3] / "docs" / "monitoring.md").read_text()
    table = page.partition("| `medpipe_...` |")[2].partition("## ")[0]
    explained = {
        name
        for line in table.splitlines()[2:]
        for name in re.findall(r"`([a-z_]+)[`{]", line.partition(" | ")[0])
    }
    assert explained == {key[0].removeprefix("medpipe_") for key in figures()}


def test_labels_are_escaped():
    odd = 'a"b\\c\nd'
    text = "\n".join(Family("odd", "An odd name.", (({"peer": odd}, 1.0),)).lines()) + "\n"
    assert parsed(text) == {("medpipe_odd", odd): 1.0}
