"""A worker whose children never answer, and that grants them one second at its end: `stand_in_worker.py ROOT`."""

import signal
import sys

from medpipe.config import parse_config
from workers import work

HANG = [sys.executable, "-c", "import sys, time\nfor line in sys.stdin: time.sleep(600)"]

work._GRACE_SECONDS = 1
worker = work.Worker(parse_config({"site": {"root": sys.argv[1]}}), HANG)
signal.signal(signal.SIGTERM, work._Asked(worker.stop))
worker.run()
