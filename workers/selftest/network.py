"""What the network answers: our listener, the peers, an Orthanc's REST interface."""

from __future__ import annotations

from collections.abc import Iterator
from ssl import SSLContext

from medpipe.config import Config, ListenerTls, Peer
from medpipe.errors import MedpipeError, PeerInsecure, PeerUnreachable
from medpipe.pacs import DestinationCheck, check_destination, echo
from medpipe.pacs.orthanc import Orthanc
from medpipe.tls import calling_context
from workers.audit.syslog import send
from workers.selftest.check import Check, State


def check_listener(config: Config) -> Iterator[Check]:
    ours = config.listener
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(ours.host, ours.host)
    calling = ours.ae_title if "*" in ours.calling else ours.calling[0] if ours.calling else ours.ae_title
    address = f"{ours.ae_title} at {ours.host}:{ours.port}"
    try:
        echo(
            Peer(ae_title=ours.ae_title, host=host, port=ours.port, timeout=5),
            calling,
            _as_ourselves(ours.tls),
        )
    except PeerInsecure as error:
        if error.distrusts_us:  # listener.tls.ca may well sign the peers' certificates and not ours
            advice = "doctor calls with the listener's own certificate; try with a peer's"
            yield Check("listener", State.NOTE, str(error), advice)
        else:
            yield Check("listener", State.FAILED, str(error), "see listener.tls, or restart the listener")
    except PeerUnreachable:
        yield Check(
            "listener", State.NOTE, f"{address} does not answer", "run `medpipe serve` or `medpipe listen`"
        )
    except MedpipeError as error:
        yield Check("listener", State.FAILED, str(error), "another program may have this port: listener.port")
    else:
        yield Check("listener", State.OK, f"{address} answers{' over TLS' if ours.tls is not None else ''}")
    if "*" in ours.calling and ours.host not in ("127.0.0.1", "::1", "localhost"):
        advice = 'name who may call: listener.calling = ["YOURPACS"]'
        yield Check("callers", State.NOTE, f"anyone may store at {ours.host}", advice)


def check_repository(config: Config) -> Iterator[Check]:
    """The audit record repository, where there is one: whether it is there and, over TLS, we trust each other."""
    if not config.audit.repository:
        return
    try:
        send(config.audit, [])
    except PeerInsecure as error:
        yield Check(
            "audit", State.FAILED, str(error), "check [audit.tls], and what the repository is told of us"
        )
    except MedpipeError as error:
        yield Check("audit", State.AWAY, str(error), "check audit.repository and firewalls; the trail waits")
    else:
        yield Check("audit", State.OK, f"the trail goes to {config.audit.repository}")


def _as_ourselves(tls: ListenerTls | None) -> SSLContext | None:
    """Shows our listener its own certificate, and trusts that one alone, whatever name it is for."""
    if tls is None:
        return None
    context = calling_context("listener.tls", tls.certificate, tls.certificate, tls.private_key)
    context.check_hostname = False
    return context


def check_peer(config: Config, name: str, peer: Peer) -> Iterator[Check]:
    """A C-ECHO, and whether it offers what its settings and rules ask of it."""
    report = check_destination(peer, config.listener.ae_title)
    said = {finding.name: finding for finding in report.findings}
    label = f"peer {name}"
    if not said["association"].offered:
        state = State.AWAY if report.away else State.FAILED
        advice = "check the peer's host, port and ae_title, its firewall, and that it knows our AE title"
        if report.insecure:
            advice = f"check peers.{name}.tls, and what the peer is told of certificates"
        yield Check(label, state, said["association"].sentence, advice)
    else:
        yield from _offers(config, name, peer, report)
    if peer.orthanc is not None:
        try:
            title = Orthanc(peer.orthanc, peer.timeout).name()
        except MedpipeError as error:
            state = State.AWAY if isinstance(error, PeerUnreachable) else State.FAILED
            yield Check(f"{label} REST", state, str(error), "without it nothing is reconciled")
        else:
            yield Check(f"{label} REST", State.OK, f"{title} answers at {peer.orthanc.url}")


def _offers(config: Config, name: str, peer: Peer, report: DestinationCheck) -> Iterator[Check]:
    is_destination = any(name in rule.send for rule in config.rules)
    asked = {
        "SEG": is_destination and config.results.seg,
        "SR": is_destination and config.results.sr,
        "storage commitment": peer.commitment,
        "C-FIND": True,
        "C-GET": peer.retrieve == "get",
        "C-MOVE": peer.retrieve == "move",
    }
    lacking = [f for f in report.findings if not f.offered and asked.get(f.name, False)]
    for finding in lacking:
        state = State.FAILED if finding.needed else State.NOTE
        yield Check(f"peer {name}", state, f"does not offer {finding.name}", finding.sentence)
    if not lacking:
        offered = [f.name for f in report.findings if f.offered and f.name != "association"]
        yield Check(f"peer {name}", State.OK, f"{report.peer} offers {', '.join(offered)}")
