"""The worklist: what is where, in plain words, with links that open a picture and its segmentation."""

from __future__ import annotations

import json
import re

import pytest
import sqlalchemy as sa

from medpipe.review.words import GROUPS, STATES, commands, plain_reason
from workers.spool import Sidecar
from workers.tables import JobState, result


@pytest.fixture
def lines(browser):
    """`lines(text=..., group=...)`: the answer of a search."""
    client = browser()

    def ask(**question):
        answer = client.post("/api/search", json=question)
        assert answer.status_code == 200, answer.text
        return answer.json()["lines"]

    return ask


def test_a_confirmed_result_can_be_opened_with_its_segmentation(case, lines):
    case().save()
    (line,) = lines()
    (job,) = line["study"]["jobs"]
    assert (job["state"], job["words"]) == ("confirmed", "Result is in the PACS")
    assert [(f["name"], f["count"]) for f in job["findings"]] == [("Microaneurysms", 3), ("Haemorrhages", 0)]
    link = "/viewer?StudyInstanceUIDs=1.2.3&SeriesInstanceUIDs=1.2.3.1,1.2.3.9&hangingProtocolId=@ohif/seg"
    assert line["study"]["link"] == job["pictures"][0]["link"] == link
    assert {(r["kind"], r["destination"], r["state"]) for r in job["results"]} == {
        ("SEG", "PACS", "confirmed"),
        ("SR", "PACS", "confirmed"),
    }


@pytest.mark.parametrize(
    "values", [{"delivered": "waiting"}, {"delivered": None}, {"destination": "ARCHIVE"}]
)
def test_a_segmentation_that_the_viewed_pacs_lacks_is_not_linked(case, lines, values):
    case(state=JobState.SENDING, **values).save()
    (line,) = lines()
    assert line["study"]["link"] == "/viewer?StudyInstanceUIDs=1.2.3&SeriesInstanceUIDs=1.2.3.1"
    assert not line["study"]["jobs"][0]["pictures"][0]["has_segmentation"]


def test_a_refusal_says_why_in_plain_words(case, browser):
    reason = "GEOM_GAP: a slice is missing between 4 and 5; COLOUR: <b>colour</b> where grey is needed"
    case(state=JobState.QUARANTINED, reason=reason, delivered=None).save()
    page = browser().get("/app/studies/1.2.3").text
    assert ">Refused</span>" in page
    words = " ".join(re.sub("<[^>]*>", "", page).split())
    assert "A slice is missing. A slice is missing between 4 and 5. GEOM_GAP" in words
    assert "What to do: Send the missing instance; the study is then processed anew." in words
    assert "&lt;b&gt;colour&lt;/b&gt;" in page and "<b>colour" not in page


def test_a_result_that_waits_for_the_pacs_says_so(case, lines):
    case(state=JobState.SENDING, delivered="waiting", held_up="PEER_UNREACHABLE: it does not answer").save()
    (job,) = lines()[0]["study"]["jobs"]
    (reason,) = job["reasons"]
    assert reason["code"] == "PEER_UNREACHABLE" and reason["sentence"] == "It does not answer."
    assert "medpipe check-destination" in reason["advice"]


def test_names_come_from_the_pacs_and_are_escaped(case, browser, pacs, person):
    case().save()
    pacs.says("studies", [person("1.2.3", "Doe^<script>alert(1)</script>^X")])
    page = browser().get("/app").text
    assert "Doe, &lt;script&gt;" in page and "<script>alert" not in page
    assert pacs.asked[-1][1].startswith("StudyInstanceUID=1.2.3&")


def test_a_search_finds_by_what_the_pacs_knows(case, lines, pacs, person):
    for number, name in enumerate(("Doe^Jane", "Roe^Richard")):
        case(study=f"1.2.{number}", received=1000.0 + number).save()
        pacs.answers.clear()
        pacs.says("studies", [person("1.2.0", "Doe^Jane", "P-7"), person("1.2.1", name)])

    def found(text):
        return [line["study"]["study_uid"] for line in lines(text=text)]

    assert found("") == ["1.2.1", "1.2.0"]  # received last first
    assert found("doe ja") == ["1.2.0"] and found("P-7") == ["1.2.0"] and found("RICHARD") == ["1.2.1"]
    assert found("1.2.0") == ["1.2.0"] and found("nobody") == []


def test_a_pacs_that_is_away_costs_the_names_only(case, browser):
    case().save()
    page = browser(dicomweb="http://127.0.0.1:9/dicom-web").get("/app").text
    assert "no name" in page and "Result is in the PACS" in page


def test_the_list_can_be_narrowed(case, lines):
    case(study="1.2.1", state=JobState.FAILED, reason="boom").save()
    case(study="1.2.2").save()
    assert [line["study"]["study_uid"] for line in lines(group="failed")] == ["1.2.1"]
    assert [line["study"]["study_uid"] for line in lines(group="done")] == ["1.2.2"]
    assert lines(group="under way") == []


def test_there_may_be_more_than_is_shown(case, browser):
    for number in range(3):
        case(study=f"1.2.{number}").save()
    answer = browser().post("/api/search", json={"limit": 2}).json()
    assert len(answer["lines"]) == 2 and answer["more"]


def test_groups_that_need_a_person_have_their_number(case, browser, registry):
    case(study="1.2.1", state=JobState.FAILED, reason="boom").save()
    case(study="1.2.2", state=JobState.QUARANTINED, reason="COLOUR: a colour picture").save()
    case(study="1.2.3", content="older", state=JobState.FAILED, reason="boom").save()
    case(study="1.2.3", content="newer", planned=1_700_000_002.0).save()
    registry.register(
        [Sidecar("f", "1.9.1", "1.2.840.10008.5.1.4.1.1.7", "1.9", "1.9.2", "1.2", "d", 1, "A", "M", 5.0)]
    )
    client = browser()
    answer = client.post("/api/search", json={"group": "refused"}).json()
    assert answer["counts"] == {"under way": 1, "failed": 1}
    assert [line["study"]["study_uid"] for line in answer["lines"]] == ["1.2.2"]
    assert json.loads(client.post("/app/rows", data={"text": ""}).headers["x-counts"]) == answer["counts"]
    assert '<b data-count="failed">1</b>' in client.get("/app").text


def test_what_is_left_out_of_a_result_is_said_beside_it(case, browser):
    case(reason="LOCALIZER: a localizer is a scout picture, not a slice of a volume").save()
    words = " ".join(re.sub("<[^>]*>", "", browser().get("/app").text).split())
    assert (
        "Left out: A scout picture. A localizer is a scout picture, not a slice of a volume. LOCALIZER"
        in words
    )


def test_only_the_newest_job_of_a_bundle_counts(case, lines):
    case(content="older", planned=1.0, delivered=None, lesions={"MA": 99}).save()
    newest = case(content="newer", planned=2.0, delivered=None).save()
    other = case(bundle="phantom", delivered=None).save()
    jobs = {job["bundle"]: job["job"] for job in lines()[0]["study"]["jobs"]}
    assert jobs == {"fundus-lesions": newest, "phantom": other}


def test_what_a_newer_job_has_mended_is_not_listed_as_failed(case, lines):
    case(content="older", planned=1.0, delivered=None, state=JobState.FAILED, reason="boom").save()
    case(content="newer", planned=2.0).save()
    assert lines(group="failed") == [] and len(lines(group="done")) == 1


def test_that_no_rule_wanted_it_is_not_said_of_a_study_that_one_wants_now(case, lines):
    case(bundle="", planned=1.0, delivered=None, state=JobState.IGNORED, lesions={}).save()
    assert lines()[0]["study"]["jobs"][0]["words"] == "Not analysed: no rule asks for it"
    case(planned=2.0).save()
    assert [job["bundle"] for job in lines()[0]["study"]["jobs"]] == ["fundus-lesions"]


def test_a_series_that_was_refused_stays_beside_what_was_made_of_the_others(case, lines):
    """Both come of one settling; the row without a bundle says what belongs to no job."""
    reason = "SERIES_IN_TWO_STUDIES: series 1.2.3.7 came first as part of study 1.2.9"
    for content in ("one", "other"):  # whichever job's id is the smaller
        case(
            bundle="", content=content, delivered=None, state=JobState.QUARANTINED, reason=reason, lesions={}
        ).save()
        case(content=content).save()
        jobs = {job["bundle"]: job["reasons"] for job in lines()[0]["study"]["jobs"]}
        assert [one["code"] for one in jobs[""]] == ["SERIES_IN_TWO_STUDIES"] and jobs["fundus-lesions"] == []


def test_a_result_that_was_replaced_is_not_shown(case, lines, registry):
    number = case().save()
    with registry.begin() as connection:
        connection.execute(sa.update(result).where(result.c.job == number).values(superseded_by="another"))
    (job,) = lines()[0]["study"]["jobs"]
    assert job["results"] == [] and not job["pictures"][0]["has_segmentation"]


def test_a_study_that_is_arriving_is_shown(registry, lines, browser):
    kind = "1.2.840.10008.5.1.4.1.1.7"
    registry.register([Sidecar("f", "1.9.1", kind, "1.9", "1.9.2", "1.2", "d", 1, "A", "M", 5.0)])
    (line,) = lines(group="under way")
    assert line["study"]["settling"] and line["study"]["jobs"] == []
    assert "Images are arriving" in browser().get("/app").text


@pytest.mark.parametrize(
    ("question", "status"),
    [
        ({"group": "nonsense"}, 422),
        ({"limit": 0}, 422),
        ({"pateint": "x"}, 422),
        ({"text": "x" * 20000}, 413),
    ],
)
def test_a_wrong_question_is_refused(browser, question, status):
    answer = browser().post("/api/search", json=question)
    assert answer.status_code == status and answer.json()["error"]


@pytest.mark.parametrize("path", ["/api/studies/1.2.404", "/api/studies/Doe", "/app/studies/1.2.404"])
def test_an_unknown_study(browser, path):
    answer = browser().get(path)
    assert answer.status_code == 404 and "no such study" in answer.text


def test_the_lines_alone_are_what_the_page_fetches_anew(case, browser):
    case().save()
    fragment = browser().post("/app/rows", data={"text": "", "group": "done"}).text
    assert fragment.count("<tr") == 1 and "<html" not in fragment and 'data-study="1.2.3"' in fragment


def test_every_state_has_words_and_every_group_known_states():
    assert set(STATES) == set(JobState)
    assert {state for group in GROUPS.values() for state in group} == set(JobState) - {JobState.SETTLING}


@pytest.mark.parametrize(
    ("reason", "plain"),
    [
        (None, []),
        ("the disk is full; free some", [("", "The disk is full; free some.")]),
        ("NO_RULE: no rule; add one", [("NO_RULE", "No rule; add one.")]),
        ("A_B: x; C_D: y.", [("A_B", "X."), ("C_D", "Y.")]),
        ("PACS: it refused", [("PACS", "It refused.")]),
    ],
)
def test_reasons_in_plain_words(reason, plain):
    assert plain_reason(reason) == plain


def test_commands_stand_out_and_nothing_else_is_html():
    assert commands("raise `worker.attempts` <now>") == "Raise <code>worker.attempts</code> &lt;now&gt;"
