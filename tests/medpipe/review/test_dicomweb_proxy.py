"""`/dicom-web`: reads from the one configured PACS, with credentials the browser never sees; nothing else passes."""

from __future__ import annotations

import json
import logging

import pytest

SERIES = "studies/1.2.3/series/1.2.3.1"


@pytest.mark.parametrize(
    "path",
    [
        "studies/1.2.3/series",
        SERIES,
        f"{SERIES}/instances/1.2.3.4",
        f"{SERIES}/instances/1.2.3.4/frames/1",
        f"{SERIES}/instances/1.2.3.4/frames/1,2,30",
        f"{SERIES}/instances/1.2.3.4/bulk/7fe00010",
        f"{SERIES}/instances/1.2.3.4/rendered",
    ],
)
def test_what_a_viewer_reads_passes_unchanged(browser, pacs, path):
    pacs.says(path, b"\x00\xff pixels", kind='multipart/related; type="image/jpeg"')
    answer = browser().get(f"/dicom-web/{path}", headers={"accept": "image/jpeg", "cookie": "a=b"})
    assert (answer.status_code, answer.content) == (200, b"\x00\xff pixels")
    assert answer.headers["content-type"] == 'multipart/related; type="image/jpeg"'
    assert answer.headers["cache-control"] == "no-store" and "x-pacs" not in answer.headers
    (_, _, headers) = pacs.asked[-1]
    assert headers["accept"] == "image/jpeg" and "cookie" not in headers


@pytest.mark.parametrize(
    "path",
    [
        "",
        "patients",
        "servers",
        "studies/%2e%2e/series",
        "studies/1.2.3%2f..%2f..%2ftools",
        "studies/1.2.x",
        "studies/1.2.3/delete",
        f"{SERIES}/instances/1.2.3.4/frames/1;2",
        f"{SERIES}/instances/1.2.3.4/bulk/../../../../../../system",
        "studies?PatientName=Doe*",
        "studies?00100020=P-1",
        "studies?PatientBirthDate=19700101",
        "studies?StudyInstanceUID=Doe",
        "studies?StudyInstanceUID=1.2&includefield=Doe%20Jane",
    ],
)
def test_nothing_else_reaches_the_pacs(browser, pacs, path):
    assert browser().get(f"/dicom-web/{path}").status_code in (404, 405)
    assert pacs.asked == []


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_nobody_can_write(browser, pacs, method):
    assert browser().request(method, "/dicom-web/studies", content=b"x").status_code == 405
    assert pacs.asked == []


def test_a_search_gives_no_patient_id_that_would_go_into_an_address(browser, pacs):
    study = {"0020000D": {"vr": "UI", "Value": ["1.2.3"]}}
    pacs.says("studies", [study | {"00100020": {"vr": "LO", "Value": ["P-1"]}}])
    answer = browser().get(
        "/dicom-web/studies?StudyInstanceUID=1.2.3&includefield=00081030,00080060&limit=101"
    )
    assert answer.json() == [study]
    assert pacs.asked[-1][1] == "StudyInstanceUID=1.2.3&includefield=00081030%2C00080060&limit=101"


def test_a_segmentation_of_a_photograph_gets_its_place(browser, pacs):
    pacs.says(f"{SERIES}/metadata", [{"00080016": {"vr": "UI", "Value": ["1.2.840.10008.5.1.4.1.1.66.4"]}}])
    (found,) = browser().get(f"/dicom-web/{SERIES}/metadata").json()
    assert "00209113" in found["52009229"]["Value"][0]


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_bulk_data_are_fetched_through_us(browser, pacs, scheme):
    inner = "studies/1.2/series/3/instances/4/bulk/7fe00010"
    pixels = {"7FE00010": {"vr": "OB", "BulkDataURI": f"http://pacs.internal:8042/its/dicom-web/{inner}"}}
    pacs.says(f"{SERIES}/metadata", json.dumps([pixels], indent=1).encode())
    (found,) = browser(scheme).get(f"/dicom-web/{SERIES}/metadata").json()
    assert found["7FE00010"]["BulkDataURI"] == f"{scheme}://127.0.0.1:8080/dicom-web/{inner}"


def test_a_pacs_that_is_away_is_said_so(browser, pacs):
    client = browser(dicomweb="http://127.0.0.1:9/dicom-web")
    answer = client.get(f"/dicom-web/{SERIES}/metadata")
    assert (answer.status_code, answer.json()) == (502, {"error": "the PACS does not answer"})
    assert client.get("/readyz").json() == {"ready": False, "pacs": "its DICOMweb does not answer"}


def test_a_pacs_that_refuses_us_does_not_ask_the_reader_for_a_password(browser, pacs, caplog):
    client = browser(dicomweb=pacs.dicomweb.replace("pacs-user", "stranger"))
    answer = client.get(f"/dicom-web/{SERIES}/metadata")
    assert answer.status_code == 502 and "www-authenticate" not in answer.headers
    assert "refuses our credentials" in caplog.text


def test_an_answer_that_is_no_json_is_not_passed_on(browser, pacs):
    pacs.says(f"{SERIES}/metadata", b"<html>1.2.840.10008.5.1.4.1.1.66.4")
    assert browser().get(f"/dicom-web/{SERIES}/metadata").status_code == 502


def test_a_site_without_dicomweb_has_a_worklist_still(browser, case):
    case().save()
    client = browser(dicomweb="")
    assert client.get(f"/dicom-web/{SERIES}").status_code == 404
    page = client.get("/app").text
    assert "no peer has <code>dicomweb</code>" in page and 'class="open"' not in page


def test_no_address_is_logged(browser, pacs, caplog):
    caplog.set_level(logging.INFO)
    browser().get("/dicom-web/studies?PatientName=Doe")
    ours = [record for record in caplog.records if record.name != "httpx2"]  # that is the test's own client
    assert not [record for record in ours if "Doe" in record.getMessage()]
