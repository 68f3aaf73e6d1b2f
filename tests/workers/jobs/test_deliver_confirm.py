"""Where results stand at their destination: sent later, given up, confirmed, sent again; and only under the claim."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from local_process import free_port
from pynetdicom import AE, evt
from pynetdicom.sop_class import StorageCommitmentPushModel

from medpipe.errors import IntegrityError
from medpipe.identity import uid_from
from medpipe.pacs import CommitmentReport, FailedCommitment
from workers.audit import is_whole, records
from workers.commitments import expect_report, find_report, keep_report
from workers.confirm import Notary
from workers.deliver import Courier
from workers.errands import Errands
from workers.fence import LostClaim
from workers.publish import outbox, publish
from workers.queue import delivery_workflow_id, job_workflow_id
from workers.status import retry, status_rows
from workers.tables import delivery

ME = "host-1-aaaaaaaa"
SEG = "1.2.840.10008.5.1.4.1.1.66.4"
A, B = uid_from("2.25", "A"), uid_from("2.25", "B")
Finding = Callable[..., tuple[Path, dict[str, Any]]]


@pytest.fixture
def sending(make_site: Callable[..., Any], finding: Finding) -> Any:
    """A site with one published job of two results, whose PACS does not answer; it sends twice at most."""
    peer = {"ae_title": "ARCHIVE", "host": "127.0.0.1", "port": free_port(), "commitment": True, "timeout": 1}
    site = make_site(worker={"send_attempts": 2}, peers={"PACS": peer})
    site.job = site.plan()
    workflow = job_workflow_id(site.job, 1)
    token = site.claim(workflow)
    site.put(site.job, state="running")
    publish(
        site.registry, site.queue, site.root, site.registry.job(site.job), *finding("A", "B"), workflow, token
    )
    site.end(workflow)
    return site


def errands(site: Any) -> Errands:
    return Errands(site.config, site.registry, site.queue, ME)


def deliver(site: Any, attempt: int = 1, peers: bool = True) -> str:
    workflow = delivery_workflow_id("deliver", site.job, 1, "PACS", attempt)
    site.claim(workflow)
    said = Courier(site.config, errands(site)).deliver(site.job, "PACS", 1, attempt)
    site.end(workflow)
    return said


def confirm(site: Any, *, committed: tuple[str, ...] = (), failed: dict[str, int] | None = None) -> str:
    """The report on what was sent has come; one look at it."""
    site.sql(
        "UPDATE delivery SET state = 'sent', transaction = '2.25.99'".replace("transaction", '"transaction"')
    )
    site.put(site.job, state="sent", step="confirm")
    failures = tuple(FailedCommitment(SEG, uid, reason) for uid, reason in (failed or {}).items())
    expect_report(site.root, "2.25.99", "ARCHIVE")
    report = CommitmentReport("2.25.99", tuple((SEG, uid) for uid in committed), failures)
    keep_report(site.root, report, "ARCHIVE")
    with site.registry.begin() as connection:
        site.queue.enqueue_delivery(connection, "confirm", site.job, "PACS", 1, 100, 0, 100)
    site.claim(delivery_workflow_id("confirm", site.job, 1, "PACS", 100))
    return Notary(site.config, errands(site)).confirm(site.job, "PACS", 1, 100)


def answering(site: Any, answer: Callable[[Any], int]) -> Any:
    """The archive, for as long as the `with` lasts."""
    archive = AE("ARCHIVE")
    archive.add_supported_context(SEG)
    place = ("127.0.0.1", site.config.peers["PACS"].port)
    return archive.start_server(place, block=False, evt_handlers=[(evt.EVT_C_STORE, answer)])


def tried(site: Any) -> set[int]:
    """How often each result was sent, as it is counted."""
    with site.registry.read() as connection:
        return set(connection.execute(sa.select(delivery.c.attempts)).scalars())


def test_an_archive_that_is_away_is_waited_for_however_long(sending: Any) -> None:
    """Twice `send_attempts`, and none of them counts; then it is there, and gets the results."""
    assert [deliver(sending, attempt) for attempt in range(1, 5)] == ["sending"] * 4
    assert set(sending.deliveries().values()) == {"waiting"} and tried(sending) == {0}
    assert sending.workflows()[delivery_workflow_id("deliver", sending.job, 1, "PACS", 5)][0] == "DELAYED"
    (job,) = status_rows(sending.registry)
    assert job["reason"].startswith("PACS: PEER_UNREACHABLE: ")
    with answering(sending, lambda event: 0x0000) as server:
        assert deliver(sending, 5) == "sent"
        server.shutdown()
    assert tried(sending) == {1}


def test_an_archive_that_cannot_store_is_tried_again_later_and_given_up_at_last(sending: Any) -> None:
    """It is there, and it may be the result that it cannot cope with."""
    with answering(sending, lambda event: 0xA700) as server:
        assert deliver(sending) == "sending" and tried(sending) == {1}
        assert sending.workflows()[delivery_workflow_id("deliver", sending.job, 1, "PACS", 2)][0] == "DELAYED"
        assert deliver(sending, 2) == "failed"
        server.shutdown()
    assert "PEER_BUSY" in sending.registry.job(sending.job).reason
    assert delivery_workflow_id("deliver", sending.job, 1, "PACS", 3) not in sending.workflows()
    retry(sending.registry, sending.queue, sending.job, "me")
    assert tried(sending) == {0}


def test_what_a_result_breaks_the_connection_with_counts(sending: Any) -> None:
    def dies(event: Any) -> int:
        event.assoc.abort()
        return 0

    with answering(sending, dies) as server:
        assert [deliver(sending), deliver(sending, 2)] == ["sending", "failed"]
        server.shutdown()


def test_an_archive_that_was_just_away_is_not_asked_for_each_result(sending: Any) -> None:
    """Each time-out would hold a slot, and other destinations have results to get, too."""
    courier = Courier(sending.config, errands(sending))
    sending.claim(delivery_workflow_id("deliver", sending.job, 1, "PACS", 1))
    assert courier.deliver(sending.job, "PACS", 1, 1) == "sending"
    asked: list[Any] = []
    with answering(sending, lambda event: asked.append(event) or 0x0000) as server:
        sending.claim(delivery_workflow_id("deliver", sending.job, 1, "PACS", 2))
        assert courier.deliver(sending.job, "PACS", 1, 2) == "sending" and asked == []
        server.shutdown()


def test_an_archive_that_is_away_is_asked_for_confirmation_without_end(sending: Any) -> None:
    """Beyond the last look of a sending the numbers go on."""
    sending.sql("UPDATE delivery SET state = 'sent'")
    sending.put(sending.job, state="sent", step="confirm")
    with sending.registry.begin() as connection:
        sending.queue.enqueue_delivery(connection, "confirm", sending.job, "PACS", 1, 199, 0, 100)
    sending.claim(delivery_workflow_id("confirm", sending.job, 1, "PACS", 199))
    notary = Notary(sending.config, errands(sending))
    assert notary.confirm(sending.job, "PACS", 1, 199) == "asked again later"
    assert sending.workflows()[delivery_workflow_id("confirm", sending.job, 1, "PACS", 200)][0] == "DELAYED"
    assert sending.registry.job(sending.job).step == "confirm"
    (job,) = status_rows(sending.registry)
    assert job["reason"].startswith("PACS: PEER_UNREACHABLE: ")


def test_what_was_sent_and_what_was_refused_is_on_record(sending: Any) -> None:
    """The archive takes one result and refuses the other."""

    def taken(event: Any) -> int:
        return 0x0000 if event.request.AffectedSOPInstanceUID == A else 0xA900

    with answering(sending, taken) as server:
        assert deliver(sending) == "failed"
        server.shutdown()
    with sending.registry.read() as connection:
        told = [(one.what, one.study_uid, one.detail) for one in records(connection)][-2:]
        assert is_whole(connection)
    detail = {"source": "MEDPIPE", "destination": "ARCHIVE", "job": sending.job, "classes": {SEG: 1}}
    study = sending.registry.job(sending.job).study_uid
    assert told == [("instances sent", study, detail), ("instances refused", study, detail)]


def test_bytes_that_are_not_those_that_were_published_are_not_sent(sending: Any) -> None:
    (folder,) = outbox(sending.root).iterdir()
    (folder / "A.seg.dcm").write_bytes(b"other")
    assert deliver(sending) == "failed"
    assert "INTEGRITY" in sending.registry.job(sending.job).reason


def test_a_sender_that_lost_its_claim_writes_nothing(sending: Any) -> None:
    workflow = delivery_workflow_id("deliver", sending.job, 1, "PACS", 1)
    sending.claim(workflow)
    errand = errands(sending).begin("deliver", sending.job, "PACS", 1, 1)
    sending.claim(workflow, "another worker")
    with pytest.raises(LostClaim), errands(sending).writing(errand):
        pytest.fail("the fence let it through")


def test_a_cancelled_job_is_not_sent(sending: Any) -> None:
    sending.put(sending.job, state="cancelled")
    assert deliver(sending) == "overtaken"
    assert sending.state(sending.job) == "cancelled"


@pytest.mark.parametrize(("look", "pause"), [(0, 2), (1, 4), (15, 2), (17, 8)])
def test_an_archive_that_does_not_answer_is_asked_again_soon_however_long_a_report_was_waited_for(
    sending: Any, look: int, pause: int
) -> None:
    """Fifteen looks for a report ask nobody; a first question that is not answered after them is a first one."""
    sending.sql("UPDATE delivery SET state = 'sent'")
    sending.put(sending.job, state="sent", step="confirm")
    with sending.registry.begin() as connection:
        sending.queue.enqueue_delivery(connection, "confirm", sending.job, "PACS", 1, 100 + look, 0, 100)
    sending.claim(delivery_workflow_id("confirm", sending.job, 1, "PACS", 100 + look))
    notary = Notary(sending.config, errands(sending))
    assert notary.confirm(sending.job, "PACS", 1, 100 + look) == "asked again later"
    following = delivery_workflow_id("confirm", sending.job, 1, "PACS", 101 + look)
    with sending.registry.read() as connection:
        row = connection.execute(
            sa.text("SELECT created_at, delay_until_epoch_ms FROM workflow_status WHERE workflow_uuid = :id"),
            {"id": following},
        ).one()
    assert (row.delay_until_epoch_ms - row.created_at) / 1000 == pytest.approx(pause, abs=1.5)


def test_what_the_archive_commits_itself_to_is_confirmed(sending: Any) -> None:
    assert confirm(sending, committed=(A, B)) == "confirmed"
    assert sending.deliveries() == {A: "confirmed", B: "confirmed"}
    assert sending.state(sending.job) == "confirmed"
    assert find_report(sending.root, "2.25.99") is None, "the report is dealt with"


def test_what_a_report_says_both_ways_is_not_confirmed(sending: Any) -> None:
    assert confirm(sending, committed=(A, B), failed={B: 0x0112}) == "sending"
    assert sending.deliveries() == {A: "confirmed", B: "waiting"}


def test_what_the_archive_does_not_have_is_sent_again(sending: Any) -> None:
    assert confirm(sending, committed=(A,), failed={B: 0x0112}) == "sending"
    assert sending.deliveries() == {A: "confirmed", B: "waiting"}
    assert delivery_workflow_id("deliver", sending.job, 1, "PACS", 2) in sending.workflows()


def test_what_the_archive_will_not_keep_fails_with_its_reason(sending: Any) -> None:
    assert confirm(sending, committed=(A,), failed={B: 0x0119}) == "failed"
    assert "0x0119" in sending.registry.job(sending.job).reason


def test_what_the_report_leaves_open_is_asked_again(sending: Any) -> None:
    assert confirm(sending, committed=(A,), failed={B: 0x0213}) == "sent"
    assert delivery_workflow_id("confirm", sending.job, 1, "PACS", 101) in sending.workflows()


def test_whose_report_will_count_is_on_disk_before_anybody_is_asked(sending: Any) -> None:
    """The report may come before the request has been answered."""
    sending.sql("UPDATE delivery SET state = 'sent'")
    sending.put(sending.job, state="sent", step="confirm")
    with sending.registry.begin() as connection:
        sending.queue.enqueue_delivery(connection, "confirm", sending.job, "PACS", 1, 100, 0, 100)
    sending.claim(delivery_workflow_id("confirm", sending.job, 1, "PACS", 100))
    taken: list[bool] = []

    def commit(event: Any) -> tuple[int, None]:
        """Two reports on it reach the listener: from the archive that is asked, and from another peer before."""
        transaction = str(event.action_information.TransactionUID)
        report = CommitmentReport(transaction, ((SEG, A), (SEG, B)), ())
        with pytest.raises(IntegrityError):
            keep_report(sending.root, report, "MODALITY")
        taken.append(find_report(sending.root, transaction) is not None)
        keep_report(sending.root, report, "ARCHIVE")
        return 0x0000, None

    archive = AE("ARCHIVE")
    archive.add_supported_context(StorageCommitmentPushModel)
    place = ("127.0.0.1", sending.config.peers["PACS"].port)
    server = archive.start_server(place, block=False, evt_handlers=[(evt.EVT_N_ACTION, commit)])
    assert Notary(sending.config, errands(sending)).confirm(sending.job, "PACS", 1, 100) == "confirmed"
    server.shutdown()
    assert taken == [False] and sending.deliveries() == {A: "confirmed", B: "confirmed"}
