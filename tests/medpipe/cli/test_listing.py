"""`medpipe status` for people: whole UIDs, one line a job, why it was refused and what to do."""

from __future__ import annotations

from typing import Any

from medpipe.cli.listing import listed, summed

UID = "1.2.826.0.1.3680043.8.498.17256976650935622741719775112345678901"


def row(**values: Any) -> dict[str, Any]:
    """A job as `status_rows` gives it."""
    return {
        "job": "0a1b", "study": UID, "bundle": "fundus-lesions", "bundle_version": "0.3.0", "rule": "eyes",
        "priority": "routine", "state": "confirmed", "step": "", "attempts": 1, "reason": None,
        "received_at": "2026-11-26T16:58:01.000+00:00", "updated_at": "2026-11-26T17:02:59.123+00:00",
        "images": [], "seconds": {}, "results": [], **values,
    }  # fmt: skip


SENT = [
    {"sop_instance_uid": "2.25.1", "sop_class": "1.2.840.10008.5.1.4.1.1.66.4", "destination": "PACS", "state": "sent"},
    {"sop_instance_uid": "2.25.2", "sop_class": "1.2.840.10008.5.1.4.1.1.88.34", "destination": None, "state": "made"},
]  # fmt: skip


def test_a_line_a_job_with_its_whole_uid_in_columns() -> None:
    lines = list(listed([row(), row(bundle=None, bundle_version=None, state="ignored")], detailed=False))
    assert lines == [
        f"2026-11-26 17:02  confirmed  fundus-lesions 0.3.0  {UID}",
        f"2026-11-26 17:02  ignored    -                     {UID}",
    ]


def test_what_was_found_is_summed_over_the_images() -> None:
    images = [
        {"name": name, "outcome": "done", "reason": None, "lesions": {"MA": 3, "HE": 0}}
        for name in ("a", "b")
    ]
    _, found, results = listed([row(images=images, results=SENT)], detailed=False)
    assert found == "    found 6 MA, 0 HE" and results == "    results: 1 sent, 1 made"


def test_of_one_study_also_what_to_do_and_each_result() -> None:
    reason = "GEOM_GAP: 1 slice is missing; COLOUR: a colour picture"
    lines = list(listed([row(reason=reason, results=SENT, step="send")], detailed=True))
    assert lines[0].split("  ")[1] == "confirmed (send)"
    assert [line.strip() for line in lines[1:]] == [
        reason,
        "GEOM_GAP, what to do: send the missing instance; the study is then processed anew",
        "COLOUR, what to do: route other series",
        "SEG 2.25.1: sent at PACS",
        "SR 2.25.2: made",
        "job 0a1b, rule 'eyes', routine, received 2026-11-26 16:58",
    ]


def test_the_sum_says_what_is_not_listed() -> None:
    assert summed({"failed": 1, "confirmed": 60}, 50) == (
        "61 jobs: 60 confirmed, 1 failed; the newest 50 are listed (--limit). Times are UTC."
    )
    assert summed({"failed": 1}, 1) == "1 job: 1 failed. Times are UTC." and summed({}, 0).startswith(
        "0 jobs."
    )
