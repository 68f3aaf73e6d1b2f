"""`reconcile`: what an Orthanc got while we were away."""

from __future__ import annotations

import signal
import threading
from typing import Annotated

import typer

from medpipe.cli.app import app, invocation
from medpipe.config import Config
from medpipe.errors import UsageError


@app.command()
def reconcile(
    peers: Annotated[
        list[str] | None, typer.Argument(metavar="[PEER...]", help="Else all peers with an orthanc table.")
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Again and again, as each peer's orthanc.every says.")
    ] = False,
    from_start: Annotated[
        bool, typer.Option("--from-start", help="Look at all that Orthanc ever got, not only at what is new.")
    ] = False,
) -> None:
    """Have an Orthanc send what we missed.

    Our place in Orthanc's changes is kept; the first call only notes it. `serve` runs this with --follow.
    """
    from workers.audit import active
    from workers.reconcile import Reconciler, run_reconciler
    from workers.registry import Registry
    from workers.work import prepare

    config, _ = invocation.service("reconcile") if follow else invocation.site_config()
    names = peers or _with_orthanc(config)
    prepare(config)
    if follow:
        if from_start:
            raise UsageError("--from-start is for one look: leave out --follow")
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        with active(config.site.root, "reconcile"):
            run_reconciler(config, names, stop)
        return
    registry = Registry(config.site.database_url)
    try:
        for name in names:
            done = Reconciler(config, name, registry).look(from_start=from_start)
            typer.echo(
                f"{name}: {done.series} series looked at, {done.arrived} missed instances came,"
                f" {done.waiting} series wait"
            )
    finally:
        registry.close()


def _with_orthanc(config: Config) -> list[str]:
    names = [name for name, peer in config.peers.items() if peer.orthanc is not None]
    if not names:
        raise UsageError("no peer has an orthanc table in the settings (see deploy/medpipe.example.toml)")
    return names
