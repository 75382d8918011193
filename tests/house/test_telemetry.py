"""Spans: off by default, nested and linked when on, and nothing in them but what is harmless."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import timeit
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from retinue import telemetry
from retinue.errors import BudgetExceeded
from retinue.telemetry import export, span


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    # The process-wide provider can be set only once, so here it stays as it is.
    monkeypatch.setattr(trace, "set_tracer_provider", lambda provider: None)  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]  # any provider
    monkeypatch.setattr(export, "_provider", None)
    exporter = InMemorySpanExporter()
    provider = export.start(exporter, batch=False)
    yield exporter
    telemetry.shutdown()
    provider.shutdown()


def finished(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {s.name: s for s in exporter.get_finished_spans()}


def attributes(recorded: ReadableSpan) -> dict[str, Any]:
    return dict(recorded.attributes or {})


def run(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **env}, capture_output=True, text=True, check=True, timeout=60
    )


SPAN = """
from retinue import telemetry
print(telemetry.configure())
with telemetry.span("run", run="r1", prompt="x"):
    pass
telemetry.shutdown()
import sys
print("opentelemetry" in sys.modules)
"""


# Off


@pytest.mark.parametrize(
    "env",
    [
        {},
        {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"},
        {"OTEL_SDK_DISABLED": "true", "OTEL_TRACES_EXPORTER": "console"},
        {"OTEL_SERVICE_NAME": "x"},
    ],
)
def test_without_the_variables_spans_are_off_and_nothing_is_imported(env: dict[str, str]) -> None:
    done = run(SPAN, **env)
    assert (done.stdout, done.stderr) == ("None\nFalse\n", "")


def test_a_span_costs_under_a_microsecond_while_off() -> None:
    def work() -> None:
        with span("tool", run="r1", tool="send") as current:
            current.set(outcome="ok")

    assert min(timeit.repeat(work, number=10_000, repeat=7)) / 10_000 < 1e-6
    assert telemetry.traceparent() is None
    assert not telemetry.enabled()


# On


async def inner(name: str) -> None:
    with span(name, tool=name):
        await asyncio.sleep(0)


def test_spans_nest_across_parallel_tasks(spans: InMemorySpanExporter) -> None:
    async def work() -> None:
        with span("agent", agent="scout", run="r1"):
            await asyncio.gather(inner("one"), inner("two"))

    asyncio.run(work())
    found = finished(spans)
    outer = found["agent"].get_span_context()
    assert outer is not None
    for name in ("one", "two"):
        parent = found[name].parent
        assert parent is not None
        assert parent.span_id == outer.span_id
        assert attributes(found[name]) == {"gen_ai.tool.name": name}
    assert attributes(found["agent"]) == {"gen_ai.agent.name": "scout", "gen_ai.conversation.id": "r1"}
    assert found["agent"].resource.attributes["service.name"] == "retinue"


def test_a_resumed_run_links_to_its_first_trace_and_starts_its_own(spans: InMemorySpanExporter) -> None:
    with span("first") as first:
        kept = first.traceparent
        assert kept == telemetry.traceparent()
    assert kept is not None
    with span("resumed", link=kept), span("step"):
        pass
    with span("remote", parent=kept):
        pass
    with span("odd", link="not a traceparent", parent="neither"):
        pass
    found = finished(spans)
    resumed, remote = found["resumed"], found["remote"]
    assert [f"{link.context.trace_id:032x}" for link in resumed.links] == [kept.split("-")[1]]
    assert resumed.parent is None
    assert remote.parent is not None
    assert f"{remote.parent.span_id:016x}" == kept.split("-")[2]
    assert (found["odd"].parent, list(found["odd"].links)) == (None, [])


def test_an_error_is_told_by_its_code_and_never_by_its_message(spans: InMemorySpanExporter) -> None:
    for name, error in (("typed", BudgetExceeded("canary")), ("untyped", ValueError("canary"))):
        with pytest.raises(type(error)), span(name):
            raise error
    found = finished(spans)
    assert attributes(found["typed"]) == {"error.type": "budget_exceeded"}
    assert attributes(found["untyped"]) == {"error.type": "ValueError"}
    assert found["typed"].status.status_code is StatusCode.ERROR
    assert "canary" not in "".join(s.to_json() for s in found.values())


def test_a_pause_and_a_cancellation_are_no_errors(spans: InMemorySpanExporter) -> None:
    from langgraph.errors import GraphInterrupt

    with pytest.raises(GraphInterrupt), span("paused"):
        raise GraphInterrupt
    with pytest.raises(asyncio.CancelledError), span("stopped"):
        raise asyncio.CancelledError
    found = finished(spans)
    for name, event in (("paused", "interrupted"), ("stopped", "cancelled")):
        assert [e.name for e in found[name].events] == [event]
        assert found[name].status.status_code is StatusCode.UNSET


def test_content_and_tokens_of_any_library_stay_behind(spans: InMemorySpanExporter) -> None:
    tracer = export.start(spans, batch=False).get_tracer("some library")
    secret = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJtZSJ9.c2ln"

    def work() -> None:
        with tracer.start_as_current_span("call sk-ant-canary0123456789") as s:
            s.set_attribute("gen_ai.input.messages", "canary")
            s.set_attribute("gen_ai.tool.call.arguments", "canary")
            s.set_attribute("url.full", "https://x/?q=canary")
            s.set_attribute("mcp.session.id", "canary")
            s.set_attribute("gen_ai.request.model", "claude " * 100)
            s.set_attribute("retinue.note", f"Bearer {secret}")
            s.set_attribute("gen_ai.response.finish_reasons", ["end_turn", f"DPoP {secret}"])
            s.set_attribute("gen_ai.usage.input_tokens", 3)
            s.add_event("gen_ai.choice", {"gen_ai.output.messages": "canary", "error.type": "x"})
            raise ValueError("canary")

    with pytest.raises(ValueError, match="canary"):
        work()
    (found,) = spans.get_finished_spans()
    text = found.to_json()
    assert "canary" not in text
    assert secret not in text
    assert attributes(found)["gen_ai.usage.input_tokens"] == 3
    assert len(attributes(found)["gen_ai.request.model"]) == 200
    assert {e.name: dict(e.attributes or {}) for e in found.events} == {
        "gen_ai.choice": {"error.type": "x"},
        "exception": {"exception.type": "ValueError"},
    }


# Exporters


def test_spans_can_be_switched_off_and_on_again_in_one_process() -> None:
    done = run(SPAN + SPAN, OTEL_TRACES_EXPORTER="console")
    assert done.stdout == "None\nTrue\n" * 2
    assert done.stderr.count('"gen_ai.conversation.id": "r1"') == 2


def test_the_console_exporter_writes_to_stderr_since_stdout_is_the_programs() -> None:
    done = run(SPAN, OTEL_TRACES_EXPORTER="console")
    assert done.stdout == "None\nTrue\n"
    assert '"gen_ai.conversation.id": "r1"' in done.stderr


def test_spans_reach_a_collector_over_otlp() -> None:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    received: list[tuple[str, bytes]] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the base class calls it so
            pass

    with HTTPServer(("127.0.0.1", 0), Collector) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{server.server_port}"
        done = run(SPAN, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, OTEL_EXPORTER_OTLP_COMPRESSION="none")
        server.shutdown()
    assert (done.stdout, done.stderr) == ("None\nTrue\n", "")
    ((path, body),) = received
    (sent,) = ExportTraceServiceRequest.FromString(body).resource_spans[0].scope_spans[0].spans
    assert (path, sent.name) == ("/v1/traces", "run")
    assert sorted(a.key for a in sent.attributes) == ["gen_ai.conversation.id"]


def test_a_collector_that_is_away_costs_a_line_and_no_stack_trace() -> None:
    done = run(SPAN, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1", OTEL_EXPORTER_OTLP_TIMEOUT="1")
    assert done.stdout == "None\nTrue\n"
    assert done.stderr
    assert all(line.startswith("retinue: telemetry: ") for line in done.stderr.splitlines()), done.stderr


@pytest.mark.parametrize(
    ("env", "sentence"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER=zipkin is not known here"),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "carrier-pigeon"}, "OTLP over carrier-pigeon"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}, "needs `pip install 'retinue[otlp]'`"),
    ],
)
def test_what_cannot_be_had_is_said_and_the_program_goes_on(
    env: dict[str, str], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)  # pyright: ignore[reportArgumentType]  # None makes its import fail
    told = telemetry.configure(env)
    assert told is not None
    assert sentence in told
    assert not telemetry.enabled()


def test_langsmith_is_off_even_where_it_was_on(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LANGSMITH_TRACING", "LANGCHAIN_TRACING_V2", "LANGSMITH_TRACING_V2"):
        monkeypatch.setenv(name, "true")
    code = (
        "from retinue.telemetry import disable_langsmith; disable_langsmith();"
        "from langsmith.utils import tracing_is_enabled; print(tracing_is_enabled())"
    )
    assert run(code).stdout == "False\n"
