"""Python processes that start warm: forked from one that has imported everything, so that a storm's time goes into the
line and not into imports.

`WarmPython.program` stands in for the interpreter (`program -m workers.child`): it asks the warm process for a fork
with its arguments, environment and open files, and lives and dies with it. When either is killed, the kernel or the
warm process kills the other, so that PR_SET_PDEATHSIG, pipes and exit statuses mean what they mean to a process of its
own.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path

from local_process import LocalProcess

_PROGRAM = """#!{python} -IS
import json, os, signal, socket, sys
warm = socket.socket(socket.AF_UNIX)
warm.connect({address!r})
wanted = json.dumps({{"argv": sys.argv[1:], "environment": dict(os.environ), "folder": os.getcwd()}}).encode()
socket.send_fds(warm, [len(wanted).to_bytes(4, "big")], [0, 1, 2])
warm.sendall(wanted)
for descriptor in (0, 1, 2):
    os.close(descriptor)
told = warm.recv(16)
status = int(told) if told else -signal.SIGKILL
if status < 0:
    os.kill(os.getpid(), -status)
os._exit(status)
"""
_PID = struct.Struct("3i")
_STARTS_IN_SECONDS = 120


class WarmPython:
    """The warm process and the program that stands in for an interpreter. From the main thread only."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self.program = folder / "python"
        address = str(folder / "socket")
        self.program.write_text(_PROGRAM.format(python=sys.executable, address=address))
        self.program.chmod(0o755)
        here = Path(__file__).parents[1]
        self._process = LocalProcess(
            "warm",
            [sys.executable, "-m", "havoc.warm", str(folder)],
            folder / "warm.log",
            environment={
                "PYTHONPATH": os.pathsep.join(map(str, (here, here.parent / "deploy", here.parent))),
                "OMP_NUM_THREADS": "1",
            },
        )

    def start(self) -> WarmPython:
        self._process.start()
        self._process.wait_ready(lambda: (self._folder / "socket").exists(), _STARTS_IN_SECONDS)
        return self

    def pid(self, program_pid: int) -> int:
        """The number of the process that works for a started program."""
        until = time.monotonic() + 5
        path = self._folder / str(program_pid)
        while not path.exists() and time.monotonic() < until:
            time.sleep(0.01)
        return int(path.read_text()) if path.exists() else program_pid

    def stop(self) -> None:
        self._process.kill()


def main(folder: Path) -> None:
    """Imports what the line's processes need, then forks whatever is asked for."""
    sys.executable = str(folder / "python")  # what the forked processes start is warm, too
    mains = _imported()
    server = socket.socket(socket.AF_UNIX)
    aside = folder / ".socket"
    server.bind(str(aside))
    server.listen(64)
    server.settimeout(0.02)
    aside.rename(folder / "socket")
    working: dict[int, socket.socket] = {}
    while True:
        with contextlib.suppress(TimeoutError):
            program, _ = server.accept()
            program.settimeout(None)
            _fork(program, folder, mains, [server, *working.values()], working)
        _bury(working)


def _imported() -> dict[str, Callable[[], None]]:
    import highdicom.spatial  # noqa: F401
    import pydicom.pixels.decoders  # noqa: F401

    import medpipe.cli.app
    import medpipe.dicom.child
    import medpipe.inference
    import medpipe.results.seg
    import medpipe.results.sr
    import workers.child
    import workers.listener
    import workers.work

    return {
        "medpipe.cli": medpipe.cli.main,
        "workers.child": workers.child.main,
        "medpipe.dicom.child": medpipe.dicom.child.main,
    }


def _fork(
    program: socket.socket,
    folder: Path,
    mains: dict[str, Callable[[], None]],
    not_its_own: list[socket.socket],
    working: dict[int, socket.socket],
) -> None:
    """One process for a program that has asked."""
    head, descriptors, _, _ = socket.recv_fds(program, 4, 3)
    wanted = b""
    length = int.from_bytes(head, "big")
    while len(wanted) < length and (part := program.recv(length - len(wanted))):
        wanted += part
    if len(descriptors) < 3 or len(wanted) < length:  # the program has died already
        for descriptor in descriptors:
            os.close(descriptor)
        program.close()
        return
    pid = os.fork()
    if pid == 0:
        for other in not_its_own:
            other.close()
        _become(json.loads(wanted), descriptors, program, mains)
    for descriptor in descriptors:
        os.close(descriptor)
    working[pid] = program
    asked_by = _PID.unpack(program.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PID.size))[0]
    aside = folder / f".{asked_by}"
    aside.write_text(str(pid))
    aside.rename(folder / str(asked_by))


def _become(
    wanted: dict[str, object],
    descriptors: list[int],
    program: socket.socket,
    mains: dict[str, Callable[[], None]],
) -> None:
    """What the program would be if it were a Python that has just imported everything. Never returns."""
    status = 1
    try:
        os.setsid()
        for target, descriptor in enumerate(descriptors):
            os.dup2(descriptor, target)
            os.close(descriptor)
        _die_with(program)
        os.environ.clear()
        os.environ.update(wanted["environment"])  # type: ignore[arg-type]
        os.chdir(str(wanted["folder"]))
        argv = [str(argument) for argument in wanted["argv"]]  # type: ignore[attr-defined]
        module = argv[argv.index("-m") + 1]
        sys.argv = [module, *argv[argv.index("-m") + 2 :]]
        mains[module]()
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _die_with(program: socket.socket) -> None:
    """SIGKILL from the kernel when the program's end of the socket closes, also while we stand still."""
    descriptor = program.fileno()
    fcntl.fcntl(descriptor, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) | os.O_ASYNC)
    with contextlib.suppress(BlockingIOError):
        program.recv(1, socket.MSG_DONTWAIT)
        os.kill(os.getpid(), signal.SIGKILL)  # it has gone in this very moment


def _bury(working: dict[int, socket.socket]) -> None:
    """Tells programs how what worked for them has ended."""
    while working:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        program = working.pop(pid, None)
        if program is not None:
            with contextlib.suppress(OSError), program:
                program.send(str(os.waitstatus_to_exitcode(status)).encode())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
