"""The inference child: a warm process that walks one study at a time (assemble, predict, write) for a worker's slot.

`python -m workers.child` reads JSON lines from stdin, the settings first, then one request per study, and answers with
JSON lines: progress, then `done` or `error`. It dies with the worker that started it, and it publishes nothing: its
files lie in a folder of the attempt until the worker makes them visible.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any

from medpipe.config import Config
from medpipe.errors import MedpipeError, ReasonCode, Refused
from medpipe.process import Processor, StudyOutcome
from workers import faults

log = logging.getLogger(__name__)
Plain = dict[str, Any]


def main() -> None:
    """Serves one worker until its end of the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the supervisor's business
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    logging.getLogger("pydicom").setLevel(logging.ERROR)  # its warnings quote values
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints is no answer
    config = Config.model_validate(json.loads(sys.stdin.readline()))
    with Processor(config) as processor:
        try:
            processor.warm_up(sorted({rule.bundle for rule in config.rules}))
        except MedpipeError as error:
            log.warning("not warmed up: %s", error)  # the job that needs it will say so too
        for line in sys.stdin:
            _say(answers, _answer(processor, json.loads(line), answers))


def _say(answers: Any, message: Plain) -> None:
    answers.write(json.dumps(message) + "\n")
    answers.flush()


def _answer(processor: Processor, request: Plain, answers: Any) -> Plain:
    """One request. Every error becomes an answer: its class decides later what becomes of the job."""
    try:
        paths = [Path(path) for path in request["paths"]]
        faults.point("in_step")
        faults.poison(paths)
        outcome = processor.process(
            paths,
            request["bundle"],
            Path(request["out"]),
            Path(request["scratch"]),
            progress=lambda fraction: _say(answers, {"progress": round(fraction, 3)}),
        )
        return {"done": plain_outcome(outcome)}
    except Refused as error:
        return {"error": ["Refused", error.reason.value, str(error)]}
    except MedpipeError as error:
        return {"error": [type(error).__name__, error.code, str(error)]}
    except MemoryError:
        return {"error": ["InferenceCrashed", "INFERENCE_CRASHED", "the inference ran out of memory"]}
    except OSError as error:
        return {"error": ["StorageError", "STORAGE", error.strerror or "input/output error"]}
    except Exception as error:
        # the places, not the values: an error's text may quote a header
        frames = traceback.extract_tb(error.__traceback__)
        log.error(
            "%s at %s", type(error).__name__, " < ".join(f"{f.name}:{f.lineno}" for f in reversed(frames))
        )
        return {"error": ["MedpipeError", "INTERNAL", f"{type(error).__name__} in {frames[-1].name}"]}


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
