"""Every line of ours is about an event, and every event is explained."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from medpipe.logs import Event

ROOT = Path(__file__).parents[3]
LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}


def log_calls() -> Iterator[tuple[str, ast.Call]]:
    for path in sorted([*(ROOT / "medpipe").rglob("*.py"), *(ROOT / "workers").rglob("*.py")]):
        if "training" in path.parts:  # a command that prints its progress, no process of the line
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in LEVELS
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id == "log"
            ):
                yield f"{path.relative_to(ROOT)}:{node.lineno}", node


def test_every_line_of_ours_is_about_an_event() -> None:
    calls = dict(log_calls())
    assert len(calls) > 50
    assert [place for place, call in calls.items() if "extra" not in {k.arg for k in call.keywords}] == []


def test_every_event_is_used_and_explained() -> None:
    code = "\n".join(
        path.read_text() for name in ("medpipe", "workers") for path in (ROOT / name).rglob("*.py")
    )
    unused = [event for event in Event if not re.search(rf"Event\.{event.name}\b", code)]
    assert unused == []
    page = (ROOT / "docs" / "monitoring.md").read_text().split("## Logs")[1].split("\n## ")[0]
    explained = {
        name for row in re.findall(r"(?m)^\| (.*?) \|", page) for name in re.findall(r"`([a-z_.]+)`", row)
    }
    assert {event.value for event in Event} <= explained
