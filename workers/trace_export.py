"""Spans by the OpenTelemetry SDK to an OTLP receiver. Imported only where traces are on (the extra `medpipe[otel]`).

Everything is as the SDK reads it from OTEL_... but for the ids: a trace's id is that of the job, and the span under
which all others lie has an id derived from it, so that each process knows both without being told.
"""

from __future__ import annotations

import os
import threading

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from medpipe import __version__
from medpipe.identity import digest

Attributes = dict[str, str | int | float | bool]

_LAST_SECONDS = 5.0


class LiveSpan:
    """A span of the SDK with our clock: seconds since 1970."""

    def __init__(self, span: Span) -> None:
        self.span = span

    def add(self, attributes: Attributes) -> None:
        self.span.set_attributes(attributes)

    def end(self, at: float, error: str | None) -> None:
        if error is not None:
            self.span.set_attribute("error.type", error)
            self.span.set_status(Status(StatusCode.ERROR))
        self.span.end(_nanoseconds(at))


class Exporter:
    """The SDK's provider of one process, with a thread that sends in batches and never holds anybody up."""

    def __init__(self) -> None:
        self._ids = _Ids()
        self._provider = TracerProvider(
            resource=Resource.create(_resource()), id_generator=self._ids, shutdown_on_exit=False
        )
        self._processor = BatchSpanProcessor(OTLPSpanExporter())
        self._provider.add_span_processor(self._processor)
        self._tracer = self._provider.get_tracer("medpipe", __version__)

    def root(self, job_id: str, start: float, end: float, attributes: Attributes) -> None:
        with self._ids.being(_trace_id(job_id), _root_id(job_id)):
            span = self._tracer.start_span(
                "study", Context(), attributes=attributes, start_time=_nanoseconds(start)
            )
        span.end(_nanoseconds(end))

    def start(
        self, job_id: str, name: str, at: float, parent: LiveSpan | None, attributes: Attributes
    ) -> LiveSpan:
        above = parent.span if parent is not None else self._far_root(job_id)
        context = set_span_in_context(above, Context())
        return LiveSpan(
            self._tracer.start_span(name, context, attributes=attributes, start_time=_nanoseconds(at))
        )

    def _far_root(self, job_id: str) -> Span:
        """The root as another process may have made it; sampled where that one would have."""
        trace_id = _trace_id(job_id)
        decision = self._provider.sampler.should_sample(None, trace_id, "study").decision
        flags = TraceFlags(
            TraceFlags.SAMPLED if decision is Decision.RECORD_AND_SAMPLE else TraceFlags.DEFAULT
        )
        return NonRecordingSpan(SpanContext(trace_id, _root_id(job_id), is_remote=True, trace_flags=flags))

    def close(self) -> None:
        """A receiver that is away does not hold up the end for long."""
        closing = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
        closing.start()
        closing.join(_LAST_SECONDS)


class _Ids(RandomIdGenerator):
    """Random ids, but for a root: its ids are given."""

    def __init__(self) -> None:
        self._given = threading.local()

    def being(self, trace_id: int, span_id: int) -> _Given:
        return _Given(self._given, (trace_id, span_id))

    def generate_trace_id(self) -> int:
        given: tuple[int, int] | None = getattr(self._given, "ids", None)
        return given[0] if given else super().generate_trace_id()

    def generate_span_id(self) -> int:
        given: tuple[int, int] | None = getattr(self._given, "ids", None)
        return given[1] if given else super().generate_span_id()


class _Given:
    """Within it, this thread's next span gets these ids."""

    def __init__(self, place: threading.local, ids: tuple[int, int]) -> None:
        self._place, self._ids = place, ids

    def __enter__(self) -> None:
        self._place.ids = self._ids

    def __exit__(self, *_: object) -> None:
        self._place.ids = None


def _trace_id(job_id: str) -> int:
    """32 hexadecimal digits, both of them."""
    return int(job_id, 16)


def _root_id(job_id: str) -> int:
    return int(digest("root span", job_id)[:16], 16)


def _resource() -> dict[str, str]:
    """Who speaks, unless the environment says it."""
    named = "OTEL_SERVICE_NAME" in os.environ or "service.name=" in os.environ.get(
        "OTEL_RESOURCE_ATTRIBUTES", ""
    )
    return {SERVICE_VERSION: __version__} | ({} if named else {SERVICE_NAME: "medpipe"})


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)
