"""The Orthanc files that a hospital installs, as the demo runs them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import local_orthanc
from local_orthanc import AUTOROUTING, TEMPLATE, LocalOrthanc

from medpipe.pacs import NOT_IMAGES

HERE = Path(local_orthanc.__file__).parent


def test_the_configuration_is_closed():
    config = json.loads(TEMPLATE.read_text())
    assert config["AuthenticationEnabled"] is True
    assert config["DicomCheckCalledAet"] is True
    assert {key: value for key, value in config.items() if key.startswith("DicomAlwaysAllow") and value} == {}


def test_the_configuration_routes_to_a_modality_that_it_knows():
    config = json.loads(TEMPLATE.read_text())
    assert config["Medpipe"]["Destination"] in config["DicomModalities"]
    assert [Path(path).name for path in config["LuaScripts"]] == [AUTOROUTING.name]


def test_each_local_orthanc_has_its_own_password_ports_and_folder(tmp_path):
    one, two = LocalOrthanc(tmp_path / "1").configuration(), LocalOrthanc(tmp_path / "2").configuration()
    for key in ("RegisteredUsers", "HttpPort", "DicomPort", "StorageDirectory"):
        assert one[key] != two[key], key
    assert "CHANGE-THIS-PASSWORD" not in json.dumps(one)


def test_the_instructions_name_every_key_that_matters():
    text = (HERE / "orthanc" / "README.md").read_text()
    for key in ("RegisteredUsers", "DicomCheckCalledAet", "StableAge", "Medpipe.Modalities", "TCP_NODELAY"):
        assert key in text


def test_routing_and_reconciling_leave_out_the_same_series():
    table = AUTOROUTING.read_text().split("local NOT_IMAGES = {")[1].split("}")[0]
    assert set(re.findall(r"([A-Z]+) = true", table)) == NOT_IMAGES
