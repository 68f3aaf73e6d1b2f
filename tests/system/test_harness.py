"""The harness itself: Orthanc answers only whom it knows, and each test gets an empty database."""

from __future__ import annotations

import urllib.error
import urllib.request

import psycopg
import pytest


def test_orthanc_wants_a_password(orthanc):
    with pytest.raises(urllib.error.HTTPError, match="401") as refused:
        urllib.request.urlopen(orthanc.url + "/system", timeout=10)
    refused.value.close()
    assert orthanc.get("/system")["DicomAet"] == "ORTHANC"


def test_orthanc_answers_only_known_modalities(orthanc, dcmtk, free_port):
    call = ["-to", "5", "-aet", "STRANGER", "-aec", "ORTHANC", orthanc.host, orthanc.dicom_port]
    with pytest.raises(AssertionError, match="Calling AE Title Not Recognized"):
        dcmtk("echoscu", *call)
    orthanc.add_modality("stranger", "STRANGER", free_port())
    dcmtk("echoscu", *call)


def test_orthanc_is_empty_for_each_test(orthanc):
    assert orthanc.get("/modalities") == []
    assert orthanc.get("/instances") == []


@pytest.mark.parametrize("turn", [1, 2])
def test_each_test_has_a_fresh_database(postgres, turn):
    with psycopg.connect(postgres.url.replace("+psycopg", "")) as connection:
        connection.execute("CREATE TABLE only_once (x int)")
        assert connection.execute("SHOW server_version").fetchone()


def test_the_database_server_comes_back_after_a_crash(postgres):
    with psycopg.connect(postgres.url.replace("+psycopg", "")) as connection:
        connection.execute("CREATE TABLE kept (x int)")
    postgres.server.crash()
    assert not postgres.server.listens
    postgres.server.start()
    with psycopg.connect(postgres.url.replace("+psycopg", "")) as connection:
        assert connection.execute("SELECT count(*) FROM kept").fetchone() == (0,)


def test_a_site_is_a_checked_configuration(site, orthanc):
    made = site(orthanc, worker={"slots": 2})
    assert made.config.peers["PACS"].port == orthanc.dicom_port
    assert made.config.worker.slots == 2
    assert orthanc.get("/modalities") == ["medpipe"]
