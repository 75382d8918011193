"""Sends spans, and sends nothing but what is known to be harmless. Imported only when spans are on."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, cast

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    ConsoleSpanExporter,
    SimpleSpanProcessor,
    SpanExporter,
    SpanExportResult,
)
from opentelemetry.trace import Status
from opentelemetry.util.types import AttributeValue

from retinue import telemetry

_OTLP = {
    "http/protobuf": "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "grpc": "opentelemetry.exporter.otlp.proto.grpc.trace_exporter",
}
_provider: TracerProvider | None = None


def start_from(names: set[str], env: Mapping[str, str]) -> str | None:
    """Start with the named exporters; a sentence if one of them is not to be had."""
    # Of a second host in this process, or of an application that embeds Retinue and sends its spans its own way.
    there = _provider or trace.get_tracer_provider()
    if isinstance(there, TracerProvider):
        telemetry.use(there.get_tracer("retinue"))
        return None
    if unknown := names - {"console", "otlp"}:
        return f"No spans are sent: OTEL_TRACES_EXPORTER={min(unknown)} is not known here (console, otlp, none)."
    exporters: list[SpanExporter] = []
    if "otlp" in names:
        protocol = env.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or env.get("OTEL_EXPORTER_OTLP_PROTOCOL")
        protocol = protocol or "http/protobuf"
        if protocol not in _OTLP:
            return f"No spans are sent: OTLP over {protocol} is not known here (http/protobuf, grpc)."
        try:
            module = import_module(_OTLP[protocol])
        except ImportError:
            package = "retinue[otlp]" if protocol == "http/protobuf" else "opentelemetry-exporter-otlp-proto-grpc"
            return f"No spans are sent: OTLP over {protocol} needs `pip install '{package}'`."
        exporters.append(cast("SpanExporter", module.OTLPSpanExporter()))
    if "console" in names:
        exporters.append(ConsoleSpanExporter(out=sys.stderr))  # stdout belongs to the program's output
    _quiet()
    start(*exporters)
    return None


def start(*exporters: SpanExporter, batch: bool = True) -> TracerProvider:
    """Send spans to these exporters, each behind a `Scrubber`; ours and those of libraries in this process."""
    global _provider
    resource = Resource.create()  # from OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES, where they are set
    if str(resource.attributes["service.name"]).startswith("unknown_service"):
        resource = resource.merge(Resource({"service.name": "retinue"}))
    _provider = TracerProvider(resource=resource)
    for exporter in exporters:
        batched = batch and not isinstance(exporter, ConsoleSpanExporter)
        kind = BatchSpanProcessor if batched else SimpleSpanProcessor
        _provider.add_span_processor(kind(Scrubber(exporter)))
    trace.set_tracer_provider(_provider)
    telemetry.use(_provider.get_tracer("retinue"))
    return _provider


def flush() -> None:
    """Send what waits. The provider stays: OpenTelemetry takes one a process, and ends it at the process's end."""
    if _provider is not None:
        _provider.force_flush()


class _OneLine(logging.Handler):
    """A collector that cannot be reached is worth a line, not a stack trace."""

    def emit(self, record: logging.LogRecord) -> None:
        print(f"retinue: telemetry: {scrub_text(record.getMessage())}", file=sys.stderr)  # noqa: T201


def _quiet() -> None:
    logger = logging.getLogger("opentelemetry")
    if not logger.handlers:
        logger.addHandler(_OneLine(logging.WARNING))
        logger.propagate = False


# What may leave

_KEYS = re.compile(
    r"""retinue\.[a-z_.]+
      | gen_ai\.(operation\.name | provider\.name | agent\.(name|id) | conversation\.id | output\.type
               | tool\.(name|type|call\.id) | prompt\.name | usage\.[a-z_.]+
               | request\.(model|max_tokens|temperature|top_p|top_k|stream|reasoning\.level)
               | response\.(id|model|finish_reasons|time_to_first_chunk))
      | error\.type | otel\.[a-z_.]+ | exception\.type
      | mcp\.(method\.name|protocol\.version) | jsonrpc\.(request\.id|protocol\.version)
      | rpc\.(system|service|method|response\.status_code)
      | http\.(request\.method|response\.status_code|request\.resend_count|route)
      | (server|client|network)\.[a-z_.]+ | url\.scheme
    """,
    re.VERBOSE,
)
"""Attributes that hold names, numbers and codes. Any other is dropped: a library's next release may add content."""

_LONGEST = 200
_TOKEN = re.compile(
    r"""sk-[A-Za-z0-9_-]{8,} | (?:Bearer|DPoP|Basic)\s+\S+ | eyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)*
      | (?<=://)[^/@\s]+@ | -----BEGIN[^-]+-----""",
    re.VERBOSE | re.IGNORECASE,
)


def scrub_text(text: str) -> str:
    """Short, and without anything that looks like a credential."""
    return _TOKEN.sub("***", text)[:_LONGEST]


def scrub(attributes: Mapping[str, AttributeValue] | None) -> dict[str, AttributeValue]:
    return {key: _value(value) for key, value in (attributes or {}).items() if _KEYS.fullmatch(key)}


def _value(value: AttributeValue) -> AttributeValue:
    if isinstance(value, str):
        return scrub_text(value)
    if isinstance(value, Sequence):
        return cast(
            "AttributeValue", [scrub_text(v) if isinstance(v, str) else v for v in cast("Sequence[Any]", value)]
        )
    return value


class Scrubber(SpanExporter):
    """Hands on copies of spans with harmless attributes only, and without messages of errors."""

    def __init__(self, inner: SpanExporter) -> None:
        self._inner = inner

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return self._inner.export([_scrubbed(span) for span in spans])

    def shutdown(self) -> None:
        self._inner.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._inner.force_flush(timeout_millis)


def _scrubbed(span: ReadableSpan) -> ReadableSpan:
    return ReadableSpan(
        name=scrub_text(span.name),
        context=span.get_span_context(),
        parent=span.parent,
        resource=span.resource,
        attributes=scrub(span.attributes),
        events=[Event(scrub_text(e.name), scrub(e.attributes), e.timestamp) for e in span.events],
        links=[trace.Link(link.context) for link in span.links],
        kind=span.kind,
        status=Status(span.status.status_code),
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )
