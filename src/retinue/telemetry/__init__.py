"""OpenTelemetry spans, off unless the standard variables ask for them. LangSmith never.

On with ``OTEL_TRACES_EXPORTER`` (``console`` or ``otlp``) or ``OTEL_EXPORTER_OTLP_ENDPOINT``
(https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/); ``otlp`` needs the extra of that
name. Spans carry names, numbers and codes, never content or tokens: `retinue.telemetry.export` lets nothing else out.

While off, nothing of OpenTelemetry is imported here and a `span` costs under a microsecond.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from retinue.errors import RetinueError

if TYPE_CHECKING:
    from opentelemetry.trace import Link, Tracer
    from opentelemetry.trace import Span as OTelSpan

Value = str | int | float | bool | None
"""An attribute; None is left out."""

CONVENTIONS: Mapping[str, str] = {
    "operation": "gen_ai.operation.name",
    "agent": "gen_ai.agent.name",
    "provider": "gen_ai.provider.name",
    "model": "gen_ai.request.model",
    "answered_by": "gen_ai.response.model",
    "tool": "gen_ai.tool.name",
    "call": "gen_ai.tool.call.id",
    "input_tokens": "gen_ai.usage.input_tokens",
    "output_tokens": "gen_ai.usage.output_tokens",
    "run": "gen_ai.conversation.id",
    "error": "error.type",
}
"""Short names for GenAI conventions. Any other name without a dot becomes ``retinue.<name>``."""

CONTENT = {
    "prompt",
    "text",
    "content",
    "message",
    "arguments",
    "result",
    "input",
    "output",
    "answer",
    "token",
    "secret",
}
"""Names that are never sent, in case somebody gives one."""


def disable_langsmith() -> None:
    """Keep LangSmith from sending anything. Call it before langgraph is imported: it reads these on first use."""
    for name in ("LANGSMITH_TRACING", "LANGSMITH_TRACING_V2", "LANGCHAIN_TRACING", "LANGCHAIN_TRACING_V2"):
        os.environ[name] = "false"


def configure(env: Mapping[str, str] | None = None) -> str | None:
    """Start sending spans if the environment asks for it.

    Returns a sentence for the user when it asks for something that cannot be had; the run goes on without spans then.
    """
    env = os.environ if env is None else env
    names = {name.strip() for name in env.get("OTEL_TRACES_EXPORTER", "").split(",")} - {""}
    endpoint = env.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or env.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    if env.get("OTEL_SDK_DISABLED", "").lower() == "true" or "none" in names or not (names or endpoint):
        return None
    from .export import start_from

    return start_from(names or {"otlp"}, env)


def enabled() -> bool:
    return _tracer is not None


class Span(Protocol):
    """A piece of work that takes time. Use it in a ``with`` statement."""

    def set(self, **attributes: Value) -> None: ...

    def event(self, name: str, **attributes: Value) -> None: ...

    @property
    def traceparent(self) -> str | None:
        """W3C trace context: what a later span links to, or a remote one takes as its parent."""
        ...

    def __enter__(self) -> Span: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def span(name: str, *, link: str | None = None, parent: str | None = None, **attributes: Value) -> Span:
    """A span around a ``with`` block, below the current one.

    ``link`` is the `traceparent` of an earlier trace that this one continues (a resumed run's first); ``parent`` that
    of the span, perhaps in another process, under which this one belongs. One that is malformed is ignored.
    """
    if _tracer is None:
        return _OFF
    return _Recording(_tracer, name, attributes, link, parent)


def traceparent() -> str | None:
    """That of the current span; None while off."""
    if _tracer is None:
        return None
    from opentelemetry.trace import get_current_span

    return _format(get_current_span())


def shutdown() -> None:
    """Send what is left, and make no more spans until the next `configure`. Harmless while off."""
    global _tracer
    if _tracer is not None:
        from .export import flush

        _tracer = None
        flush()


def use(tracer: Tracer) -> None:
    """Make spans with this tracer. `configure` does it; an application that has its own provider may too."""
    global _tracer
    _tracer = tracer


_tracer: Tracer | None = None


class _Off:
    __slots__ = ()
    traceparent: str | None = None

    def set(self, **attributes: Value) -> None:
        pass

    def event(self, name: str, **attributes: Value) -> None:
        pass

    def __enter__(self) -> Span:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


_OFF = _Off()


class _Recording:
    __slots__ = ("_manager", "_span")

    def __init__(
        self, tracer: Tracer, name: str, attributes: Mapping[str, Value], link: str | None, parent: str | None
    ) -> None:
        links = [found] if link is not None and (found := _link(link)) is not None else []
        self._manager = tracer.start_as_current_span(
            name,
            context=None if parent is None else _context(parent),
            attributes=_named(attributes),
            links=links,
            record_exception=False,  # a message and a stack trace can hold content
            set_status_on_exception=False,
        )
        self._span: OTelSpan | None = None

    @property
    def traceparent(self) -> str | None:
        return None if self._span is None else _format(self._span)

    def set(self, **attributes: Value) -> None:
        if self._span is not None:
            self._span.set_attributes(_named(attributes))

    def event(self, name: str, **attributes: Value) -> None:
        if self._span is not None:
            self._span.add_event(name, _named(attributes))

    def __enter__(self) -> Span:
        self._span = self._manager.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and self._span is not None:
            _tell(self._span, error)
        self._manager.__exit__(kind, error, trace)


def _tell(recording: OTelSpan, error: BaseException) -> None:
    """How the work ended. A pause and a cancellation are no errors."""
    from opentelemetry.trace import StatusCode

    kinds = {kind.__name__ for kind in type(error).__mro__}
    if "GraphBubbleUp" in kinds:  # LangGraph's way to stop for a question; its class is not imported for a name
        recording.add_event("interrupted")
    elif not isinstance(error, Exception):
        recording.add_event("cancelled")
    else:
        code = error.code if isinstance(error, RetinueError) else type(error).__qualname__
        recording.set_attribute("error.type", code)
        recording.set_status(StatusCode.ERROR)


def _named(attributes: Mapping[str, Value]) -> dict[str, Any]:
    return {
        CONVENTIONS.get(name) or (name if "." in name else f"retinue.{name}"): value
        for name, value in attributes.items()
        if value is not None and name not in CONTENT
    }


def _format(recording: OTelSpan) -> str | None:
    context = recording.get_span_context()
    if not context.is_valid:
        return None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def _context(parent: str) -> Any:
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator().extract({"traceparent": parent})


def _link(earlier: str) -> Link | None:
    from opentelemetry.context import Context
    from opentelemetry.trace import Link, get_current_span
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    extracted = TraceContextTextMapPropagator().extract({"traceparent": earlier}, context=Context())
    context = get_current_span(extracted).get_span_context()
    return Link(context) if context.is_valid else None
