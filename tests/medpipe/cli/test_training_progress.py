"""The bar of a training on a terminal; plain log lines elsewhere."""

from __future__ import annotations

import logging
import re
import sys

import pytest

from medpipe.cli.progress import in_words, training_bar
from medpipe.training.journal import Standing

STANDING = Standing(done=0.25, steps=120, loss=0.4321, patches_per_second=3.6, seconds=1300.0)


def test_time_left_follows_from_the_spent_part_of_the_budget() -> None:
    assert STANDING.seconds_left == 3900
    assert in_words(STANDING) == "step 120 · loss 0.4321 · 3.6 patches/s · 1:05:00 left"
    assert Standing(0.0, 0, 1.0, 0.0, 0.0).seconds_left is None


def test_no_terminal_no_bar() -> None:
    with training_bar() as tell:
        assert tell is None


def test_on_a_terminal_steps_are_in_the_bar_and_measurements_above_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    before = logging.getLogger().handlers[:]
    log = logging.getLogger("medpipe.training.journal")
    with training_bar() as tell:
        assert tell is not None
        tell(STANDING)
        log.warning("%s at step %d: %s", "train", 50, {"loss": 1})
        log.warning("%s at step %d: %s", "validate", 100, {"aupr": 1})
    told = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err)
    assert "step 120 · loss 0.4321" in told
    assert "validate at step 100" in told
    assert "train at step 50" not in told
    assert logging.getLogger().handlers == before
