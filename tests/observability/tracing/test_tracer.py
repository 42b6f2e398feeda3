"""Which calls become spans, and how they hang together."""

from __future__ import annotations

import asyncio
import random

import pytest

from federation.core.clock import ManualClock
from federation.observability.metrics import Metrics
from federation.observability.tracing.tracer import SPANS_MAX, Span, SpanKind, Tracer
from tests.support.samples import sample_value

METHOD = "build.bazel.remote.execution.v2.ActionCache/GetActionResult"
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = [("traceparent", f"00-{TRACE}-{SPAN}-01")]
UNSAMPLED = [("traceparent", f"00-{TRACE}-{SPAN}-00")]
OK, NOT_FOUND, INTERNAL = 0, 5, 13


class Traced:
    def __init__(self, share: float) -> None:
        self.clock = ManualClock()
        self.metrics = Metrics()
        rng = random.Random(1)
        self.tracer = Tracer(share, self.clock, rng, self.metrics.trace_spans)

    @property
    def spans(self) -> list[Span]:
        return self.tracer.oldest(SPANS_MAX)


async def test_a_call_made_on_behalf_of_another_is_below_it() -> None:
    traced = Traced(share=0)
    served = traced.tracer.answering(METHOD, SAMPLED)
    traced.clock.advance(1)
    made = traced.tracer.calling("hq", "service", "Method")
    assert made.headers == [("traceparent", f"00-{TRACE}-{made.context.span_id}-01")]
    traced.clock.advance(2)
    made.came_back("ok", is_failed=False)
    served.answered(OK)
    below, above = traced.spans
    assert (above.kind, above.parent_id, above.context.trace_id) == (SpanKind.SERVER, SPAN, TRACE)
    assert (below.kind, below.parent_id) == (SpanKind.CLIENT, above.context.span_id)
    assert below.context.trace_id == TRACE
    assert above.end_ns - above.start_ns == 3_000_000_000
    assert below.end_ns - below.start_ns == 2_000_000_000
    assert above.end_ns == 1_800_000_003 * 10**9


async def test_a_task_that_outlives_its_call_begins_traces_of_its_own() -> None:
    traced = Traced(share=1)
    over = asyncio.Event()

    async def goes_on() -> str:
        await over.wait()
        return traced.tracer.calling("hq", "service", "Method").context.trace_id

    served = traced.tracer.answering(METHOD, SAMPLED)
    task = asyncio.ensure_future(goes_on())
    served.answered(OK)
    over.set()
    assert await task != TRACE


async def test_the_caller_decides_about_its_own_trace() -> None:
    traced = Traced(share=1)
    served = traced.tracer.answering(METHOD, UNSAMPLED)
    made = traced.tracer.calling("hq", "service", "Method")
    assert made.headers[0][1].startswith(f"00-{TRACE}-")
    assert made.headers[0][1].endswith("-00")
    made.came_back("ok", is_failed=False)
    served.answered(OK)
    traced.tracer.answered(METHOD, UNSAMPLED, 0.0, OK)
    assert traced.spans == []


@pytest.mark.parametrize(("share", "least", "most"), [(0, 0, 0), (0.5, 400, 600), (1, 1000, 1000)])
async def test_a_share_of_the_other_calls_is_sampled(share: float, least: int, most: int) -> None:
    traced = Traced(share)
    for _ in range(1000):
        traced.tracer.answered(METHOD, [], traced.clock.monotonic_s(), OK)
    assert least <= len(traced.spans) <= most
    assert len({span.context.trace_id for span in traced.spans}) == len(traced.spans)


async def test_what_is_made_for_an_unsampled_call_is_not_sampled_by_others() -> None:
    traced = Traced(share=0)
    traced.tracer.answering(METHOD, [])
    assert traced.tracer.calling("hq", "service", "Method").headers[0][1].endswith("-00")


async def test_what_a_node_does_by_itself_begins_a_trace() -> None:
    traced = Traced(share=1)
    traced.tracer.calling("tokyo", "service", "Method").came_back("denied", is_failed=True)
    (span,) = traced.spans
    assert (span.parent_id, span.is_failed) == ("", True)
    assert span.attributes["federation.remote"] == "tokyo"
    assert span.attributes["federation.outcome"] == "denied"


@pytest.mark.parametrize(
    ("code", "is_failed"), [(OK, False), (NOT_FOUND, False), (7, False), (INTERNAL, True)]
)
async def test_a_call_fails_by_the_servers_fault_alone(code: int, is_failed: bool) -> None:
    traced = Traced(share=1)
    traced.tracer.answering(METHOD, []).answered(code)
    (span,) = traced.spans
    assert span.is_failed is is_failed
    assert span.attributes == {
        "rpc.service": METHOD.split("/", maxsplit=1)[0],
        "rpc.method": "GetActionResult",
        "rpc.grpc.status_code": code,
    }


async def test_a_call_ends_once() -> None:
    traced = Traced(share=1)
    served = traced.tracer.answering(METHOD, [])
    served.answered(OK)
    served.answered(INTERNAL)
    assert len(traced.spans) == 1


async def test_spans_beyond_the_queue_are_dropped_and_counted() -> None:
    traced = Traced(share=1)
    for _ in range(SPANS_MAX + 3):
        traced.tracer.answered(METHOD, [], 0.0, OK)
    assert len(traced.tracer) == SPANS_MAX
    dropped = sample_value(traced.metrics, "federation_trace_spans_total", {"result": "dropped"})
    assert dropped == 3
    traced.tracer.forget_oldest(2)
    assert len(traced.tracer) == SPANS_MAX - 2
