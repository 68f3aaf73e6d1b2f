"""Set-up and the processes: init, config show, serve, listen, work, review, watch."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medpipe.cli.app import app, invocation

if TYPE_CHECKING:
    from medpipe.config import Config

config_app = typer.Typer(help="The settings in force.", no_args_is_help=True)
app.add_typer(config_app, name="config")


@app.command()
def init() -> None:
    """Create folders and database, or migrate."""
    from workers.work import prepare

    config, _ = invocation.site_config()
    prepare(config)
    typer.echo(f"ready: {config.site.root} ({config.site.database_url.split(':', 1)[0]})")


@config_app.command("show")
def config_show() -> None:
    """Print the checked settings as TOML."""
    path, settings = invocation.config_path(), invocation.config()
    typer.echo(f"# {path if path is not None else 'no file found: all defaults'}")
    typer.echo(settings_text(settings), nl=False)


def settings_text(config: Config) -> str:
    """The settings as TOML, secrets masked."""
    import tomli_w

    from medpipe.config import masked

    return tomli_w.dumps(_without_none(masked(config)))


def _without_none(value: object) -> dict[str, object]:
    assert isinstance(value, dict)
    return {
        key: _without_none(item)
        if isinstance(item, dict)
        else [_without_none(entry) if isinstance(entry, dict) else entry for entry in item]
        if isinstance(item, list)
        else item
        for key, item in value.items()
        if item is not None
    }


@app.command()
def serve() -> None:
    """Run listener, worker and review until Ctrl-C.

    All processes of one machine under one small parent, which starts them again when they die; the review where
    the settings have a section [review], the watch where [alerts] names somebody to tell.
    """
    from workers.supervisor import run_supervisor

    config, path = invocation.service("supervisor")
    code = run_supervisor(config, path)
    if code:
        raise typer.Exit(code)


@app.command()
def listen() -> None:
    """Run the DICOM listener."""
    from workers.listener import run_listener

    run_listener(invocation.service("listener")[0])


@app.command()
def work(
    until_idle: Annotated[bool, typer.Option("--until-idle", help="Stop when no job is left.")] = False,
) -> None:
    """Run one worker.

    It settles studies, runs the networks, sends results and has them confirmed.
    """
    from workers.work import run_worker

    run_worker(invocation.service("worker")[0], until_idle=until_idle)


@app.command()
def review() -> None:
    """Run the pages for a browser.

    A worklist, and the viewer over the DICOMweb of the PACS.
    """
    from medpipe.review.server import run_review

    run_review(invocation.service("review")[0])


@app.command()
def watch() -> None:
    """Tell a person when the line needs one.

    Queue, disk, peers, failed jobs, certificates: by webhook or e-mail, as [alerts] in the settings says.
    """
    from workers.alerts import run_watch

    config, _ = invocation.service("watch")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    run_watch(config, stop)


@app.command("fetch-viewer")
def fetch_viewer(
    package: Annotated[
        Path | None,
        typer.Option(
            "--package",
            metavar="FILE.tgz",
            exists=True,
            dir_okay=False,
            help="What `npm pack` made; else download.",
        ),
    ] = None,
) -> None:
    """Install the viewer (OHIF) that review shows.

    One pinned version from the npm registry, checked by its digest.
    """
    from medpipe.config import Review
    from medpipe.review.viewer_package import fetch, viewer_folder

    typer.echo(fetch(viewer_folder(invocation.config().review or Review()), package))
