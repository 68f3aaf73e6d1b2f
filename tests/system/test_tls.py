"""DICOM over TLS with DCMTK on the other side, both ways, each showing the other a certificate."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
from local_authority import Identity, LocalAuthority
from local_process import LocalProcess, free_port, wait_until

from medpipe.cli.app import run
from medpipe.config import Peer
from medpipe.errors import PeerInsecure, PeerUnreachable
from medpipe.pacs import check_destination, count_instances, echo, request_commitment, retrieve, send
from medpipe.samples import write_study
from workers.commitments import expect_report, find_report
from workers.listener import Listener
from workers.selftest.check import State
from workers.selftest.network import check_listener, check_peer


@pytest.fixture(scope="module")
def photograph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study("fundus", tmp_path_factory.mktemp("sample"), seed=3, width=320, height=256).files[0]


@pytest.fixture(scope="module")
def ours(authority: LocalAuthority) -> Identity:
    return authority.issue("medpipe")


@pytest.fixture(scope="module")
def theirs(authority: LocalAuthority) -> Identity:
    return authority.issue("dcmtk")


@pytest.fixture
def listener(site: Callable[..., Any], authority: LocalAuthority, ours: Identity) -> Iterator[Any]:
    """A site whose listener asks callers for certificates."""
    tls = {**ours.settings(), "ca": str(authority.ca)}
    made = site(listener={"port": free_port(), "calling": ["MODALITY", "ORTHANC"], "tls": tls})
    with Listener(made.config):
        yield made


def with_tls(identity: Identity, ca: Path) -> list[Path | str]:
    """DCMTK's options."""
    return ["+tls", identity.private_key, identity.certificate, "+cf", ca]


def address(site: Any) -> list[str]:
    return ["-aet", "MODALITY", "-aec", "MEDPIPE", "127.0.0.1", str(site.config.listener.port)]


def stored(site: Any) -> list[Path]:
    return list((site.root / "spool" / "instances").glob("??/*.dcm"))


# --- in ----------------------------------------------------------------------------------------------------------


def test_storescu_stores_over_tls(
    listener: Any, dcmtk: Any, authority: LocalAuthority, theirs: Identity, photograph: Path
) -> None:
    dcmtk("storescu", *with_tls(theirs, authority.ca), "-xy", *address(listener), photograph)
    (kept,) = stored(listener)
    assert pydicom.dcmread(photograph).PixelData in kept.read_bytes()


@pytest.mark.parametrize("who", ["expired", "self-signed", "anonymous", "plain"])
def test_other_callers_are_turned_away_and_the_next_one_is_served(
    listener: Any, dcmtk: Any, authority: LocalAuthority, theirs: Identity, photograph: Path, who: str
) -> None:
    options = {
        "expired": lambda: with_tls(authority.issue("old", days=-1), authority.ca),
        "self-signed": lambda: with_tls(authority.self_signed("alone"), authority.ca),
        "anonymous": lambda: ["+tla", "+cf", authority.ca],
        "plain": list,
    }[who]()
    said = dcmtk("storescu", *options, "-xy", *address(listener), photograph, check=False)
    assert "Association Request Failed" in said or "Association Aborted" in said, said
    assert stored(listener) == []
    dcmtk("echoscu", *with_tls(theirs, authority.ca), *address(listener))


def test_dcmtk_does_not_trust_a_listener_of_another_authority(
    listener: Any, dcmtk: Any, theirs: Identity, photograph: Path, tmp_path: Path
) -> None:
    stranger = LocalAuthority(tmp_path / "another", "another authority")
    said = dcmtk("echoscu", *with_tls(theirs, stranger.ca), *address(listener), check=False)
    assert "certificate verify failed" in said.lower()


# --- out ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def storescp(authority: LocalAuthority, dcmtk: Any, tmp_path: Path) -> Iterator[Callable[..., int]]:
    """`storescp(identity)` starts DCMTK's archive with that certificate, which asks for ours; its port."""
    running: list[LocalProcess] = []

    def start(identity: Identity) -> int:
        port = free_port()
        folder = tmp_path / f"archive-{port}"
        folder.mkdir()
        options = [*with_tls(identity, authority.ca), "-od", folder, "+B", "+xa"]
        process = LocalProcess(
            "storescp", ["storescp", *map(str, options), str(port)], tmp_path / f"{port}.log"
        )
        process.start()
        running.append(process)
        process.wait_ready(lambda: listens(port), 10)
        return port

    yield start
    for process in running:
        process.stop()


def listens(port: int) -> bool:
    """Looked up, not tried: storescp serves one connection at a time."""
    lines = Path("/proc/net/tcp").read_text().splitlines()
    return any(f":{port:04X} " in line.split(" 00000000:0000")[0] + " " for line in lines if " 0A " in line)


@pytest.fixture
def peer(authority: LocalAuthority, ours: Identity) -> Callable[..., Peer]:
    def make(port: int, identity: Identity | None = ours, **tls: Any) -> Peer:
        tls = {"ca": authority.ca, **(identity.settings() if identity else {}), **tls}
        return Peer(ae_title="ARCHIVE", host="127.0.0.1", port=port, timeout=5, tls=tls)

    return make


def test_we_echo_and_store_over_tls(
    storescp: Any, peer: Any, theirs: Identity, photograph: Path, tmp_path: Path
) -> None:
    port = storescp(theirs)
    assert echo(peer(port), "MEDPIPE") > 0
    (status,) = send(peer(port), [photograph], calling_ae="MEDPIPE")
    assert status.is_stored
    (kept,) = (tmp_path / f"archive-{port}").iterdir()
    assert pydicom.dcmread(kept).PixelData == pydicom.dcmread(photograph).PixelData


@pytest.mark.parametrize("who", ["expired", "self-signed", "wrong name"])
def test_we_send_nothing_to_an_archive_with_a_wrong_certificate(
    storescp: Any, peer: Any, authority: LocalAuthority, photograph: Path, tmp_path: Path, who: str
) -> None:
    identity, sentence = {
        "expired": lambda: (authority.issue("old archive", days=-1), "certificate has expired"),
        "self-signed": lambda: (authority.self_signed("lone archive"), "self-signed certificate"),
        "wrong name": lambda: (
            authority.issue("elsewhere", "DNS:elsewhere.example"),
            "not valid for '127.0.0.1'",
        ),
    }[who]()
    port = storescp(identity)
    with pytest.raises(PeerInsecure, match=sentence):
        send(peer(port), [photograph], calling_ae="MEDPIPE")
    assert list((tmp_path / f"archive-{port}").iterdir()) == []


def test_an_archive_that_wants_a_certificate_says_so(
    storescp: Any, peer: Any, authority: LocalAuthority, theirs: Identity
) -> None:
    port = storescp(theirs)
    for identity in (None, authority.issue("late", days=-1), authority.self_signed("nobody knows")):
        with pytest.raises(PeerInsecure) as caught:
            echo(peer(port, identity), "MEDPIPE")
        assert caught.value.distrusts_us
        assert len(str(caught.value).splitlines()) == 1
    assert echo(peer(port), "MEDPIPE") > 0


# --- an Orthanc, all services ------------------------------------------------------------------------------------


def test_everything_that_we_ask_of_a_pacs_goes_over_tls(
    listener: Any,
    start_orthanc: Callable[..., Any],
    authority: LocalAuthority,
    ours: Identity,
    theirs: Identity,
    photograph: Path,
    tmp_path: Path,
) -> None:
    """Orthanc speaks TLS only, asks for our certificate, and calls our listener with its own."""
    port = listener.config.listener.port
    orthanc = start_orthanc(
        modalities={
            "medpipe": {
                "AET": "MEDPIPE",
                "Host": "127.0.0.1",
                "Port": port,
                "UseDicomTls": True,
                "AllowStorageCommitment": True,
            }
        },
        settings={
            "DicomTlsEnabled": True,
            "DicomTlsCertificate": str(theirs.certificate),
            "DicomTlsPrivateKey": str(theirs.private_key),
            "DicomTlsTrustedCertificates": str(authority.ca),
            "DicomTlsRemoteCertificateRequired": True,
        },
    )
    tls = {**ours.settings(), "ca": authority.ca}
    pacs = Peer(ae_title="ORTHANC", host="127.0.0.1", port=orthanc.dicom_port, timeout=10, tls=tls)
    with pytest.raises(PeerUnreachable):
        echo(pacs.model_copy(update={"tls": None}), "MEDPIPE")
    assert check_destination(pacs, "MEDPIPE").usable

    sent = pydicom.dcmread(photograph)
    assert send(pacs, [photograph], calling_ae="MEDPIPE")[0].is_stored
    assert count_instances(pacs, "MEDPIPE", sent.StudyInstanceUID) == 1  # C-FIND
    got: list[str] = []
    retrieve(
        pacs,
        "MEDPIPE",
        sent.StudyInstanceUID,
        lambda file: got.append(file.sop_instance_uid),
        tmp_path / "got",
    )
    assert got == [sent.SOPInstanceUID]  # C-GET
    moving = pacs.model_copy(update={"retrieve": "move"})
    retrieve(moving, "MEDPIPE", sent.StudyInstanceUID, lambda _: None, tmp_path / "moved")
    assert len(stored(listener)) == 1  # C-MOVE, to our listener
    expect_report(listener.root, "2.25.4711", "ORTHANC")
    request_commitment(pacs, "MEDPIPE", [(sent.SOPClassUID, sent.SOPInstanceUID)], "2.25.4711")
    assert wait_until(lambda: find_report(listener.root, "2.25.4711") is not None, 10)


# --- the commands ------------------------------------------------------------------------------------------------


def test_check_destination_and_doctor_name_the_trouble(
    site: Callable[..., Any],
    storescp: Any,
    authority: LocalAuthority,
    ours: Identity,
    theirs: Identity,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tables = {"ae_title": "ARCHIVE", "host": "127.0.0.1", "timeout": 5}
    tls = {**ours.settings(), "ca": str(authority.ca)}
    made = site(
        listener={"port": free_port(), "calling": ["MODALITY"], "tls": tls},
        peers={
            "GOOD": {**tables, "port": storescp(theirs), "tls": tls},
            "OLD": {**tables, "port": storescp(authority.issue("aged", days=-1)), "tls": tls},
        },
    )
    with Listener(made.config):
        assert run(["--config", str(made.path), "check-destination", "GOOD"]) == 0
        assert "yes  association: accepted over TLS, called by MEDPIPE" in capsys.readouterr().out
        assert run(["--config", str(made.path), "check-destination", "OLD"]) == 1
        said = capsys.readouterr()
        assert "NO   association: ARCHIVE at 127.0.0.1" in said.out and "certificate has expired" in said.out
        assert "Traceback" not in said.err
        (ours_is,) = check_listener(made.config)
        assert ours_is.state is State.OK and ours_is.found.endswith("answers over TLS")
        (old_is,) = check_peer(made.config, "OLD", made.config.peers["OLD"])
    assert old_is.state is State.FAILED and "certificate has expired" in old_is.found
    assert "check peers.OLD.tls" in old_is.advice


def test_doctor_calls_a_listener_that_takes_the_certificates_of_others_only(
    site: Callable[..., Any], authority: LocalAuthority, ours: Identity, tmp_path: Path
) -> None:
    tls = {**ours.settings(), "ca": str(LocalAuthority(tmp_path / "theirs", "their authority").ca)}
    made = site(listener={"port": free_port(), "calling": ["MODALITY"], "tls": tls})
    with Listener(made.config):
        (listener,) = check_listener(made.config)
    assert listener.state is State.NOTE and "does not accept our certificate" in listener.found


def test_doctor_and_a_listener_whose_own_certificate_has_expired(
    site: Callable[..., Any], authority: LocalAuthority
) -> None:
    tls = authority.issue("aged listener", days=-1).settings()
    made = site(listener={"port": free_port(), "calling": ["MODALITY"], "tls": tls})
    with Listener(made.config):
        (listener,) = check_listener(made.config)
    assert listener.state is State.FAILED and "certificate has expired" in listener.found
