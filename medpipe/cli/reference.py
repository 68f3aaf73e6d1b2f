"""docs/commands.md, generated from the commands' own help so that it cannot drift: `make docs` writes it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main
from typer.testing import CliRunner

from medpipe.cli.app import app, load_commands

HEAD = """# Commands

Generated from `medpipe --help` by `make docs`; a test fails when it is stale. Results go to stdout, everything
else to stderr. An error is one line, `error: CODE: what happened and what to do`; `--verbose` adds the traceback.
"""


def reference() -> str:
    """The help of medpipe and of each command, as Markdown."""
    load_commands()
    root: Any = typer.main.get_command(app)
    pages = [
        f"## medpipe {' '.join(words)}".rstrip() + f"\n\n```\n{_help(words)}```\n"
        for words in _commands(root)
    ]
    return "\n".join([HEAD, *pages])


def _commands(group: Any, prefix: tuple[str, ...] = ()) -> Iterator[list[str]]:
    yield list(prefix)
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, (*prefix, name))
        else:
            yield [*prefix, name]


def _help(words: list[str]) -> str:
    shown = CliRunner().invoke(
        app, [*words, "--help"], prog_name="medpipe", env={"COLUMNS": "100", "TERMINAL_WIDTH": "100"}
    )
    return "\n".join(line.rstrip() for line in shown.output.splitlines()) + "\n"


def main() -> None:
    """Writes the page to the path given."""
    Path(sys.argv[1]).write_text(reference(), encoding="utf-8")


if __name__ == "__main__":
    main()
