"""The worker's warm children: asked, replaced when they die, killed when nobody wants their answer any more."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from medpipe.config import parse_config
from medpipe.errors import InferenceCrashed, ReasonCode, Refused, StepTimeout
from workers.fence import LostClaim
from workers.slots import Interrupted, Slots

STAND_IN = [sys.executable, str(Path(__file__).with_name("stand_in_child.py"))]


def wanted() -> None:
    pass


@pytest.fixture
def slots() -> Iterator[Slots]:
    made = Slots(parse_config({}), STAND_IN)
    made.keep_full()
    yield made
    made.end()


def ask(slots: Slots, do: str, seconds: float = 60, **more: str) -> dict[str, int]:
    slots.keep_full()
    return slots.ask({"do": do, **more}, seconds=seconds, still_wanted=wanted)


def is_there(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_the_same_warm_child_answers_again_and_again(slots: Slots) -> None:
    assert ask(slots, "answer")["pid"] == ask(slots, "answer")["pid"]


def test_a_request_longer_than_the_pipe_arrives_whole(slots: Slots) -> None:
    assert ask(slots, "answer", filler="x" * 1_000_000)["length"] > 1_000_000


def test_a_refusal_is_an_answer_and_the_child_lives_on(slots: Slots) -> None:
    pid = ask(slots, "answer")["pid"]
    with pytest.raises(Refused, match="a slice is missing") as refusal:
        ask(slots, "refuse")
    assert refusal.value.reason is ReasonCode.GEOM_GAP
    assert ask(slots, "answer")["pid"] == pid


def test_a_child_that_dies_is_replaced(slots: Slots) -> None:
    pid = ask(slots, "answer")["pid"]
    with pytest.raises(InferenceCrashed, match="status 7"):
        ask(slots, "die")
    assert ask(slots, "answer")["pid"] != pid


def test_a_child_that_died_while_idle_is_replaced_unnoticed(slots: Slots) -> None:
    pid = ask(slots, "answer")["pid"]
    os.kill(pid, signal.SIGKILL)
    while is_there(pid):
        time.sleep(0.01)
    with ThreadPoolExecutor() as threads:
        answer = threads.submit(slots.ask, {"do": "answer"}, seconds=60, still_wanted=wanted)
        while not answer.done():
            slots.keep_full()  # the main thread's part: a child dies with the thread that started it
        assert answer.result()["pid"] != pid


def test_a_step_that_takes_too_long_is_killed(slots: Slots) -> None:
    pid = ask(slots, "answer")["pid"]
    with pytest.raises(StepTimeout, match="kill_stalled_after"):
        ask(slots, "hang", seconds=0.3)
    assert not is_there(pid)


@pytest.mark.parametrize("do", ["hang", "chatter"])
def test_an_answer_that_nobody_wants_any_more_is_not_waited_for(slots: Slots, do: str) -> None:
    pid = ask(slots, "answer")["pid"]
    looks = iter([None, LostClaim()])  # still wanted when it begins, not at the next look

    def taken_over() -> None:
        if lost := next(looks):
            raise lost

    with pytest.raises(LostClaim):
        slots.ask({"do": do}, seconds=60, still_wanted=taken_over)
    assert not is_there(pid)


def test_closing_interrupts_what_runs(slots: Slots) -> None:
    pid = ask(slots, "answer")["pid"]
    closing = threading.Timer(0.2, slots.close)
    closing.start()
    with pytest.raises(Interrupted):
        ask(slots, "hang")
    closing.join()
    assert not is_there(pid)
    assert not issubclass(Interrupted, Exception), "an interruption is no failure of the job"


def test_a_child_dies_with_its_worker(tmp_path: Path) -> None:
    worker = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time\n"
            "from medpipe.config import parse_config\n"
            "from workers.slots import Child\n"
            "print(Child(parse_config({}), sys.argv[1:]).pid, flush=True)\n"
            "time.sleep(600)\n",
            *STAND_IN,
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert worker.stdout is not None
    pid = int(worker.stdout.readline())
    assert is_there(pid)
    worker.kill()
    worker.wait()
    worker.stdout.close()
    for _ in range(200):
        if not is_there(pid):
            return
        time.sleep(0.05)
    pytest.fail("the child outlives its worker")
