"""An inference child for tests: speaks the worker's protocol and does as the request says."""

import json
import os
import sys
import time


def say(**message):
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


sys.stdin.readline()
for line in sys.stdin:
    request = json.loads(line)
    if request["do"] == "die":
        os._exit(7)
    if request["do"] == "hang":
        time.sleep(600)
    if request["do"] == "chatter":
        while True:
            say(progress=0.5)
            time.sleep(0.01)
    if request["do"] == "refuse":
        say(error=["Refused", "GEOM_GAP", "a slice is missing"])
    else:
        say(done={"pid": os.getpid(), "length": len(line)})
