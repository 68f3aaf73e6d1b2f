"""The guarded child: a warm, single-threaded process that forks one limited grandchild per request.

Protocol: one JSON object per line. Requests come on stdin; answers go to stdout. The grandchild alone touches foreign
bytes; its memory, processor time and wall-clock time are bounded, and whatever becomes of it, the child lives on.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import select
import signal
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pydicom.config

from medpipe.dicom import assemble, headers, nifti, pictures
from medpipe.errors import ReasonCode, Refused

Plain = dict[str, Any]
Request = dict[str, Any]
Tell = Callable[[Plain], None]

_LARGEST_ANSWER = 256 * 2**20


def main() -> None:
    """Serves requests until stdin closes, which it does when the parent dies."""
    warnings.simplefilter("ignore")
    # what a file from outside gets wrong is ours to judge, not a reason for the parser to stop
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business; it then closes our stdin
    signal.signal(
        signal.SIGPIPE, signal.SIG_DFL
    )  # a parent that was killed reads no answer: end, without a word
    _preload()
    sys.stdout.write(json.dumps({"ready": os.getpid()}) + "\n")
    sys.stdout.flush()
    for line in sys.stdin:
        request: Request = json.loads(line)
        for answer in _guarded(request):
            sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.write(json.dumps({"end": True}) + "\n")
        sys.stdout.flush()


def _preload() -> None:
    """Imports what every grandchild needs, once, and before the first fork."""
    import highdicom.spatial  # noqa: F401
    import numpy  # noqa: F401
    import pydicom.pixels.decoders  # noqa: F401


# --- one operation per kind of request (these run in the grandchild) ---------------------------------------------


def _scan(request: Request, tell: Tell) -> None:
    for number, name in request["files"]:
        tell({"begin": number})
        try:
            header = headers.read_header(Path(name), request["uid_root"])
        except Refused as reason:
            series_uid = headers.series_seen(Path(name))
            tell({"number": number, "refused": [reason.code, str(reason), series_uid]})
        else:
            tell({"number": number, "header": {**vars(header), "path": name}})


def _assemble(request: Request, tell: Tell) -> None:
    """Says which file it opens, at which stage, before it does: the parent leaves out one that breaks the reader."""
    paths = [Path(name) for name in request["paths"]]
    broken = {
        Path(name): {stage: Refused(ReasonCode(code), sentence)}
        for name, stage, code, sentence in request["broken"]
    }

    def begin(path: Path, stage: str) -> None:
        reason = broken.get(path, {}).get(stage)
        if reason is not None:
            raise reason
        tell({"begin": str(path), "stage": stage})

    tell(assemble.assemble(paths, Path(request["scratch"]), request["limits"], request["uid_root"], begin))


def _picture(request: Request, tell: Tell) -> None:
    tell(pictures.read_picture(Path(request["path"]), Path(request["scratch"]), request["limits"]))


def _nifti(request: Request, tell: Tell) -> None:
    tell(nifti.read_nifti(Path(request["path"]), Path(request["scratch"]), request["limits"]))


OPERATIONS: dict[str, Callable[[Request, Tell], None]] = {
    "scan": _scan,
    "assemble": _assemble,
    "picture": _picture,
    "nifti": _nifti,
}


# --- the guard ----------------------------------------------------------------------------------------------------


def _guarded(request: Request) -> list[Plain]:
    """Runs one request in a fork; its answers, the last one a refusal where it broke a limit or died."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _grandchild(request, writing)
    os.close(writing)
    try:
        answers, late = _collect(reading, request["limits"]["seconds"])
    finally:
        os.close(reading)
    if late:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if late:
        limit = request["limits"]["seconds"]
        return [*answers, _refusal(ReasonCode.TIME_LIMIT, f"reading took longer than {limit:g} s")]
    code = os.waitstatus_to_exitcode(status)
    if code == -signal.SIGXCPU:
        return [*answers, _refusal(ReasonCode.TIME_LIMIT, "reading took more processor time than allowed")]
    if code == -signal.SIGKILL:
        return [
            *answers,
            _refusal(ReasonCode.MEMORY_LIMIT, "the system killed the reader, likely for its memory"),
        ]
    if code != 0:
        return [*answers, _refusal(ReasonCode.UNREADABLE, f"the reader died of the file (status {code})")]
    return answers


def _refusal(code: ReasonCode, sentence: str) -> Plain:
    return {"failed": [code.value, sentence]}


def _collect(reading: int, seconds: float) -> tuple[list[Plain], bool]:
    """All lines that the grandchild writes, and whether it was silent for too long."""
    held = bytearray()
    deadline = time.monotonic() + seconds
    while len(held) < _LARGEST_ANSWER:
        ready, _, _ = select.select([reading], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return _lines(held), True
        block = os.read(reading, 1 << 16)
        if not block:
            return _lines(held), False
        held += block
        deadline = time.monotonic() + seconds
    return _lines(held), True


def _lines(held: bytearray) -> list[Plain]:
    return [json.loads(line) for line in bytes(held).split(b"\n")[:-1]]


def _grandchild(request: Request, writing: int) -> None:
    """Never returns: sets the limits, runs the operation, writes its answers, exits without any clean-up."""
    status = 1
    try:
        os.close(0)
        for output in (
            1,
            2,
        ):  # decoders write there what they like, values too; 1 is the answers' way to the parent
            os.dup2(os.open(os.devnull, os.O_WRONLY), output)
        _limit(request["limits"])
        try:
            OPERATIONS[request["operation"]](request, partial(_write, writing))
        except Refused as reason:
            _write(writing, {"failed": [reason.code, str(reason)]})
        except MemoryError:
            _write(writing, _refusal(ReasonCode.MEMORY_LIMIT, "reading needs more memory than allowed"))
        except RecursionError:
            _write(writing, _refusal(ReasonCode.UNREADABLE, "sequences are nested too deeply"))
        except OSError as error:
            if error.errno == errno.ENOMEM:  # a file that cannot be mapped
                _write(writing, _refusal(ReasonCode.MEMORY_LIMIT, "reading needs more memory than allowed"))
            else:
                _write(writing, {"storage": error.strerror or "input/output error", "errno": error.errno})
        except Exception as error:
            _write(writing, _refusal(ReasonCode.UNREADABLE, f"the reader stumbled ({type(error).__name__})"))
        status = 0
    finally:
        os._exit(status)


def _limit(limits: Plain) -> None:
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    space = in_use + int(limits["memory"])
    seconds = int(limits["seconds"]) + 1
    resource.setrlimit(resource.RLIMIT_AS, (space, space))
    resource.setrlimit(resource.RLIMIT_CPU, (4 * seconds, 4 * seconds + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))


def _write(writing: int, answer: Plain) -> None:
    data = json.dumps(answer).encode() + b"\n"
    while data:
        data = data[os.write(writing, data) :]


if __name__ == "__main__":
    main()
