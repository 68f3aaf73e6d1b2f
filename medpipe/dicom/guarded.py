"""Everything from outside is parsed in a child with limits: the parent's view of it.

This is the only place of the library that starts a process. Foreign bytes are read by a grandchild that is forked
for each request (see child.py); this process opens only what that one has written: plain .npy arrays and re-written
headers.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import numpy as np
import pydicom
from pydicom import Dataset

from medpipe.config import Reading
from medpipe.dicom.headers import InstanceHeader
from medpipe.errors import IntegrityError, ReasonCode, Refused, StorageError, storage_error
from medpipe.types import Grid, Image, Quarantine, SourceFrame

Plain = dict[str, Any]

_OF_ONE_FILE = {ReasonCode.UNREADABLE, ReasonCode.TIME_LIMIT, ReasonCode.MEMORY_LIMIT}
_MOST_BROKEN = 8
"""So many instances of one study may break the reader; with one more, the study as a whole is refused."""


@dataclass(frozen=True)
class Scan:
    """Headers of the files that could be read; for the others a reason each, `unreadable_paths` in the same order."""

    instances: tuple[InstanceHeader, ...]
    unreadable: tuple[Quarantine, ...]
    unreadable_paths: tuple[Path, ...]


@dataclass(frozen=True)
class Assembly:
    """Images of one study, refusals with their reasons, and the UIDs of objects that are no pictures.

    `study_header` is one instance's header (for a report on a study of which every image was refused).
    """

    study_uid: str
    images: tuple[Image, ...]
    refused: tuple[Quarantine, ...]
    ignored: tuple[str, ...]
    study_header: Path | None


class GuardedReader:
    """Reads files in a child with the limits of the [reading] section. Use as a context manager; safe for threads."""

    def __init__(self, limits: Reading, uid_root: str = "2.25") -> None:
        self._limits = limits
        self._uid_root = uid_root
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> GuardedReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def warm_up(self) -> None:
        """Starts the child now, so that the first study need not wait for its imports."""
        with self._lock:
            self._started()

    def close(self) -> None:
        """Ends the child."""
        with self._lock:
            self._stop()

    def scan(self, paths: Sequence[Path]) -> Scan:
        """Headers of all files. One bad file never harms its neighbours: it gets a reason, they are read on."""
        headers: dict[int, InstanceHeader] = {}
        refused: dict[int, tuple[str, str, str | None]] = {}
        waiting = list(enumerate(map(str, paths)))
        while waiting:
            at = self._scan_once(waiting, headers, refused)
            waiting = [item for item in waiting if item[0] > at]
        return Scan(
            tuple(headers[n] for n in sorted(headers)),
            tuple(
                Quarantine(ReasonCode(code), sentence, series_uid)
                for code, sentence, series_uid in (refused[n] for n in sorted(refused))
            ),
            tuple(Path(paths[n]) for n in sorted(refused)),
        )

    def _scan_once(
        self,
        waiting: list[tuple[int, str]],
        headers: dict[int, InstanceHeader],
        refused: dict[int, tuple[str, str, str | None]],
    ) -> int:
        """Scans until the end or until a file breaks the reader; the number of the last file dealt with."""
        at = waiting[0][0]
        for answer in self._ask("scan", {"files": waiting}):
            if "begin" in answer:
                at = answer["begin"]
            elif "header" in answer:
                plain = answer["header"]
                headers[answer["number"]] = InstanceHeader(**{**plain, "path": Path(plain["path"])})
            elif "refused" in answer:
                refused[answer["number"]] = tuple(answer["refused"])
            elif "failed" in answer:
                refused[at] = (*answer["failed"], None)
                return at
            elif "storage" in answer:
                refused[at] = (ReasonCode.UNREADABLE.value, answer["storage"], None)
                return at
        return waiting[-1][0]

    def assemble(self, paths: Sequence[Path], scratch: Path) -> Assembly:
        """Images of ONE study. Arrays and headers lie in `scratch` and live as long as it does.

        An instance that breaks the reader is refused and left out, and the others are read anew. Raises Refused where
        the study as a whole cannot be read; single images are refused within the Assembly.
        """
        scratch.mkdir(parents=True, exist_ok=True)
        answer = self._assembled([str(path) for path in paths], str(scratch))
        study_uid = str(answer["study_uid"])
        return Assembly(
            study_uid,
            tuple(_image(plain, scratch, study_uid) for plain in answer["images"]),
            tuple(
                Quarantine(ReasonCode(q["code"]), q["sentence"], q["series_uid"], tuple(q["instances"]))
                for q in answer["refused"]
            ),
            tuple(answer["ignored"]),
            Path(answer["study_header"]) if answer["study_header"] else None,
        )

    def _assembled(self, paths: list[str], scratch: str) -> Plain:
        broken: list[tuple[str, str, str, str]] = []  # path, stage, code, sentence
        while True:
            answers = self._ask("assemble", {"paths": paths, "scratch": scratch, "broken": broken})
            begun = [answer for answer in answers if "begin" in answer]
            failed = next((answer["failed"] for answer in answers if "failed" in answer), None)
            at_file = failed is not None and failed[0] in _OF_ONE_FILE and bool(begun)
            if not at_file or len(broken) == _MOST_BROKEN:
                [answer] = _sound(answers[len(begun) :])
                return answer
            assert failed is not None
            broken.append((begun[-1]["begin"], begun[-1]["stage"], *failed))

    def picture(self, path: Path, scratch: Path) -> Image:
        """A camera picture (JPEG, PNG, TIFF), upright, without patient space or calibration."""
        return self._loose("picture", path, scratch)

    def nifti(self, path: Path, scratch: Path) -> Image:
        """A NIfTI volume on its own grid (LPS)."""
        return self._loose("nifti", path, scratch)

    def _loose(self, operation: str, path: Path, scratch: Path) -> Image:
        scratch.mkdir(parents=True, exist_ok=True)
        [answer] = self._answers(operation, {"path": str(path), "scratch": str(scratch)})
        return _image({**answer, "name": path.name}, scratch, "")

    # --- the child ---------------------------------------------------------------------------------------------

    def _answers(self, operation: str, request: Plain) -> list[Plain]:
        """The answers of an operation that gives a whole or nothing."""
        return _sound(self._ask(operation, request))

    def _ask(self, operation: str, request: Plain) -> list[Plain]:
        full = {
            **request,
            "operation": operation,
            "limits": self._limits.model_dump(mode="json"),
            "uid_root": self._uid_root,
        }
        with self._lock:
            for _ in range(2):  # a child that somebody killed is started again, once
                child = self._started()
                try:
                    return _converse(child, full)
                except (BrokenPipeError, EOFError):
                    self._stop()
        raise StorageError("the guarded reader cannot be kept running on this machine")

    def _started(self) -> subprocess.Popen[bytes]:
        if self._child is not None and self._child.poll() is None:
            return self._child
        self._stop()  # the pipes of one that has died
        environment = {
            **os.environ,
            **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
        }
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "medpipe.dicom.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        assert child.stdout is not None
        if not child.stdout.readline():
            child.wait()
            raise StorageError("the guarded reader does not start (python -m medpipe.dicom.child)")
        self._child = child
        return child

    def _stop(self) -> None:
        if self._child is None:
            return
        child, self._child = self._child, None
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):  # a request that a killed child never read
                    pipe.close()
        try:
            child.wait(timeout=2)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _sound(answers: list[Plain]) -> list[Plain]:
    """The answers, if none of them says that the operation failed. Raises Refused or StorageError otherwise."""
    for answer in answers:
        if "failed" in answer:
            raise Refused(ReasonCode(answer["failed"][0]), answer["failed"][1])
        if "storage" in answer:
            kind = type(storage_error(OSError(answer["errno"], answer["storage"])))
            raise kind(f"the reader could not read or write: {answer['storage']}")
    return answers


def _converse(child: subprocess.Popen[bytes], request: Plain) -> list[Plain]:
    assert child.stdin is not None and child.stdout is not None
    child.stdin.write(json.dumps(request).encode() + b"\n")
    child.stdin.flush()
    answers: list[Plain] = []
    while True:
        line = child.stdout.readline()
        if not line:
            raise EOFError
        answer = cast(Plain, json.loads(line))
        if answer.get("end"):
            return answers
        answers.append(answer)


def _image(plain: Plain, scratch: Path, study_uid: str) -> Image:
    number = plain["number"]
    array = np.load(scratch / f"image-{number}.npy", mmap_mode="r", allow_pickle=False)
    padding = (
        np.load(scratch / f"padding-{number}.npy", mmap_mode="r", allow_pickle=False)
        if plain["padding"]
        else None
    )
    shape = array.shape[1:]
    if len(shape) != 3:
        raise IntegrityError("the guarded reader wrote an array of another shape")
    nowhere = SourceFrame("", "", None, Path())
    sources = (
        tuple(SourceFrame(**{**s, "header": Path(s["header"])}) for s in plain["sources"])
        or (nowhere,) * shape[0]
    )
    return Image(
        array=array,
        grid=Grid(
            (shape[0], shape[1], shape[2]), np.array(plain["affine"], dtype=np.float64), plain["spatial"]
        ),
        sources=sources,
        study_uid=study_uid,
        series_uid=plain["series_uid"],
        name=plain["name"],
        modality=plain["modality"],
        photometric=plain["photometric"],
        calibrated=plain["calibrated"],
        laterality=plain["laterality"],
        field_degrees=plain["field_degrees"],
        bits_stored=plain["bits_stored"],
        value_range=(plain["value_range"][0], plain["value_range"][1]),
        padding=padding,
    )


def read_headers(image: Image) -> list[Dataset]:
    """The header data sets of the image's sources, in slice order (a multi-frame source comes once per slice)."""
    read: dict[Path, Dataset] = {}
    for source in image.sources:
        if source.header not in read:
            read[source.header] = pydicom.dcmread(source.header)
    return [read[source.header] for source in image.sources]
