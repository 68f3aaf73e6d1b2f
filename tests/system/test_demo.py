"""`make run`: the demo as a user starts it, and what is left behind when it ends (nothing)."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import local_process
import psutil
import pytest

from medpipe.samples import write_study

DEMO = Path(local_process.__file__).with_name("demo.py")


def started_by(demo):
    return psutil.Process(demo.pid).children(recursive=True)


def alive(processes):
    return [p.cmdline() for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


@pytest.fixture
def start_demo(dcmtk, start_orthanc, tmp_path):
    """A function that starts the demo; (process, file with its output). Skips where Orthanc or DCMTK is absent."""
    started = []

    def start(*arguments):
        output = tmp_path / "output.txt"
        with output.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, DEMO, *arguments], stdout=file, stderr=subprocess.STDOUT
            )
        started.append(process)
        return process, output

    yield start
    for process in started:
        if process.poll() is None:
            process.terminate()
            process.wait(60)


def test_the_sample_comes_back_into_the_pacs(start_demo):
    """The main job: modality, PACS, auto-routing, medpipe, PACS; the table says so and the demo ends well."""
    demo, output = start_demo("--once")
    assert demo.wait(280) == 0, output.read_text()
    text = output.read_text()
    assert "demo failed" not in text
    for line in ("received", "fundus-lesions", "confirmed", "SEG  AI", "SR  AI", "network"):
        assert line in text, text
    counts = [int(number) for number in re.findall(r"(\d+) lesions?\b", text)]
    assert sum(counts) > 0, text


@pytest.fixture
def photograph(tmp_path):
    """A small study that is quickly made and sent; nobody waits for its result."""
    return write_study("fundus", tmp_path / "sample", seed=2, width=320, height=256).files[0]


def test_nothing_is_left_when_it_is_interrupted(start_demo, photograph):
    demo, output = start_demo("--sample", photograph)
    assert local_process.wait_until(lambda: "MEDPIPE on port" in output.read_text(), 120)
    processes = started_by(demo)
    assert len(processes) >= 3
    demo.send_signal(signal.SIGINT)
    assert demo.wait(60) == 130, output.read_text()
    assert alive(processes) == []
    assert not Path(f"{DEMO.parent.parent}/.demo/run-{demo.pid}").exists()


def test_nothing_is_left_when_it_is_killed(start_demo, photograph):
    demo, output = start_demo("--sample", photograph)
    assert local_process.wait_until(lambda: "MEDPIPE on port" in output.read_text(), 120)
    processes = started_by(demo)
    demo.kill()
    demo.wait()
    assert local_process.wait_until(lambda: not alive(processes), 40), alive(processes)


def test_a_sample_that_is_not_there(start_demo):
    demo, output = start_demo("--once", "--sample", "/no/such/file")
    assert demo.wait(60) == 1
    assert "SAMPLE: /no/such/file does not exist" in output.read_text().replace("\n", " ")
