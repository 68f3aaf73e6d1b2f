"""A trace per job (OpenTelemetry): where a study's time went, from the first instance to the archive's word.

Off, and nothing of it imported, unless the standard environment variables name a receiver; then the extra
`medpipe[otel]` must be installed. A trace's id is the job's id: further attempts and other workers join it unasked.
Spans hold ids, codes, names of peers and bundles, numbers: no patient data, and UIDs by their pseudonyms.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from medpipe.logs import Event, about, pseudonym

if TYPE_CHECKING:
    from workers.trace_export import Exporter, LiveSpan

log = logging.getLogger(__name__)

_STEPS = {"assemble": "read"}
"""What a step is called in a trace, where that is another word than in `status`."""

_exporter: Exporter | None = None


def begin(environment: Mapping[str, str] = os.environ) -> bool:
    """Traces from now on, where the environment asks for it; whether it does."""
    global _exporter
    if not _is_wanted(environment):
        return False
    protocol = environment.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or environment.get(
        "OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"
    )
    try:
        from workers.trace_export import Exporter
    except ModuleNotFoundError:
        why = "OTEL_... asks for traces, but the extra is not installed: pip install 'medpipe[otel]'"
        log.warning(why, extra=about(Event.PROCESS_NOTE))
        return False
    if protocol != "http/protobuf":
        why = "traces are sent as http/protobuf alone; OTEL_EXPORTER_OTLP_PROTOCOL asks for something else"
        log.warning(why, extra=about(Event.PROCESS_NOTE))
        return False
    _exporter = Exporter()
    return True


def _is_wanted(environment: Mapping[str, str]) -> bool:
    """As the SDK's own configuration reads them, but for its default: without any of them there is no receiver."""
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporters = environment.get("OTEL_TRACES_EXPORTER", "").replace(" ", "").lower()
    if exporters:
        return "otlp" in exporters.split(",")
    return any(environment.get(f"OTEL_EXPORTER_OTLP_{name}ENDPOINT") for name in ("", "TRACES_"))


def end() -> None:
    """Sends what is left (for a short time) and stops."""
    global _exporter
    if _exporter is not None:
        _exporter.close()
        _exporter = None


def is_on() -> bool:
    return _exporter is not None


def root(job_id: str, start: float, end: float, **facts: Any) -> None:
    """The span `study` that all others of a job lie under. Times are in seconds since 1970."""
    if _exporter is not None:
        _exporter.root(job_id, start, end, _attributes(facts))


def span(job_id: str, name: str, start: float, end: float, *, error: str | None = None, **facts: Any) -> None:
    """One finished span; `error` is a code."""
    if _exporter is not None:
        _exporter.start(job_id, name, start, None, _attributes(facts)).end(end, error)


def open_span(job_id: str, name: str, **facts: Any) -> Span:
    """A span that begins now; call its `close`."""
    if _exporter is None:
        return _NO_SPAN
    return Span(job_id, _exporter.start(job_id, name, time.time(), None, _attributes(facts)))


class Span:
    """A span under way."""

    def __init__(self, job_id: str, live: LiveSpan | None) -> None:
        self._job_id, self._live = job_id, live

    def steps(self, seconds: Mapping[str, float], images: int) -> None:
        """What was just computed, step after step up to now. Lengths are measured; of several images, sums."""
        if self._live is None or _exporter is None:
            return
        at = time.time() - sum(seconds.values())
        for step, length in seconds.items():
            facts = _attributes({"images": images})
            child = _exporter.start(self._job_id, _STEPS.get(step, step), at, self._live, facts)
            child.end(at + length, None)
            at += length

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """A span below this one, around what is done within."""
        if self._live is None or _exporter is None:
            yield
            return
        child, failed = _exporter.start(self._job_id, name, time.time(), self._live, {}), "interrupted"
        try:
            yield
            failed = ""
        finally:
            child.end(time.time(), failed or None)

    def close(self, *, error: str | None = None, **facts: Any) -> None:
        if self._live is not None:
            self._live.add(_attributes(facts))
            self._live.end(time.time(), error)


_NO_SPAN = Span("", None)


def _attributes(facts: Mapping[str, Any]) -> dict[str, Any]:
    """As they are named in a trace. None is left out."""
    named = {name: pseudonym(str(value)) if name == "study" else value for name, value in facts.items()}
    return {f"medpipe.{name}": value for name, value in named.items() if value is not None}
