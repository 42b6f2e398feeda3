"""OTLP, the protocol of OpenTelemetry's collectors: the one message that is sent, and its answer.

The field numbers are those of opentelemetry/proto/{collector/trace,trace,resource,common}/v1.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from federation.observability.tracing.tracer import Attributes, Span
from federation.wire.protobuf import (
    FIXED64,
    LENGTH,
    VARINT,
    fields,
    length_field,
    signed,
    varint,
    varint_field,
)

SERVICE = "opentelemetry.proto.collector.trace.v1.TraceService"
METHOD = "Export"
_STATUS_ERROR = 2


def export_request(spans: Iterable[Span], resource: Attributes, version: str) -> bytes:
    """Return an ExportTraceServiceRequest; resource: what is the same for all spans of a process.

    version: of this program.
    """
    scope = length_field(1, b"federation") + length_field(2, version.encode())
    scope_spans = length_field(1, scope) + b"".join(length_field(2, _span(x)) for x in spans)
    resource_spans = length_field(1, _attributes(1, resource)) + length_field(2, scope_spans)
    return length_field(1, resource_spans)


def rejected(answer: bytes) -> int:
    """Return how many spans an ExportTraceServiceResponse says that were not taken.

    Raises InvalidRequest: it is no such message.
    """
    for number, kind, start, end in fields(answer):
        if number == 1 and kind == LENGTH:  # partial_success
            for inner, inner_kind, value, _ in fields(answer, start, end):
                if inner == 1 and inner_kind == VARINT:
                    # Counters only grow, whatever a collector says.
                    return max(0, signed(value))
    return 0


def _span(span: Span) -> bytes:
    status = varint_field(3, _STATUS_ERROR) if span.is_failed else b""
    return b"".join(
        (
            length_field(1, bytes.fromhex(span.context.trace_id)),
            length_field(2, bytes.fromhex(span.context.span_id)),
            length_field(3, span.context.state.encode()) if span.context.state else b"",
            # OTLP: a span without a parent leaves the field out.
            length_field(4, bytes.fromhex(span.parent_id)) if span.parent_id else b"",
            length_field(5, span.name.encode()),
            varint_field(6, span.kind),
            _fixed64(7, span.start_ns),
            _fixed64(8, span.end_ns),
            _attributes(9, span.attributes),
            length_field(15, status) if status else b"",
        )
    )


def _attributes(number: int, attributes: Attributes) -> bytes:
    """Write a repeated KeyValue; the values are strings (1) or integers (3)."""
    found = []
    for key, value in attributes.items():
        # Of a oneof, also the value 0 is written: its presence says of which type it is.
        if isinstance(value, int):
            any_value = varint(3 << 3 | VARINT) + varint(value)
        else:
            any_value = length_field(1, value.encode())
        found.append(
            length_field(number, length_field(1, key.encode()) + length_field(2, any_value))
        )
    return b"".join(found)


def _fixed64(number: int, value: int) -> bytes:
    return varint(number << 3 | FIXED64) + struct.pack("<Q", value)
