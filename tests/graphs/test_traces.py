"""Spans of a run: step under run, agent's calls under step; a resume is a new trace that links to the first."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from retinue import telemetry
from retinue.agents.agent import Agent
from retinue.agents.models.function import Answer, FunctionCall, FunctionModel
from retinue.graphs.workflow import Workflow
from tests.support.desk import opened
from tests.support.flows import one, tool

pytestmark = pytest.mark.anyio


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    telemetry.use(provider.get_tracer("test"))
    yield exporter
    telemetry.shutdown()


def pay(to: str) -> str:
    """Pay somebody."""
    return f"paid {to}"


def say(call: FunctionCall) -> Answer:
    return call.results[0].text if call.results else call.use("pay", to="ann")


def paying() -> Workflow:
    return one(Agent("clerk", prompt="Pay.", tools=[tool(pay, "unsafe")]))


def by_name(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.name: span for span in exporter.get_finished_spans()}


async def test_a_resumed_run_is_a_new_trace_that_links_to_the_one_it_began_in(spans: InMemorySpanExporter) -> None:
    flow, model = paying(), FunctionModel(say)
    async with opened() as desk:
        run = (await desk.run(flow, model)).run
        first = by_name(spans)
        began = first["start one"].context
        assert began is not None
        assert first["run one"].parent is not None
        assert first["run one"].parent.span_id == began.span_id
        spans.clear()
        await desk.answer_all(run)
        assert (await desk.resume(run, flow, model)).status == "done"
    resumed = by_name(spans)["run one"]
    assert resumed.context is not None
    assert resumed.context.trace_id != began.trace_id
    assert [link.context.trace_id for link in resumed.links] == [began.trace_id]


async def test_calls_of_models_and_tools_lie_under_their_step_and_the_step_under_its_run(
    spans: InMemorySpanExporter,
) -> None:
    flow, model = paying(), FunctionModel(say)
    async with opened() as desk:
        assert (await desk.run(flow, model, settings={"approve": ["*"]})).status == "done"
    found = by_name(spans)
    step, tool_span, chat = found["step work@1"], found["execute_tool pay"], found[f"chat {model.name}"]
    run = found["run one"].context
    assert run is not None
    assert step.parent is not None
    assert step.context is not None
    assert step.parent.span_id == run.span_id
    for inner in (tool_span, chat):
        assert inner.parent is not None
        assert inner.parent.span_id == step.context.span_id
    assert "ann" not in str([dict(span.attributes or {}) for span in spans.get_finished_spans()])
