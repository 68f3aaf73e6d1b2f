"""Many machines of one site on this one: `work` processes, each with a host name, a boot and a scratch of its own.

    python deploy/simulated_machines.py medpipe.toml --scratch FOLDER [--first 0] [--count 50] [--sleep FILE]

Every one is the worker that ships: it claims, beats, sweeps and publishes. As their boots differ, none of them can tell
from another's lock that it is dead; only missing beats do, as between real machines. With --sleep the inference child
sleeps as many seconds as FILE says (also while it sleeps) and finds nothing. The processes are forked from one that has
made the imports, so that fifty of them fit into a few GB.
"""

from __future__ import annotations

import argparse
import ctypes
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from medpipe.config import Config, load_config
from workers import lease
from workers.slots import CHILD_COMMAND
from workers.work import Worker

_PR_SET_PDEATHSIG = 1
_SLEEPER = """
import json, sys, time
done = {"results": [], "images": [], "reason": None, "state": "done", "seconds": {}}
sys.stdin.readline()
for line in sys.stdin:
    began, left = time.monotonic(), 0.0
    while left >= 0:
        time.sleep(min(left, 1.0))
        with open(sys.argv[1]) as file:
            left = began + float(file.read()) - time.monotonic()
    print(json.dumps({"done": done}), flush=True)
"""


def main() -> None:
    """Runs the machines until SIGTERM; each ends as a worker ends."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--sleep", type=Path)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(process)d %(message)s")
    logging.getLogger("dbos").setLevel(logging.ERROR)
    config = load_config(options.config)
    child = CHILD_COMMAND
    if options.sleep is not None:
        child = (sys.executable, "-I", "-S", "-c", _SLEEPER, str(options.sleep))
    pids = [
        start(config, f"machine-{number}", options.scratch / f"machine-{number}", child)
        for number in range(options.first, options.first + options.count)
    ]
    signal.signal(signal.SIGTERM, lambda *_: [os.kill(pid, signal.SIGTERM) for pid in pids])
    for pid in pids:
        os.waitpid(pid, 0)


def start(config: Config, name: str, scratch: Path, child: Sequence[str]) -> int:
    """Forks one machine with its worker; its process id."""
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            return os._exit(1)
        pretend(name)
        worker = config.worker.model_copy(update={"scratch": scratch})
        machine = Worker(config.model_copy(update={"worker": worker}), child)
        signal.signal(signal.SIGTERM, lambda *_: machine.stop.set())
        machine.run()
        code = 0
    finally:
        os._exit(code)


def pretend(name: str) -> None:
    """From here on this process takes itself for one of the machine `name`."""
    boot = f"{name}-{time.time():.0f}"[-36:]
    socket.gethostname = lambda: name
    lease.boot_id = lambda: boot


if __name__ == "__main__":
    main()
