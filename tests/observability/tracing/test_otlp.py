"""What is sent to collectors, read by OpenTelemetry's own definitions."""

from __future__ import annotations

import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as collector
from opentelemetry.proto.trace.v1 import trace_pb2 as otlp

from federation.core.errors import InvalidRequest
from federation.observability.tracing.otlp import METHOD, SERVICE, export_request, rejected
from federation.observability.tracing.trace_context import TraceContext
from federation.observability.tracing.tracer import Span, SpanKind

CONTEXT = TraceContext("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", True, "a=1")
FACTS: dict[str, str | int] = {"rpc.method": "é", "code": 0}
SERVED = Span(CONTEXT, "00f067aa0ba902b7", "s/M", SpanKind.SERVER, 1, 2**60, FACTS, True)
MADE = Span(CONTEXT._replace(state=""), "", "s/N", SpanKind.CLIENT, 5, 6, {"n": -1}, False)


def parsed(spans: list[Span]) -> collector.ExportTraceServiceRequest:
    resource: dict[str, str | int] = {"service.name": "federation", "process.pid": 12345}
    return collector.ExportTraceServiceRequest.FromString(export_request(spans, resource, "1.2"))


def test_a_collector_reads_what_is_sent() -> None:
    (told,) = parsed([SERVED, MADE]).resource_spans
    assert {x.key: x.value for x in told.resource.attributes}["service.name"].string_value == (
        "federation"
    )
    assert {x.key: x.value for x in told.resource.attributes}["process.pid"].int_value == 12345
    (scope,) = told.scope_spans
    assert (scope.scope.name, scope.scope.version) == ("federation", "1.2")
    served, made = scope.spans
    assert served.trace_id.hex() == CONTEXT.trace_id
    assert served.span_id.hex() == CONTEXT.span_id
    assert served.parent_span_id.hex() == "00f067aa0ba902b7"
    assert (served.name, served.trace_state) == ("s/M", "a=1")
    assert served.kind == otlp.Span.SPAN_KIND_SERVER
    assert (served.start_time_unix_nano, served.end_time_unix_nano) == (1, 2**60)
    assert served.status.code == otlp.Status.STATUS_CODE_ERROR
    values = {x.key: x.value for x in served.attributes}
    assert values["rpc.method"].string_value == "é"
    assert values["code"].WhichOneof("value") == "int_value"
    assert (made.parent_span_id, made.trace_state) == (b"", "")
    assert made.kind == otlp.Span.SPAN_KIND_CLIENT
    assert made.status.code == otlp.Status.STATUS_CODE_UNSET
    assert made.attributes[0].value.int_value == -1


def test_nothing_is_sent_that_the_definitions_do_not_know() -> None:
    request = parsed([SERVED, MADE])
    known = request.SerializeToString()
    request.DiscardUnknownFields()
    assert request.SerializeToString() == known


def test_the_service_is_the_one_of_the_definitions() -> None:
    (service,) = collector.DESCRIPTOR.services_by_name.values()
    assert service.full_name == SERVICE
    assert METHOD in service.methods_by_name


@pytest.mark.parametrize(("count", "told"), [(0, 0), (3, 3), (-1, 0)])
def test_an_answer_says_how_many_were_not_taken(count: int, told: int) -> None:
    answer = collector.ExportTraceServiceResponse()
    answer.partial_success.rejected_spans = count
    answer.partial_success.error_message = "why"
    assert rejected(answer.SerializeToString()) == told
    assert rejected(b"") == 0


def test_an_answer_that_is_no_message_is_refused() -> None:
    with pytest.raises(InvalidRequest):
        rejected(b"\x0a\x05\x08")
