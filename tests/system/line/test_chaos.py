"""bench/chaos.py in small: a few kills on a real line, then everything has ended and no rule is broken."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

CHAOS = Path(__file__).parents[3] / "bench" / "chaos.py"


def test_a_short_storm_loses_nothing() -> None:
    options = ["--workers", "2", "--kills", "6", "--every", "0.7", "--seed", "4", "--attempts", "2"]
    done = subprocess.run(
        [sys.executable, str(CHAOS), *options, "--no-own-disk", "--minutes", "1"],
        capture_output=True,
        text=True,
        timeout=200,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    table = dict(re.findall(r"^\| ([^|]+) \| (.*) \|$", done.stdout, re.MULTILINE))
    assert table["broken rules"] == "0"
    assert int(table["kill -9"].partition(":")[0]) >= 6
    assert int(table["instances acknowledged"].split()[0]) >= 4
    assert "confirmed" in table["jobs ended"] and "failed" in table["jobs ended"]
