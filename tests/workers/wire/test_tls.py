"""A listener that speaks TLS: who gets in, what the others hear, and that none of them holds up anybody."""

from __future__ import annotations

import socket
import ssl
import struct
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from local_authority import Identity, LocalAuthority
from local_process import wait_until
from raw_peer import ACCEPTED, RELEASE, RELEASED, associate, c_echo

from medpipe.config import Peer
from medpipe.errors import PeerInsecure, PeerUnreachable
from medpipe.pacs import echo

HALF_A_HELLO = b"\x16\x03\x01\x02\x00\x01\x00"


@pytest.fixture(scope="module")
def ours(authority: LocalAuthority) -> Identity:
    return authority.issue("listener")


@pytest.fixture(scope="module")
def theirs(authority: LocalAuthority) -> Identity:
    return authority.issue("modality")


@pytest.fixture
def mutual(listen: Callable[..., Any], authority: LocalAuthority, ours: Identity) -> Any:
    """A listener that asks its callers for certificates."""
    return listen(tls={**ours.settings(), "ca": str(authority.ca)})


@pytest.fixture
def caller(authority: LocalAuthority) -> Callable[..., Peer]:
    """`caller(listening, identity, ca=...)`: the listener as a peer's settings would have it."""

    def make(listening: Any, identity: Identity | None, ca: Path = authority.ca, **options: Any) -> Peer:
        tls = {"ca": ca, **(identity.settings() if identity else {}), **options}
        return Peer(ae_title="MEDPIPE", host="127.0.0.1", port=listening.port, timeout=5, tls=tls)

    return make


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[str], bool]:
    """Whether the listener's log has a line with these words, before long."""
    return lambda words: wait_until(lambda: words in caplog.text, 5)


def careless(ciphers: str, oldest: ssl.TLSVersion, newest: ssl.TLSVersion) -> ssl.SSLContext:
    """A client that trusts everybody and shows nothing."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version, context.maximum_version = oldest, newest
    context.set_ciphers(ciphers)
    return context


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_both_versions_are_spoken(listen: Any, ours: Identity, version: ssl.TLSVersion) -> None:
    listening = listen(tls=ours.settings())
    with listening.peer() as peer:
        peer.socket = careless("DEFAULT", version, version).wrap_socket(peer.socket)
        assert peer.ask(associate()) == ACCEPTED
        peer.send(c_echo())
        assert peer.status() == 0
        assert peer.ask(RELEASE) == RELEASED
        cipher, _, _ = peer.socket.cipher()
        assert "GCM" in cipher or "CHACHA20" in cipher
    assert listening.is_quiet()


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1")
@pytest.mark.parametrize(
    ("ciphers", "version", "sentence"),
    [
        ("ALL:@SECLEVEL=0", ssl.TLSVersion.TLSv1_1, "it speaks only TLS older than 1.2"),
        # without authenticated encryption
        ("ECDHE+AES+SHA256:ECDHE+AES+SHA1", ssl.TLSVersion.TLSv1_2, "it has no cipher that is sound"),
    ],
)
def test_old_versions_and_weak_ciphers_are_refused(
    listen: Any,
    ours: Identity,
    said: Callable[[str], bool],
    ciphers: str,
    version: ssl.TLSVersion,
    sentence: str,
) -> None:
    listening = listen(tls=ours.settings())
    with listening.peer() as peer, pytest.raises(ssl.SSLError):
        careless(ciphers, version, version).wrap_socket(peer.socket)
    assert said(sentence)
    assert listening.is_quiet()


def test_a_caller_with_the_right_certificate_gets_in(mutual: Any, caller: Any, theirs: Identity) -> None:
    assert echo(caller(mutual, theirs), "MODALITY") > 0
    assert mutual.is_quiet()


@pytest.mark.parametrize(
    ("which", "we_say", "they_hear"),
    [
        ("none", "it shows no certificate", "asks for a certificate, and we have none"),
        ("expired", "certificate has expired", "does not accept our certificate"),
        ("self-signed", "self-signed certificate", "does not accept our certificate"),
        ("stranger", "unable to get local issuer certificate", "does not accept our certificate"),
        ("server", "unsuitable certificate purpose", "does not accept our certificate"),
    ],
)
def test_callers_without_a_certificate_that_we_trust(
    mutual: Any,
    caller: Any,
    authority: LocalAuthority,
    theirs: Identity,
    tmp_path: Path,
    said: Callable[[str], bool],
    which: str,
    we_say: str,
    they_hear: str,
) -> None:
    shown = {
        "none": lambda: None,
        "expired": lambda: authority.issue("late", days=-1),
        "self-signed": lambda: authority.self_signed("alone"),
        "stranger": lambda: LocalAuthority(tmp_path, "another authority").issue("stranger"),
        "server": lambda: authority.issue("server-only", usage="serverAuth"),
    }[which]()
    with pytest.raises(PeerInsecure, match=they_hear) as caught:
        echo(caller(mutual, shown), "MODALITY")
    assert caught.value.distrusts_us
    assert "\n" not in str(caught.value)
    assert said(we_say)
    assert echo(caller(mutual, theirs), "MODALITY") > 0
    assert mutual.is_quiet()


@pytest.mark.parametrize(
    ("which", "sentence"),
    [
        ("expired", "shows a certificate that is not trusted: certificate has expired"),
        ("self-signed", "shows a certificate that is not trusted: self-signed certificate"),
        ("wrong name", "IP address mismatch, certificate is not valid for '127.0.0.1'"),
    ],
)
def test_we_call_nobody_whose_certificate_is_wrong(
    listen: Any,
    caller: Any,
    authority: LocalAuthority,
    said: Callable[[str], bool],
    which: str,
    sentence: str,
) -> None:
    shown = {
        "expired": lambda: authority.issue("late-listener", days=-1),
        "self-signed": lambda: authority.self_signed("lone-listener"),
        "wrong name": lambda: authority.issue("elsewhere", "DNS:elsewhere.example"),
    }[which]()
    listening = listen(tls=shown.settings())
    with pytest.raises(PeerInsecure, match=sentence) as caught:
        echo(caller(listening, None), "MODALITY")
    assert not caught.value.distrusts_us
    assert said("it does not accept our certificate")
    assert listening.is_quiet()


def test_a_self_signed_certificate_can_be_named_as_trusted(
    listen: Any, caller: Any, authority: LocalAuthority
) -> None:
    alone = authority.self_signed("pinned")
    listening = listen(tls=alone.settings())
    assert echo(caller(listening, None, alone.certificate), "MODALITY") > 0


def test_the_name_in_the_certificate_can_be_another_than_the_host(
    listen: Any, caller: Any, authority: LocalAuthority
) -> None:
    listening = listen(tls=authority.issue("pacs", "DNS:pacs.example").settings())
    assert echo(caller(listening, None, server_name="pacs.example"), "MODALITY") > 0


def test_plain_dicom_is_turned_away(
    mutual: Any, caller: Any, theirs: Identity, said: Callable[[str], bool]
) -> None:
    plain = Peer(ae_title="MEDPIPE", host="127.0.0.1", port=mutual.port, timeout=5)
    with pytest.raises(PeerUnreachable):
        echo(plain, "MODALITY")
    assert said("it does not speak TLS")
    with mutual.peer() as peer:
        peer.send(b"GET / HTTP/1.1\r\n\r\n")
        assert said("it speaks HTTP, not TLS")
    assert echo(caller(mutual, theirs), "MODALITY") > 0
    assert mutual.is_quiet()


def test_tls_to_a_plain_listener_is_one_clear_line(listening: Any, caller: Any) -> None:
    with pytest.raises(PeerInsecure, match=r"MEDPIPE at 127\.0\.0\.1:\d+ does not speak TLS"):
        echo(caller(listening, None), "MODALITY")


@pytest.mark.parametrize("hello", [b"", HALF_A_HELLO], ids=["nothing", "half a hello"])
def test_who_never_finishes_the_handshake_holds_up_nobody_and_is_dropped(
    listen: Any, caller: Any, authority: LocalAuthority, ours: Identity, theirs: Identity, hello: bytes
) -> None:
    listening = listen(tls={**ours.settings(), "ca": str(authority.ca)}, pdu_seconds=1)
    silent = [listening.peer(seconds=20) for _ in range(20)]
    for peer in silent:
        peer.send(hello)
    assert echo(caller(listening, theirs), "MODALITY") > 0  # while they are all there
    for peer in silent:
        with peer:
            assert peer.answer() == (0, b"")  # closed by us
    assert listening.is_quiet()


def test_silent_connections_are_counted_before_the_handshake_and_make_room(
    listen: Any, caller: Any, ours: Identity
) -> None:
    listening = listen(tls=ours.settings(), maximum_connections=5, maximum_connections_per_address=5)
    silent = [listening.peer() for _ in range(5)]
    assert wait_until(lambda: listening.connections() == 5, 5)
    assert echo(caller(listening, None), "MODALITY") > 0
    assert silent[0].answer() == (0, b"")
    for peer in silent:
        peer.socket.close()
    assert listening.is_quiet()


def test_connections_that_end_before_or_within_the_handshake_leave_nothing(
    listen: Any, caller: Any, ours: Identity, caplog: pytest.LogCaptureFixture
) -> None:
    listening = listen(tls=ours.settings())
    for number in range(120):
        with listening.peer() as peer:
            peer.send((b"", b"\x16", HALF_A_HELLO)[number % 3])
            if number % 2:
                peer.reset()
    assert listening.is_quiet()
    assert "cannot be" not in caplog.text
    assert echo(caller(listening, None), "MODALITY") > 0


def test_files_in_the_midst_of_a_renewal_are_worth_another_try(
    listen: Any, caller: Any, authority: LocalAuthority, ours: Identity, tmp_path: Path
) -> None:
    """They are read for each association."""
    listening = listen(tls=ours.settings())
    peer = caller(listening, None, tmp_path / "ca.pem")
    with pytest.raises(PeerUnreachable, match=r"tls\.ca: .*ca\.pem cannot be read"):
        echo(peer, "MODALITY")
    (tmp_path / "ca.pem").write_bytes(authority.ca.read_bytes())
    assert echo(peer, "MODALITY") > 0


def test_we_wait_no_longer_for_a_silent_peer_than_its_timeout(authority: LocalAuthority) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        peer = Peer(
            ae_title="ARCHIVE",
            host="127.0.0.1",
            port=silent.getsockname()[1],
            timeout=0.5,
            tls={"ca": authority.ca},
        )
        with pytest.raises(PeerUnreachable, match="does not answer the TLS handshake; it may not speak TLS"):
            echo(peer, "MODALITY")


def test_it_stops_with_handshakes_under_way(listen: Any, ours: Identity) -> None:
    listening = listen(tls=ours.settings())
    with listening.peer() as peer:
        assert wait_until(lambda: listening.connections() == 1, 5)
        listening.listener.__exit__()
        assert peer.answer() == (0, b"")
    assert listening.is_quiet()


# --- hostile callers ----------------------------------------------------------------------------------------------


def record(kind: int, body: bytes) -> bytes:
    """A TLS record of a handshake's beginning, in the clear (RFC 8446 section 5.1)."""
    return struct.pack(">BHH", kind, 0x0301, len(body)) + body


def hello_in_records_of(size: int) -> list[bytes]:
    """A true ClientHello, cut into many small records, as RFC 8446 allows."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = careless("DEFAULT", ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3).wrap_bio(incoming, outgoing)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    hello = outgoing.read()[5:]
    return [record(22, hello[start : start + size]) for start in range(0, len(hello), size)]


def test_a_handshake_that_dribbles_is_dropped_and_holds_up_nobody(
    listen: Any, caller: Any, authority: LocalAuthority, ours: Identity, theirs: Identity
) -> None:
    listening = listen(tls={**ours.settings(), "ca": str(authority.ca)}, pdu_seconds=1)
    records = hello_in_records_of(1)
    with listening.peer() as peer:
        for number, part in enumerate(records):
            peer.send(part)
            time.sleep(0.02)
            if number == 10:
                assert echo(caller(listening, theirs), "MODALITY") > 0
            if not listening.connections():
                break
        else:
            pytest.fail("it was listened to until the end")
    assert listening.is_quiet()


@pytest.mark.parametrize(
    "sent",
    [
        record(22, b"\x01\xff\xff\xff" + bytes(1000)),  # a hello that claims 16 MB
        record(22, b"\x0b\x7f\xff\xff" + bytes(16000)) * 200,  # certificates before any hello
        record(21, b"\x01\x00") * 5000,  # warnings without end
        record(20, b"\x01") * 5000,  # change cipher spec without end
        record(23, bytes(16000)),  # data before the handshake
        record(22, b"") * 5000,  # empty records without end
    ],
    ids=["a hello of 16 MB", "certificates first", "warnings", "change cipher spec", "data", "empty records"],
)
def test_nonsense_in_place_of_a_handshake_ends_the_connection(
    listen: Any, caller: Any, authority: LocalAuthority, ours: Identity, theirs: Identity, sent: bytes
) -> None:
    listening = listen(tls={**ours.settings(), "ca": str(authority.ca)}, pdu_seconds=1)
    with listening.peer() as peer:
        peer.send(sent)
        assert echo(caller(listening, theirs), "MODALITY") > 0
        assert wait_until(lambda: not listening.connections(), 10)
    assert listening.is_quiet()


@pytest.mark.parametrize("length", [20, 400])
def test_a_long_chain_of_certificates_is_refused(
    mutual: Any, caller: Any, authority: LocalAuthority, theirs: Identity, tmp_path: Path, length: int
) -> None:
    """Of twenty that have nothing to do with the first the path is not built; 400 are more than TLS takes."""
    chain = tmp_path / "chain.pem"
    alone = authority.self_signed("chained")
    chain.write_bytes(alone.certificate.read_bytes() + authority.ca.read_bytes() * length)
    with pytest.raises((PeerInsecure, PeerUnreachable)):
        echo(caller(mutual, Identity(chain, alone.private_key)), "MODALITY")
    assert mutual.is_quiet()
    assert echo(caller(mutual, theirs), "MODALITY") > 0


def test_nobody_renegotiates(mutual: Any, authority: LocalAuthority, theirs: Identity) -> None:
    """TLS 1.2 with openssl's own client, which has a key for it."""
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{mutual.port}", "-tls1_2"]
    command += [
        "-cert",
        str(theirs.certificate),
        "-key",
        str(theirs.private_key),
        "-CAfile",
        str(authority.ca),
    ]
    done = subprocess.run(command, input="R\n", capture_output=True, text=True, timeout=20)
    assert "RENEGOTIATING" in done.stdout + done.stderr
    assert "no renegotiation" in done.stderr
    assert mutual.is_quiet() and mutual.connections() == 0
