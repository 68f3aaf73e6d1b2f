"""The inference child: a warm process that walks one study at a time (assemble, predict, write) for a worker's slot.

`python -m workers.child` reads JSON lines from stdin, the settings first, then one request per study, and answers with
JSON lines: progress, then `done` or `error`. While nobody asks it loads the networks that the rules name. It dies with
the worker that started it, and it publishes nothing: its files lie in a folder of the attempt until the worker makes
them visible.
"""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import traceback
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from medpipe import logs
from medpipe.config import Config
from medpipe.errors import MedpipeError, ReasonCode, Refused, storage_error
from medpipe.logs import Event, about, concerning
from medpipe.process import Processor, StudyOutcome
from workers import faults

log = logging.getLogger("workers.child")  # it runs as __main__
Plain = dict[str, Any]


class Lines:
    """Lines from a pipe that can be asked whether another one waits."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._held = descriptor, b""

    def __iter__(self) -> Iterator[str]:
        while True:
            while b"\n" not in self._held:
                block = os.read(self._descriptor, 1 << 16)
                if not block:
                    return
                self._held += block
            line, _, self._held = self._held.partition(b"\n")
            yield line.decode()

    def is_waiting(self) -> bool:
        """Whether a line, a part of one or the end of the pipe is there to be read."""
        return bool(self._held) or bool(select.select([self._descriptor], [], [], 0)[0])


def main() -> None:
    """Serves one worker until its end of the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the supervisor's business
    logs.catch_all()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints is no answer
    lines = Lines(0)
    requests = iter(lines)
    config = Config.model_validate(json.loads(next(requests)))
    logs.begin("inference", config.logs)
    with Processor(config) as processor:
        _warm_up(processor, config, lines)
        for line in requests:
            request = json.loads(line)
            with concerning(job=request["job"]):
                _say(answers, _answer(processor, request, answers))


def _warm_up(processor: Processor, config: Config, lines: Lines) -> None:
    """Loads what the rules may ask for, until somebody asks. What cannot be loaded is reported when a job needs it."""
    for bundle_ids in [[], *([rule.bundle] for rule in config.rules)]:
        if lines.is_waiting():
            return
        try:
            processor.warm_up(bundle_ids)
        except Exception as error:
            log.warning(
                "%s: not loaded ahead (%s)", ", ".join(bundle_ids) or "reader", type(error).__name__,
                extra=about(Event.BUNDLE_NOT_LOADED),
            )  # fmt: skip


def _say(answers: Any, message: Plain) -> None:
    answers.write(json.dumps(message) + "\n")
    answers.flush()


def _answer(processor: Processor, request: Plain, answers: Any) -> Plain:
    """One request. Every error becomes an answer: its class decides later what becomes of the job."""
    try:
        paths = [Path(path) for path in request["paths"]]
        faults.point("in_step")
        faults.poison(paths)

        def progress(fraction: float) -> None:
            faults.point("in_predict")
            _say(answers, {"progress": round(fraction, 3)})

        outcome = processor.process(
            paths,
            request["bundle"],
            Path(request["out"]),
            Path(request["scratch"]),
            progress=progress,
        )
        faults.point("after_write")
        return {"done": plain_outcome(outcome)}
    except Refused as error:
        return {"error": ["Refused", error.reason.value, str(error)]}
    except MedpipeError as error:
        return {"error": [type(error).__name__, error.code, str(error)]}
    except MemoryError:
        return {"error": ["InferenceCrashed", "INFERENCE_CRASHED", "the inference ran out of memory"]}
    except OSError as error:
        full = storage_error(error)
        return {"error": [type(full).__name__, full.code, str(full)]}
    except Exception as error:
        log.exception("a study stumbled over a defect", extra=about(Event.PROCESS_STUMBLED))
        place = traceback.extract_tb(error.__traceback__)[-1].name  # not the text: it may quote a header
        return {"error": ["MedpipeError", "INTERNAL", f"{type(error).__name__} in {place}"]}


def plain_outcome(outcome: StudyOutcome) -> Plain:
    """What the worker needs to publish, as JSON values."""
    return {
        "results": [{**asdict(result), "path": result.path.name} for result in outcome.results],
        "images": [
            {
                "name": image.name,
                "series_uid": image.series_uid,
                "state": image.state,
                "lesions": dict(image.lesions),
                "reason": None
                if image.refused is None
                else f"{image.refused.code.value}: {image.refused.sentence}",
            }
            for image in outcome.images
        ],
        "reason": outcome.reason,
        "state": outcome.state,
        "seconds": {step: round(value, 4) for step, value in outcome.seconds.items()},
    }


def error_from(kind: str, code: str, sentence: str) -> MedpipeError:
    """The error that an answer stands for."""
    import medpipe.errors as errors

    if kind == "Refused":
        return Refused(ReasonCode(code), sentence)
    found = getattr(errors, kind, MedpipeError)
    return (
        found(sentence)
        if isinstance(found, type) and issubclass(found, MedpipeError)
        else MedpipeError(sentence)
    )


if __name__ == "__main__":
    main()
