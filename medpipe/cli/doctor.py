"""`doctor`: one command that looks at the whole site."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from medpipe.cli.app import EXIT_USAGE, app, invocation
from medpipe.errors import ConfigError


@app.command()
def doctor(
    quick: Annotated[bool, typer.Option("--quick", help="Leave out the networks' golden cases.")] = False,
    send_test_alert: Annotated[
        bool, typer.Option("--send-test-alert", help="Try the webhooks and the mail server of [alerts].")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="All checks as one JSON list.")] = False,
) -> None:
    """Look at everything a site needs, and say what to do.

    Settings, disk, memory, database, listener, peers, alerts, GPU, bundles; one line each, nothing is changed. Exit
    code 0: all well (notes may remain); 1: something is wrong; 2: the settings are; 4: a peer or the database does not
    answer.
    """
    from workers.selftest import Check, State, check_site, exit_code

    checks: list[Check] = []

    def say(check: Check) -> None:
        checks.append(check)
        if not as_json:
            mark = {State.OK: "ok  ", State.NOTE: "note"}.get(check.state, "FAIL")
            typer.echo(f"{mark}  {check.name}: {check.found}" + (f"; {check.advice}" if check.advice else ""))

    try:
        config, path = invocation.site_config()
        say(Check("settings", State.OK, str(path)))
        for check in check_site(config, quick=quick, send_test_alert=send_test_alert):
            say(check)
        code = exit_code(checks)
    except ConfigError as error:
        for line in str(error).splitlines():
            say(Check("settings", State.FAILED, line, "correct the settings"))
        code = EXIT_USAGE
    if as_json:
        typer.echo(json.dumps([asdict(check) for check in checks], ensure_ascii=False, indent=1))
    if code:
        raise typer.Exit(code)
