"""The pages: every command and option in them exists, every link leads somewhere, every setting is one."""

from __future__ import annotations

import re
from pathlib import Path

import local_orthanc
import pytest

from medpipe.cli.reference import reference
from medpipe.config import Config

ROOT = Path(local_orthanc.__file__).parent.parent
PAGES = sorted([*(ROOT / "docs").glob("*.md"), *(ROOT / "deploy").rglob("*.md"), ROOT / "README.md"])
GENERATED = {"commands.md", "conformance.md"}


@pytest.fixture(scope="module")
def options():
    """Command -> its options, from the commands' own help; `config show` is a command of two words."""
    pages = re.split(r"(?m)^## medpipe ?", reference())[1:]
    return {page.splitlines()[0]: set(re.findall(r"(?<!\S)--[a-z-]+", page)) for page in pages}


def commands_in(text):
    """What a page tells its reader to type, of medpipe's own: the words after `medpipe`, up to the end of it."""
    quoted = re.findall(r"`([^`\n]+)`", re.sub(r"(?s)```.*?```", "", text))
    blocks = re.findall(r"(?s)```(?:sh)?\n(.*?)```", text)
    lines = [*quoted, *(line.split("  #")[0] for block in blocks for line in block.splitlines())]
    for line in lines:
        if found := re.search(r"(?:^|[\s/])medpipe ((?:--config \S+ )?[a-z][a-z-]*.*)$", line):
            yield re.sub(r"^--config \S+ ", "", found[1])


@pytest.mark.parametrize("page", [p for p in PAGES if p.name not in GENERATED], ids=lambda p: p.name)
def test_every_command_and_option_exists(page, options):
    for command in commands_in(page.read_text()):
        if not re.match(r"[a-z-]+( |$)", command):
            continue
        words = command.split()
        name = " ".join(words[:2]) if " ".join(words[:2]) in options else words[0]
        assert name in options, f"{page.name}: medpipe {command}"
        used = set(re.findall(r"(?<!\S)--[a-z-]+", command))
        assert used <= options[name] | {"--help"}, f"{page.name}: medpipe {command}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_page_is_in_the_index():
    index = (ROOT / "docs" / "README.md").read_text()
    assert [
        p.name for p in (ROOT / "docs").glob("*.md") if p.name != "README.md" and f"({p.name})" not in index
    ] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_setting_that_is_named_is_one(page):
    """`site.root` and the like."""
    for section in ("site", "listener", "worker", "reading", "results", "logs", "alerts"):
        known = set(type(getattr(Config(), section)).model_fields)
        named = set(re.findall(rf"`{section}\.([a-z_]+)", page.read_text()))
        assert named <= known, f"{page.name}: {section}.{named - known}"
