"""The Typer application: global options, the commands in the order of a study's way, errors to exit codes."""

from __future__ import annotations

import getpass
import logging
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from sqlalchemy.exc import DBAPIError, OperationalError, ProgrammingError

from medpipe import __version__
from medpipe.config import Config, Logs, find_config, load_config
from medpipe.errors import MedpipeError, UsageError
from medpipe.logs import Event, about, begin

log = logging.getLogger(__name__)

_ClickException: type[Any] = typer.BadParameter.__mro__[
    2
]  # Typer's own copy of click has no public name for it
EXIT_DONE, EXIT_FAILED, EXIT_USAGE, EXIT_QUARANTINED, EXIT_PEER, EXIT_INTERRUPTED = 0, 1, 2, 3, 4, 130

app = typer.Typer(
    name="medpipe",
    help=(
        "From a routed study to a DICOM-SEG in the PACS.\n\n"
        "Exit codes: 0 done; 1 something failed; 2 wrong usage or configuration; 3 done, but some inputs were "
        "quarantined; 4 a peer (PACS, database) could not be reached; 130 interrupted."
    ),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@dataclass
class Invocation:
    """The global options of this call. The configuration is read when a command first asks for it."""

    config_file: Path | None = None
    verbose: bool = False
    serving: bool = False

    def config_path(self) -> Path | None:
        return find_config(self.config_file)

    def config(self) -> Config:
        return load_config(self.config_path())

    def site_config(self) -> tuple[Config, Path]:
        """The settings of an installation, and their file; commands that work on one do not invent it."""
        path = self.config_path()
        if path is None:
            raise UsageError(
                "no settings found: write a medpipe.toml (see deploy/medpipe.example.toml) or name one with --config"
            )
        return load_config(path), path

    def service(self, role: str) -> tuple[Config, Path]:
        """The same for a process that runs on: from now on it writes its log as the settings say."""
        config, path = self.site_config()
        begin(role, config.logs, verbose=self.verbose)
        self.serving = True
        return config, path


invocation = Invocation()


def who() -> str:
    """Who types the command, for the audit trail."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def _version(value: bool) -> None:
    if value:
        typer.echo(f"medpipe {__version__}")
        raise typer.Exit


@app.callback()
def _global(
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="FILE",
            help="Settings (else $MEDPIPE_CONFIG, ./medpipe.toml, /etc/medpipe/medpipe.toml).",
        ),
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show tracebacks and debug messages.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    invocation.config_file = config
    invocation.verbose = verbose
    begin(
        "medpipe", Logs(format="text", uids="plain"), verbose=verbose
    )  # a person's command, about what it names


def run(arguments: Sequence[str]) -> int:
    """Runs one command; returns its exit code. Every expected error is one line on stderr."""
    invocation.config_file, invocation.verbose, invocation.serving = None, "--verbose" in arguments, False
    load_commands()
    try:
        outcome = app(list(arguments), prog_name="medpipe", standalone_mode=False)
        return int(outcome) if isinstance(outcome, int) else EXIT_DONE
    except (KeyboardInterrupt, typer.Abort):
        typer.echo("interrupted", err=True)
        return EXIT_INTERRUPTED
    except typer.Exit as leaving:
        return leaving.exit_code
    except _ClickException as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            error.show(file=sys.stderr)  # the help; its class has no public name
        else:
            _complain(
                error, UsageError.code, f"{error.format_message().rstrip('.')}; {_help_of(error)} says more"
            )
        return EXIT_USAGE
    except MedpipeError as error:
        _complain(error, error.code, str(error))
        return error.exit_code
    except BrokenPipeError:
        return EXIT_FAILED
    except Exception as error:
        code, exit_code, sentence = _foreign(error)
        _complain(error, code, sentence)
        return exit_code


def _help_of(error: Any) -> str:
    """The command that explains what was typed wrongly."""
    context = getattr(error, "ctx", None)
    return f"`{context.command_path if context is not None else 'medpipe'} --help`"


def _foreign(error: Exception) -> tuple[str, int, str]:
    """Code, exit code and sentence for a library's error: a database that is away, a full disk, a defect of ours."""
    if isinstance(error, OperationalError | ProgrammingError) and _has_no_tables(error):
        return "DATABASE", EXIT_FAILED, "the database has no tables yet; run `medpipe init`"
    if isinstance(error, OperationalError):
        return "DATABASE", EXIT_PEER, f"the database does not answer as it should: {_first_line(error.orig)}"
    if isinstance(error, DBAPIError):
        return "DATABASE", EXIT_FAILED, _first_line(error.orig)
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        return "STORAGE", EXIT_FAILED, f"{place}{error.strerror or error}"
    return (
        "INTERNAL",
        EXIT_FAILED,
        f"{type(error).__name__}; a defect of medpipe: please report it (--verbose shows where)",
    )


def _has_no_tables(error: DBAPIError) -> bool:
    text = str(error.orig)
    return "no such table" in text or ("relation" in text and "does not exist" in text)


def _first_line(error: BaseException | None) -> str:
    return str(error).strip().splitlines()[0] if error is not None and str(error).strip() else "no details"


def _complain(error: BaseException, code: str, sentence: str) -> None:
    if invocation.serving:
        log.critical("%s: %s", code, sentence, exc_info=error, extra=about(Event.COMMAND_FAILED, code=code))
        return
    if invocation.verbose:
        traceback.print_exception(error)
    for line in sentence.splitlines() or [""]:
        typer.echo(f"error: {code}: {line}", err=True)


def load_commands() -> None:
    """Imports the modules whose import registers the commands, in the order in which `--help` lists them."""
    for module in (
        "service",
        "doctor",
        "processing",
        "reprocessing",
        "reconciling",
        "jobs",
        "auditing",
        "people",
        "removal",
        "explain",
        "backup",
        "models",
        "samples",
    ):
        import_module(f"medpipe.cli.{module}")
