"""A worker whose children never answer: `stand_in_worker.py ROOT`."""

import signal
import sys

from medpipe.config import parse_config
from workers.work import Worker, _Asked

HANG = [sys.executable, "-c", "import sys, time\nfor line in sys.stdin: time.sleep(600)"]

worker = Worker(parse_config({"site": {"root": sys.argv[1]}}), HANG)
signal.signal(signal.SIGTERM, _Asked(worker.stop))
worker.run()
