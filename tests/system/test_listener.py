"""The listener as a process, with DCMTK as the modality: durable, strict about titles, honest about refusals."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
from local_process import LocalProcess
from pynetdicom import AE, _config

from medpipe.samples import write_study


@pytest.fixture
def listener(site: Callable[..., Any], tmp_path: Path) -> Iterator[Any]:
    made = site()
    process = LocalProcess(
        "listen",
        [sys.executable, "-m", "medpipe.cli", "--config", made.path, "listen"],
        tmp_path / "listen.log",
    )
    process.start()
    process.wait_ready(lambda: "listening" in process.tail(), 30)
    yield made
    process.stop()


@pytest.fixture(scope="module")
def photograph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study("fundus", tmp_path_factory.mktemp("sample"), seed=3, width=320, height=256).files[0]


def spooled(site: Any) -> list[dict[str, Any]]:
    return [
        json.loads(path.read_text()) for path in sorted((site.root / "spool" / "instances").glob("??/*.json"))
    ]


def bytes_of(site: Any, sidecar: dict[str, Any]) -> bytes:
    name = sidecar["file"]
    return (site.root / "spool" / "instances" / name[:2] / f"{name}.dcm").read_bytes()


def address(site: Any) -> tuple[str, str, str, str]:
    return "-aec", "MEDPIPE", "127.0.0.1", str(site.config.listener.port)


def test_it_answers_an_echo(listener: Any, dcmtk: Any) -> None:
    dcmtk("echoscu", "-aet", "MODALITY", *address(listener))


def test_strangers_and_wrong_titles_are_turned_away(listener: Any, dcmtk: Any) -> None:
    said = dcmtk("echoscu", "-aet", "STRANGER", *address(listener), check=False)
    assert "Calling AE Title Not Recognized" in said
    said = dcmtk("echoscu", "-aet", "MODALITY", "-aec", "OTHER", *address(listener)[2:], check=False)
    assert "Called AE Title Not Recognized" in said


def test_an_instance_is_kept_as_received_without_any_database(
    listener: Any, dcmtk: Any, photograph: Path
) -> None:
    dcmtk("storescu", "-aet", "MODALITY", "-xy", *address(listener), photograph)
    (sidecar,) = spooled(listener)
    sent = pydicom.dcmread(photograph)
    assert (
        sidecar["sop_instance_uid"] == sent.SOPInstanceUID and sidecar["study_uid"] == sent.StudyInstanceUID
    )
    assert sidecar["calling_ae"] == "MODALITY" and sidecar["transfer_syntax"] == "1.2.840.10008.1.2.4.50"
    assert sent.PixelData in bytes_of(listener, sidecar)
    assert not (listener.root / "medpipe.sqlite").exists()
    assert "Sample" not in json.dumps(sidecar)  # no patient in what we write about it


def test_the_same_again_is_taken_and_other_content_lies_aside(
    listener: Any, dcmtk: Any, photograph: Path, tmp_path: Path
) -> None:
    other = pydicom.dcmread(photograph)
    other.StudyDescription = "changed"
    other.save_as(tmp_path / "other.dcm")
    for path in (photograph, photograph, tmp_path / "other.dcm"):
        dcmtk("storescu", "-aet", "MODALITY", "-xy", *address(listener), path)
    assert sorted(sidecar["aside"] for sidecar in spooled(listener)) == [False, True]


def test_a_data_set_that_is_not_what_the_command_says_is_refused(
    listener: Any, photograph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        _config, "STORE_SEND_CHUNKED_DATASET", True
    )  # the command then follows the meta header
    lying = pydicom.dcmread(photograph)
    lying.SOPInstanceUID = lying.file_meta.MediaStorageSOPInstanceUID = "2.25.1234567"
    path = tmp_path / "lying.dcm"
    lying.save_as(path)
    start = b"\x08\x00\x18\x00UI\x0c\x00"
    path.write_bytes(path.read_bytes().replace(start + b"2.25.1234567", start + b"2.25.7654321"))
    ae = AE(ae_title="MODALITY")
    ae.add_requested_context(lying.SOPClassUID, lying.file_meta.TransferSyntaxUID)
    association = ae.associate("127.0.0.1", listener.config.listener.port, ae_title="MEDPIPE")
    answer = association.send_c_store(path)
    association.release()
    assert answer.Status == 0xA900
    assert spooled(listener) == []


def test_a_full_disk_is_said_before_anything_is_lost(
    site: Callable[..., Any], dcmtk: Any, photograph: Path, tmp_path: Path
) -> None:
    made = site(site={"root": str(tmp_path / "full"), "minimum_free": "1000 TB"})
    process = LocalProcess(
        "listen",
        [sys.executable, "-m", "medpipe.cli", "--config", made.path, "listen"],
        tmp_path / "full.log",
    )
    process.start()
    try:
        process.wait_ready(lambda: "listening" in process.tail(), 30)
        said = dcmtk("storescu", "-v", "-aet", "MODALITY", "-xy", *address(made), photograph, check=False)
        assert "Refused: OutOfResources" in said or "0xa700" in said.lower()
        assert spooled(made) == []
        assert list((made.root / "spool" / "incoming").iterdir()) == []
    finally:
        process.stop()


def test_a_second_listener_on_the_port_says_so(listener: Any) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "medpipe.cli", "--config", str(listener.path), "listen"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1 and "is another listener running?" in done.stderr
