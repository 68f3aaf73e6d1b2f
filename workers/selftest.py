"""What `medpipe doctor` looks at: everything that a site needs to work, each thing in one line with what to do.

Nothing is changed by looking: no table is made, no file is left, no object is sent.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import psutil
import sqlalchemy as sa
from sqlalchemy.engine import make_url

from medpipe.bundle import available_bundles, find_bundle
from medpipe.check_bundle import check_bundle
from medpipe.config import Config, Peer
from medpipe.errors import MedpipeError, PeerUnreachable
from medpipe.pacs import DestinationCheck, check_destination, echo
from medpipe.pacs.orthanc import Orthanc
from medpipe.routing import check_rules
from workers.database import alembic_config, clock, is_away, open_engine, reading
from workers.lease import TTL_SECONDS
from workers.tables import executor

_NETWORK_FILE_SYSTEMS = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "fuse.sshfs", "9p", "afs"})


class State(StrEnum):
    OK = "ok"
    NOTE = "note"
    FAILED = "failed"
    AWAY = "unreachable"


@dataclass(frozen=True)
class Check:
    """One thing looked at: its state, what was found, and what to do about it (empty where all is well)."""

    name: str
    state: State
    found: str
    advice: str = ""


def check_site(config: Config, *, quick: bool = False) -> Iterator[Check]:
    """All checks, one after the other, as they are done; `quick` leaves out the bundles' golden cases."""
    looks: list[Callable[[], Iterator[Check]]] = [
        lambda: _rules(config),
        lambda: _programs(),
        lambda: _disk(config),
        lambda: _memory(config),
        lambda: _database(config),
        lambda: _listener(config),
        *(lambda name=name, peer=peer: _peer(config, name, peer) for name, peer in config.peers.items()),  # type: ignore[misc]
        lambda: _device(config),
        lambda: _bundles(config, quick),
    ]
    for look in looks:
        yield from look()


def exit_code(checks: list[Check]) -> int:
    """0 all well (notes included), 4 something does not answer, 1 anything else is wrong."""
    states = {check.state for check in checks}
    if State.FAILED in states:
        return 1
    return PeerUnreachable.exit_code if State.AWAY in states else 0


def _rules(config: Config) -> Iterator[Check]:
    check_rules(config.rules)
    if not config.rules:
        yield Check("rules", State.NOTE, "none: every series is ignored", "add [[rules]] (docs/rules.md)")
        return
    silent = [rule.name for rule in config.rules if not rule.send]
    if silent:
        yield Check(
            "rules", State.NOTE, f"send nothing anywhere: {', '.join(silent)}", 'add send = ["PEER"] to them'
        )
    else:
        yield Check("rules", State.OK, f"{len(config.rules)}")


def _programs() -> Iterator[Check]:
    if shutil.which("setpriv") is None:
        yield Check(
            "programs",
            State.NOTE,
            "no setpriv: children of a process that is killed may live on",
            "install the package util-linux",
        )


def _disk(config: Config) -> Iterator[Check]:
    root = config.site.root
    if not root.is_dir():
        yield Check("disk", State.FAILED, f"{root} is not there", "run `medpipe init`, or correct site.root")
        return
    try:
        with tempfile.TemporaryFile(dir=root) as file:
            file.write(b"medpipe")
            os.fsync(file.fileno())
    except OSError as error:
        yield Check("disk", State.FAILED, f"{root}: {error.strerror}", "let the user of medpipe write there")
        return
    free, wanted = shutil.disk_usage(root).free, config.site.minimum_free
    found = f"{root}: {_size(free)} free, {_file_system(root)}"
    if free < wanted:
        advice = f"free it: below site.minimum_free ({_size(wanted)}) nothing is accepted"
        yield Check("disk", State.FAILED, found, advice)
    elif free < 2 * wanted:
        yield Check("disk", State.NOTE, found, f"nothing is accepted any more below {_size(wanted)}")
    else:
        yield Check("disk", State.OK, found)


def _memory(config: Config) -> Iterator[Check]:
    total, needed = psutil.virtual_memory().total, config.reading.memory * config.worker.slots
    found = f"{_size(total)}, {os.cpu_count()} cores"
    if total < needed:
        advice = f"a study may take {_size(needed)} (reading.memory x worker.slots): lower them or add memory"
        yield Check("memory", State.NOTE, found, advice)
    else:
        yield Check("memory", State.OK, found)


def _database(config: Config) -> Iterator[Check]:
    url = make_url(config.site.database_url)
    where = url.render_as_string(hide_password=True)
    if url.drivername == "sqlite":
        path = Path(url.database or "")
        if not path.is_file():
            yield Check("database", State.FAILED, f"{path} is not there", "run `medpipe init`")
            return
        if (kind := _file_system(path.parent)) in _NETWORK_FILE_SYSTEMS:
            advice = "SQLite loses data there: use a local disk, or PostgreSQL (site.database)"
            yield Check("database", State.FAILED, f"{path} lies on {kind}", advice)
            return
    engine = open_engine(config.site.database_url)
    try:
        with reading(engine) as connection:
            revision = _revision(connection)
            alive = _workers(connection) if revision else 0
    except sa.exc.SQLAlchemyError as error:
        if not is_away(error):
            raise
        advice = "check site.database, the password and the server"
        yield Check("database", State.AWAY, f"{where} does not answer", advice)
        return
    finally:
        engine.dispose()
    newest = _newest_revision()
    if revision is None:
        yield Check("database", State.FAILED, f"{where} has no tables", "run `medpipe init`")
    elif revision != newest:
        advice = "stop all processes, then run `medpipe init`"
        yield Check("database", State.FAILED, f"{where}: tables {revision}, wanted {newest}", advice)
    else:
        yield Check("database", State.OK, f"{where}, tables {revision}")
        yield (
            Check("workers", State.OK, f"{alive} alive")
            if alive
            else Check("workers", State.NOTE, "none is alive", "run `medpipe serve` or `medpipe work`")
        )


def _revision(connection: sa.Connection) -> str | None:
    from alembic.runtime.migration import MigrationContext

    context = MigrationContext.configure(connection, opts={"version_table": "medpipe_revision"})
    return context.get_current_revision()


def _newest_revision() -> str | None:
    from alembic.script import ScriptDirectory

    return ScriptDirectory.from_config(alembic_config()).get_current_head()


def _workers(connection: sa.Connection) -> int:
    """How many workers have beaten lately, by the database's clock."""
    recent = executor.c.beat_at > clock(connection) - TTL_SECONDS
    return int(connection.execute(sa.select(sa.func.count()).where(recent)).scalar() or 0)


def _listener(config: Config) -> Iterator[Check]:
    ours = config.listener
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(ours.host, ours.host)
    calling = ours.ae_title if "*" in ours.calling else ours.calling[0] if ours.calling else ours.ae_title
    address = f"{ours.ae_title} at {ours.host}:{ours.port}"
    try:
        echo(Peer(ae_title=ours.ae_title, host=host, port=ours.port, timeout=5), calling)
    except PeerUnreachable:
        yield Check(
            "listener", State.NOTE, f"{address} does not answer", "run `medpipe serve` or `medpipe listen`"
        )
    except MedpipeError as error:
        yield Check("listener", State.FAILED, str(error), "another program may have this port: listener.port")
    else:
        yield Check("listener", State.OK, f"{address} answers")
    if "*" in ours.calling and host not in ("127.0.0.1", "::1", "localhost"):
        advice = 'name who may call: listener.calling = ["YOURPACS"]'
        yield Check("callers", State.NOTE, f"anyone may store at {ours.host}", advice)


def _peer(config: Config, name: str, peer: Peer) -> Iterator[Check]:
    """A C-ECHO, and whether it offers what its settings and rules ask of it."""
    report = check_destination(peer, config.listener.ae_title)
    said = {finding.name: finding for finding in report.findings}
    label = f"peer {name}"
    if not said["association"].offered:
        state = State.AWAY if report.away else State.FAILED
        advice = "check the peer's host, port and ae_title, its firewall, and that it knows our AE title"
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


def _device(config: Config) -> Iterator[Check]:
    import torch

    from medpipe.inference.torch_backend import pick_device

    try:
        device = pick_device(config.worker.device)
    except MedpipeError as error:
        yield Check(
            "device", State.FAILED, str(error), "correct worker.device, or install the CUDA build of torch"
        )
        return
    if device != "cpu":
        properties = torch.cuda.get_device_properties(device)
        yield Check("device", State.OK, f"{device}: {properties.name}, {_size(properties.total_memory)}")
    elif config.worker.device == "auto" and Path("/proc/driver/nvidia/version").exists():
        advice = (
            f'torch {torch.__version__} cannot use it: install the CUDA build, or set worker.device = "cpu"'
        )
        yield Check("device", State.NOTE, "CPU, though there is an NVIDIA GPU", advice)
    else:
        yield Check("device", State.OK, "CPU")


def _bundles(config: Config, quick: bool) -> Iterator[Check]:
    """The bundles that the rules name (or all at hand), each with its golden case."""
    folders = config.worker.bundle_folders
    names = list(dict.fromkeys(rule.bundle for rule in config.rules)) or [
        b.id for b in available_bundles(folders)
    ]
    for name in names:
        try:
            bundle = find_bundle(name, folders)
        except MedpipeError as error:
            yield Check(
                f"bundle {name}", State.FAILED, str(error), "correct the rule or worker.bundle_folders"
            )
            continue
        try:
            failed = [] if quick else [c for c in check_bundle(bundle.folder).checks if not c.passed]
        except Exception as error:  # a library or a driver that cannot compute here
            found = f"its golden case cannot be computed ({type(error).__name__})"
            yield Check(f"bundle {name}", State.FAILED, found, "try another worker.backend or worker.device")
            continue
        if failed:
            found = "; ".join(f"{check.name}: {check.found}" for check in failed)
            yield Check(f"bundle {name}", State.FAILED, found, f"run `medpipe check-bundle {bundle.folder}`")
        else:
            done = "loads (golden case not tried)" if quick else "answers its golden case as when it was made"
            yield Check(f"bundle {name}", State.OK, f"{bundle.version} {done}")


def _file_system(path: Path) -> str:
    """The kind of file system that a folder lies on, from the longest mount point above it."""
    real = path.resolve()
    mounts = [part for part in psutil.disk_partitions(all=True) if real.is_relative_to(part.mountpoint)]
    return max(mounts, key=lambda part: len(part.mountpoint)).fstype if mounts else "unknown"


def _size(size: float) -> str:
    return f"{size / 1e9:.1f} GB"
