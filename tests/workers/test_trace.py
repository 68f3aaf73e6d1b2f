"""Traces at a real OTLP receiver; and nothing at all where nobody asks for them."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from local_collector import LocalCollector
from local_process import free_port

from medpipe.identity import digest
from medpipe.logs import pseudonym
from workers import trace

ROOT = Path(__file__).parents[2]
JOB = digest("job")[:32]
STUDY = "1.3.6.1.4.1.14519.5.2.1.6279.6001.298806137288633453246975630178"


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalCollector]:
    """A receiver that the environment names."""
    with LocalCollector() as made:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", made.endpoint)
        yield made
        trace.end()


def test_a_jobs_spans_are_one_trace_that_every_process_finds(collector: LocalCollector) -> None:
    for number in range(2):  # two workers, or one that was started again
        assert trace.begin()
        if number == 0:
            trace.root(JOB, 100.0, 103.0, study=STUDY, bundle="phantom-2d", reason=None)
        trace.span(JOB, "send", 104.0 + number, 104.5 + number, peer="PACS", attempt=number + 1)
        trace.end()
    root, first, second = collector.of(JOB)
    assert (root.name, root.parent, root.start, root.end) == ("study", "", 100.0, 103.0)
    assert root.attributes == {"medpipe.study": pseudonym(STUDY), "medpipe.bundle": "phantom-2d"}
    assert first.parent == second.parent == root.span
    assert len({root.span, first.span, second.span}) == 3
    assert second.attributes == {"medpipe.peer": "PACS", "medpipe.attempt": 2}
    assert root.resource["service.name"] == "medpipe"


def test_steps_lie_one_after_the_other_below_their_job(collector: LocalCollector) -> None:
    trace.begin()
    job = trace.open_span(JOB, "job", attempt=1)
    job.steps({"assemble": 0.25, "network": 2.0, "crf": 0.5}, images=2)
    with job.part("publish"):
        pass
    job.close(state="sending")
    trace.end()
    spans = {span.name: span for span in collector.of(JOB)}
    assert set(spans) == {"job", "read", "network", "crf", "publish"}
    assert {span.parent for name, span in spans.items() if name != "job"} == {spans["job"].span}
    assert spans["network"].seconds == pytest.approx(2.0) and spans["crf"].seconds == pytest.approx(0.5)
    for one, next_one in (("read", "network"), ("network", "crf")):
        assert spans[one].end == pytest.approx(spans[next_one].start, rel=0, abs=1e-3)
    assert spans["network"].attributes == {"medpipe.images": 2}
    assert spans["job"].attributes == {"medpipe.attempt": 1, "medpipe.state": "sending"}


def test_what_went_wrong_is_a_code(collector: LocalCollector) -> None:
    trace.begin()
    trace.span(JOB, "send", 1.0, 2.0, error="PEER_UNREACHABLE", peer="PACS")
    job = trace.open_span(JOB, "job")
    with pytest.raises(ValueError, match="Doe"), job.part("publish"):
        raise ValueError("Doe^Jane")
    job.close(error="INTERNAL")
    trace.end()
    errors = {span.name: span.attributes["error.type"] for span in collector.of(JOB) if span.is_error}
    assert errors == {"send": "PEER_UNREACHABLE", "publish": "interrupted", "job": "INTERNAL"}
    assert b"Doe" not in b"".join(collector.raw)


def test_the_standard_variables_hold(collector: LocalCollector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "radiology")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "site.name=north")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20s3cret")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    trace.begin()
    trace.span(JOB, "send", 1.0, 2.0)
    trace.end()
    (span,) = collector.spans
    assert (span.resource["service.name"], span.resource["site.name"]) == ("radiology", "north")
    assert {key.lower(): value for key, value in collector.headers[0].items()}[
        "authorization"
    ] == "Bearer s3cret"


def test_of_a_share_of_the_traces_all_processes_choose_the_same(
    collector: LocalCollector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.5")
    jobs = [digest("job", str(n))[:32] for n in range(40)]
    trace.begin()
    for job in jobs:
        trace.root(job, 1.0, 2.0)
    trace.end()
    trace.begin()
    for job in jobs:
        trace.span(job, "send", 2.0, 3.0)
    trace.end()
    names = {job: {span.name for span in collector.of(job)} for job in jobs}
    assert {frozenset(one) for one in names.values()} == {frozenset(), frozenset({"study", "send"})}


def test_a_receiver_that_is_away_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setattr("workers.trace_export._LAST_SECONDS", 0.5)
    trace.begin()
    before = time.monotonic()
    for _ in range(100):
        trace.span(JOB, "send", 1.0, 2.0)
    spent = time.monotonic() - before
    trace.end()
    assert spent < 60  # had each of them waited for the receiver, it would be minutes


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"},
        {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"},
    ],
)
def test_nobody_asks_for_traces(environment: dict[str, str]) -> None:
    assert not trace.begin(environment) and not trace.is_on()
    trace.root(JOB, 1.0, 2.0)
    trace.span(JOB, "send", 1.0, 2.0)
    span = trace.open_span(JOB, "job")
    assert span is trace.open_span(JOB, "send")
    with span.part("publish"):
        span.steps({"network": 1.0}, images=1)
    span.close()


def test_without_a_receiver_nothing_of_it_is_imported() -> None:
    program = (
        "import sys\nfrom workers import trace\nassert not trace.begin({})\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    modules = [path for name in ("medpipe", "workers") for path in (ROOT / name).rglob("*.py")]
    assert [path.name for path in modules if "import opentelemetry" in path.read_text()] == []
    assert [path.name for path in modules if "from opentelemetry" in path.read_text()] == ["trace_export.py"]


def test_without_the_extra_one_line_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delitem(sys.modules, "workers.trace_export", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.context", None)
    assert not trace.begin({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"})
    (record,) = [
        one for one in caplog.records if one.name == "workers.trace"
    ]  # an earlier exporter may still speak
    assert "pip install 'medpipe[otel]'" in record.message


def test_another_protocol_than_ours_is_said(caplog: pytest.LogCaptureFixture) -> None:
    asked = {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
    assert not trace.begin(asked)
    assert "http/protobuf" in caplog.text
