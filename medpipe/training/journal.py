"""What a run says while it goes on: metrics.jsonl, TensorBoard, and a line on the terminal."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

METRICS = "metrics.jsonl"
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Standing:
    """Where a run stands after a step. `done` is the spent part of its budget (0..1), `seconds` those of training."""

    done: float
    steps: int
    loss: float
    patches_per_second: float
    seconds: float

    @property
    def seconds_left(self) -> float | None:
        """Of the budget, if it goes on as it went so far; patience may end a run sooner."""
        return self.seconds * (1 - self.done) / self.done if self.done > 0 else None


Tell = Callable[[Standing], None]


class Journal:
    """Writes a run's figures; a silent one (of a process that is not the first) writes nothing."""

    def __init__(self, run: Path, *, silent: bool = False) -> None:
        self._path, self._silent = run / METRICS, silent
        self._board: Any = None
        if not silent:
            import warnings

            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of tensorboard's own imports
                from torch.utils.tensorboard import SummaryWriter
            self._board = SummaryWriter(str(run / "tensorboard"))

    def note(self, kind: str, step: int, **facts: Any) -> None:
        """One line of metrics.jsonl; numbers, also those of dicts, become curves in TensorBoard."""
        if self._silent:
            return
        with self._path.open("a", encoding="utf-8") as out:
            out.write(json.dumps({"kind": kind, "step": step, **facts}) + "\n")
        prefix = "/".join([kind, *(str(v) for v in facts.values() if isinstance(v, str))])
        for name, value in facts.items():
            rows = value if isinstance(value, dict) else {"": value}
            for key, number in rows.items():
                if isinstance(number, int | float) and not isinstance(number, bool):
                    tag = "/".join(part for part in (prefix, name, str(key)) if part)
                    self._board.add_scalar(tag, number, step)
        _LOG.info("%s at step %d: %s", kind, step, in_words(facts))

    def close(self) -> None:
        if self._board is not None:
            self._board.close()


def in_words(facts: Mapping[str, Any]) -> str:
    """{"part": "held_out", "aupr": {"MA": 0.51234}} -> `part held_out; aupr MA 0.512`; what is unknown is `-`."""
    told = []
    for name, value in facts.items():
        rows = value if isinstance(value, Mapping) else {"": value}
        each = ", ".join(f"{key} {_short(number)}".strip() for key, number in rows.items())
        told.append(f"{name.replace('_', ' ')} {each}")
    return "; ".join(told)


def _short(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def read_notes(run: Path, kind: str) -> list[dict[str, Any]]:
    """The lines of one kind, oldest first; none where the run has not begun."""
    path = run / METRICS
    if not path.is_file():
        return []
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line["kind"] == kind]
