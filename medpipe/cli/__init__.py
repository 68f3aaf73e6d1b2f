"""The command line: `medpipe ...`. Results go to stdout, everything else to stderr; errors are one clear line."""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point of the `medpipe` command; exit codes are those of docs/commands.md."""
    from medpipe.cli.app import run
    from medpipe.logs import catch_all

    catch_all()
    sys.exit(run(sys.argv[1:]))
