"""docs/commands.md is what the commands say of themselves (`make docs` writes it)."""

from pathlib import Path

from medpipe.cli.reference import reference

PAGE = Path(__file__).parents[3] / "docs" / "commands.md"


def test_the_page_is_what_help_says() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference()
