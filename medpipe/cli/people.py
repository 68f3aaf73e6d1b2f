"""`users`: who may sign in to the review; and `hash-password`, for those who keep them in the settings."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medpipe.cli.app import app, invocation, who
from medpipe.errors import UsageError

if TYPE_CHECKING:
    from medpipe.config import Config
    from medpipe.review.users import UsersFile

users_app = typer.Typer(help="Who may sign in to the review (`review.users_file`).", no_args_is_help=True)
app.add_typer(users_app, name="users")

_NAME = Annotated[str, typer.Argument(metavar="NAME")]
_SHORTEST = 8


@users_app.command("add")
def add(name: _NAME) -> None:
    """Add a user, or give one a new password.

    Asks for the password; in a pipe it is the first line. Holds at once, also while the review runs.
    """
    from medpipe.review.passwords import hash_password
    from medpipe.review.users import check_name

    config, users = _users()
    check_name(name)
    is_new = users.put(name, hash_password(_password()))
    _tell(config, "user changed", name)
    typer.echo(f"{name}: {'added' if is_new else 'has a new password'}")


@users_app.command("remove")
def remove(name: _NAME) -> None:
    """Take a user out; sessions end at once."""
    config, users = _users()
    users.remove(name)
    _tell(config, "user removed", name)
    typer.echo(f"{name}: removed")


@users_app.command("list")
def listed() -> None:
    """Print the users' names."""
    for name in sorted(_users()[1].users()):
        typer.echo(name)


@app.command("hash-password")
def hash_password_command() -> None:
    """Make the hash of a password for [review] users.

    Asks for the password; in a pipe it is the first line. `users add` keeps it in a file instead.
    """
    from medpipe.review.passwords import hash_password

    typer.echo(hash_password(_password()))


def _password() -> str:
    if sys.stdin.isatty():
        password: str = typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    else:
        password = sys.stdin.readline().rstrip("\n")
    if len(password) < _SHORTEST:
        raise UsageError(f"a password has at least {_SHORTEST} characters")
    return password


def _users() -> tuple[Config, UsersFile]:
    from medpipe.review.users import UsersFile

    config, _ = invocation.site_config()
    path: Path | None = config.review.users_file if config.review is not None else None
    if path is None:
        raise UsageError('review.users_file is not set: users_file = "/var/lib/medpipe/users", for instance')
    return config, UsersFile(path)


def _tell(config: Config, what: str, name: str) -> None:
    """The audit trail; a worker takes it in."""
    from workers.audit import Notices

    Notices(config.site.root).leave(who(), what, about=name)
