"""The judge of bench/chaos.py is silent where all is well, and sees each rule that is broken."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from havoc.archive import Kept
from havoc.judge import broken_rules, not_in_dead_letter
from havoc.modality import Acknowledged
from havoc.studies import OPHTHALMIC_8_BIT, Picture, data_set_digest, draw_study

from workers import tables
from workers.instance_file import InstanceFile
from workers.publish import outbox, publish
from workers.queue import job_workflow_id
from workers.settle import register_arrivals
from workers.spool import Arrival, Spool


@dataclass
class Judged:
    """One study's whole way: received, acknowledged, processed, at the PACS, confirmed."""

    site: Any
    picture: Picture
    acknowledged: dict[str, Acknowledged] = field(default_factory=dict)
    kept: dict[str, Kept] = field(default_factory=dict)
    contradictions: list[str] = field(default_factory=list)

    @property
    def spooled(self) -> Path:
        (path,) = Spool(self.site.root).instances.glob("??/*.dcm")
        return path

    @property
    def published(self) -> Path:
        (path,) = outbox(self.site.root).glob("*/*.seg.dcm")
        return path

    def broken(self) -> list[str]:
        return broken_rules(
            self.site.root, self.site.registry, self.acknowledged, self.kept, self.contradictions
        )


@pytest.fixture
def study(site: Any, finding: Callable[..., Any]) -> Judged:
    (picture,) = draw_study("judged")
    spool = Spool(site.root)
    file = InstanceFile(spool.incoming, OPHTHALMIC_8_BIT, picture.sop_instance_uid, "1.2.840.10008.1.2.1")
    file.write(picture.data)
    file.close()
    arrival = Arrival(
        picture.sop_instance_uid,
        OPHTHALMIC_8_BIT,
        picture.study_uid,
        picture.series_uid,
        "1.2.840.10008.1.2.1",
        "MODALITY",
        "MEDPIPE",
    )
    spool.receive(file.path, arrival, time.time(), content=file.digest)
    register_arrivals(spool, site.registry)
    job_id = site.plan(picture.study_uid)
    token = site.claim(job_workflow_id(job_id, 1))
    site.put(job_id, state="running")
    row = site.registry.job(job_id)
    publish(site.registry, site.queue, site.root, row, *finding("A"), job_workflow_id(job_id, 1), token)
    site.sql("UPDATE delivery SET state = 'confirmed'")
    site.put(job_id, state="confirmed", step="")
    made = Judged(site, picture)
    made.acknowledged[picture.sop_instance_uid] = Acknowledged(
        picture.study_uid, picture.series_uid, picture.digest, len(picture.data)
    )
    (uid,) = site.current()
    made.kept[uid] = Kept(picture.study_uid, "2.25.9", "", "SEG", data_set_digest(made.published))
    return made


def test_where_all_is_well_it_is_silent(study: Judged) -> None:
    assert study.broken() == []


def lose(study: Judged) -> None:
    study.spooled.unlink()


def spoil(study: Judged) -> None:
    content = bytearray(study.spooled.read_bytes())
    content[-1] ^= 1
    study.spooled.write_bytes(content)


def forget(study: Judged) -> None:
    study.site.sql("DELETE FROM instance")


def never_end(study: Judged) -> None:
    study.site.sql("UPDATE job SET state = 'sent', step = 'confirm'")


def never_begin(study: Judged) -> None:
    study.acknowledged["2.25.4"] = Acknowledged("2.25.5", "2.25.6", "0" * 64, 1)


def find_twice(study: Judged) -> None:
    with study.site.registry.begin() as connection:
        row = dict(connection.execute(sa.select(tables.result)).one()._mapping)
        connection.execute(sa.insert(tables.result).values(row | {"sop_instance_uid": "2.25.77"}))


def lose_at_the_archive(study: Judged) -> None:
    study.kept.clear()


def send_what_was_never_published(study: Judged) -> None:
    study.kept["2.25.88"] = next(iter(study.kept.values()))


def change_the_outbox(study: Judged) -> None:
    study.published.write_bytes(study.published.read_bytes() + b"\0\0")


def contradict(study: Judged) -> None:
    study.contradictions.append("2.25.99")


def rewrite_history(study: Judged) -> None:
    study.site.sql("UPDATE audit SET who = 'nobody' WHERE number = 1")


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lose, "is not in the spool"),
        (spoil, "lies in the spool with other bytes"),
        (forget, "the registry does not know it as such"),
        (never_end, "has no end: sent confirm"),
        (never_begin, "study 2.25.5 has no job"),
        (find_twice, "2 current SEG for 1 pictures"),
        (lose_at_the_archive, "is confirmed, and not so at the PACS"),
        (send_what_was_never_published, "the PACS holds 2.25.88, of which the registry knows nothing"),
        (change_the_outbox, "the outbox does not hold"),
        (contradict, "2.25.99 came to the PACS with two contents"),
        (rewrite_history, "the audit trail is not whole"),
    ],
)
def test_each_broken_rule_is_seen(study: Judged, harm: Callable[[Judged], None], said: str) -> None:
    harm(study)
    assert any(said in line for line in study.broken()), study.broken()


def test_poison_must_be_in_the_dead_letter_with_its_reason(study: Judged) -> None:
    poison = study.picture.study_uid
    assert len(list(not_in_dead_letter([poison], study.site.registry))) == 1
    study.site.sql("UPDATE job SET state = 'failed', reason = 'INFERENCE_CRASHED: it died'")
    assert list(not_in_dead_letter([poison], study.site.registry)) == []
    assert len(list(not_in_dead_letter(["2.25.404"], study.site.registry))) == 1
