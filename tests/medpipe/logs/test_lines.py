"""A log line: what it says, and what it never does."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from medpipe.config import Logs
from medpipe.errors import PeerRefused
from medpipe.logs import Event, about, begin, concerning, pseudonym

STUDY = "1.3.6.1.4.1.14519.5.2.1.6279.6001.298806137288633453246975630178"


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Callable[[], list[str]]]]:
    """`said = lines(format="json")` begins a log; `said()` gives its lines."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level

    def start(**settings: str) -> Callable[[], list[str]]:
        begin("listener", Logs.model_validate({"format": "json"} | settings))
        return lambda: capsys.readouterr().err.splitlines()

    with warnings.catch_warnings():
        yield start
        logging.captureWarnings(False)
    root.handlers[:] = before
    root.setLevel(level)
    for name in ("medpipe", "workers", "nets"):
        logging.getLogger(name).setLevel(logging.NOTSET)


def test_a_line_says_when_what_who_and_the_facts(lines: Callable[..., Callable[[], list[str]]]) -> None:
    said = lines()
    extra = about(Event.RESULT_SENT, study=STUDY, peer="PACS", number=2)
    logging.getLogger("workers.deliver").info("study %s: %d objects sent", STUDY, 2, extra=extra)
    (line,) = map(json.loads, said())
    assert line.pop("time").endswith("Z") and line.pop("pid") > 1
    assert line == {
        "level": "info",
        "event": "result.sent",
        "role": "listener",
        "message": f"study {pseudonym(STUDY)}: 2 objects sent",
        "study": pseudonym(STUDY),
        "peer": "PACS",
        "number": 2,
    }


def test_a_site_may_have_its_uids_plain(lines: Callable[..., Callable[[], list[str]]]) -> None:
    said = lines(uids="plain")
    logging.getLogger("workers").info("study %s", STUDY, extra=about(Event.JOB_ENDED, study=STUDY))
    (line,) = map(json.loads, said())
    assert (line["message"], line["study"]) == (f"study {STUDY}", STUDY)


def test_a_study_has_the_same_pseudonym_on_every_day_and_in_every_process() -> None:
    assert pseudonym(STUDY) == "uid-2eb1f2d8843f73e4"


def test_facts_that_are_uids_have_pseudonyms_however_short_or_many(
    lines: Callable[..., Callable[[], list[str]]],
) -> None:
    said = lines()
    extra = about(Event.STUDY_SETTLED, study="1.2.3", series=None, others=[STUDY, 7])
    logging.getLogger("workers.settle").info("settled", extra=extra)
    (line,) = map(json.loads, said())
    assert (line["study"], line["series"], line["others"]) == (
        pseudonym("1.2.3"),
        None,
        [pseudonym(STUDY), 7],
    )


def test_no_fact_takes_the_place_of_what_a_line_says_itself(
    lines: Callable[..., Callable[[], list[str]]],
) -> None:
    said = lines()
    logging.getLogger("workers").info("told", extra=about(Event.JOB_ENDED, message="other", level="debug"))
    (line,) = map(json.loads, said())
    assert (line["message"], line["level"]) == ("told", "info")


def test_a_log_that_begins_again_says_each_line_once_as_it_was_asked_last(
    lines: Callable[..., Callable[[], list[str]]],
) -> None:
    lines(format="text")
    said = lines(format="json")
    logging.getLogger("workers").info("told")
    assert [json.loads(line)["message"] for line in said()] == ["told"]


def test_addresses_versions_and_the_standards_uids_stay(
    lines: Callable[..., Callable[[], list[str]]],
) -> None:
    said = lines()
    sentence = "1.2.840.10008.5.1.4.1.1.2 from 0.0.0.0 and 2.1.3.4, version 2.13.0; not 2.25.1."
    logging.getLogger("medpipe.x").warning(sentence)
    (line,) = map(json.loads, said())
    assert line["message"] == sentence.replace("2.25.1", pseudonym("2.25.1"))


@pytest.mark.parametrize("uid", ["1", "1.2", "1.2.840.113619", "0.1.2.3"])
def test_a_short_uid_of_a_study_or_series_has_a_pseudonym_too(
    lines: Callable[..., Callable[[], list[str]]], uid: str
) -> None:
    """Legal, if unusual: four components may be an address, but not after such a word."""
    said = lines()
    sentence = "study %s: series %s came first as part of study %s; 3 of 4, `medpipe reprocess %s`"
    logging.getLogger("workers").info(sentence, uid, uid, uid, uid)
    (line,) = map(json.loads, said())
    name = pseudonym(uid)
    assert line["message"] == sentence % (name, name, name, name)


def test_everything_within_has_the_facts_that_it_is_about(
    lines: Callable[..., Callable[[], list[str]]],
) -> None:
    said = lines()
    with concerning(job="4f0c"):
        with concerning(peer="PACS"):
            logging.getLogger("medpipe.pacs").warning("refused")
        logging.getLogger("medpipe.pacs").warning("refused")
    logging.getLogger("medpipe.pacs").warning("refused")
    facts = [(told.get("job"), told.get("peer")) for told in map(json.loads, said())]
    assert facts == [("4f0c", "PACS"), ("4f0c", None), (None, None)]


@pytest.mark.parametrize("name", ["pydicom.valuerep", "pynetdicom.events", "highdicom", "py.warnings", "PIL"])
def test_of_a_library_that_sees_dicom_the_place_is_told_and_no_text(
    lines: Callable[..., Callable[[], list[str]]], name: str
) -> None:
    said = lines(level="debug")
    logging.getLogger(name).critical("Invalid value for VR PN: %r", "Doe^Jane")
    logging.getLogger(name).debug("(0010,0010) PN [Doe^Jane]")  # and not even that below a warning
    (line,) = said()
    assert "Doe" not in line and name in line and "test_lines.py" in line
    assert json.loads(line)["event"] == "library"


def test_what_the_network_library_says_a_second_time_is_not_told(
    lines: Callable[..., Callable[[], list[str]]],
) -> None:
    said = lines()
    logging.getLogger("pynetdicom.acse").error("association aborted")
    assert said() == []


def test_a_python_warning_is_a_line_without_its_text(
    lines: Callable[..., Callable[[], list[str]]],
) -> None:
    said = lines()
    warnings.simplefilter("always")
    warnings.warn("The value 'Doe^Jane' is too long", stacklevel=1)
    (line,) = said()
    assert "Doe" not in line and json.loads(line)["level"] == "warning"


def test_an_exception_is_told_by_class_and_places(lines: Callable[..., Callable[[], list[str]]]) -> None:
    said = lines()
    for error in (ValueError("Doe^Jane"), PeerRefused(f"ARCHIVE does not take {STUDY}")):
        try:
            raise error
        except Exception:
            logging.getLogger("workers.jobs").exception("a defect")
    foreign, ours = (json.loads(line)["error"] for line in said())
    assert foreign["class"] == "ValueError" and "text" not in foreign and "Doe" not in str(foreign)
    assert foreign["at"][0].startswith("test_lines.py:")
    assert (ours["code"], ours["text"]) == ("PEER_REFUSED", f"ARCHIVE does not take {pseudonym(STUDY)}")


def test_of_a_file_that_is_not_there_its_name_is_not_told(
    lines: Callable[..., Callable[[], list[str]]], tmp_path: Path
) -> None:
    said = lines()
    try:
        (tmp_path / "Doe^Jane.dcm").read_bytes()
    except OSError:
        logging.getLogger("workers.spool").exception("not read")
    (line,) = said()
    assert json.loads(line)["error"]["text"] == "No such file or directory" and "Doe" not in line


NOBODY_CATCHES = """
import threading
from medpipe.config import Logs
from medpipe.logs import begin, catch_all

class Odd:
    def __del__(self):
        raise ValueError("Doe^Jane")

def fails():
    raise ValueError("Doe^Jane")

begin("worker", Logs(format="json"))
catch_all()
Odd()
thread = threading.Thread(target=fails)
thread.start()
thread.join()
fails()
"""


def test_what_nobody_catches_in_any_thread_is_a_line_like_all_others() -> None:
    done = subprocess.run([sys.executable, "-c", NOBODY_CATCHES], capture_output=True, text=True, check=False)
    told = [json.loads(line) for line in done.stderr.splitlines()]
    assert done.returncode == 1 and "Doe" not in done.stderr
    assert [one["message"] for one in told] == ["nobody could catch this", *["nobody caught this"] * 2]
    assert {one["error"]["class"] for one in told} == {"ValueError"}


def test_a_line_that_cannot_be_made_does_not_show_its_arguments(
    lines: Callable[..., Callable[[], list[str]]],
) -> None:
    said = lines()
    record = logging.makeLogRecord({"name": "workers", "msg": "%d instances", "args": ("Doe^Jane",)})
    logging.getLogger().handlers[-1].handle(record)
    (line,) = said()
    assert "Doe" not in line and "could not be written" in line


@pytest.mark.parametrize("form", ["json", "text"])
def test_no_text_from_outside_forges_a_line(lines: Callable[..., Callable[[], list[str]]], form: str) -> None:
    said = lines(format=form)
    logging.getLogger("workers").warning("%s", "A\nB\x1b[31m\u2028C")
    (line,) = said()
    assert "\x1b" not in line and "\u2028" not in line


def test_lines_for_a_person(lines: Callable[..., Callable[[], list[str]]]) -> None:
    said = lines(format="text")
    logging.getLogger("workers").info("the database is back", extra=about(Event.DATABASE_BACK))
    (line,) = said()
    assert line.endswith("Z info listener: the database is back")


def test_elsewhere_than_on_a_terminal_auto_is_json(lines: Callable[..., Callable[[], list[str]]]) -> None:
    said = lines(format="auto", level="warning")
    logging.getLogger("workers").info("not told")
    logging.getLogger("workers").warning("told")
    assert [json.loads(line)["message"] for line in said()] == ["told"]
