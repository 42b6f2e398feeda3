"""Spans are sent until a collector took them, and nothing waits for a collector that does not."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any, cast

import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as collector

from federation.core.clock import ManualClock
from federation.core.tasks import FailingWork
from federation.observability.metrics import Metrics
from federation.observability.tracing.tracer import SPANS_MAX, Tracer
from federation.remote.client import Remote
from federation.remote.failures import FailureKind, failure
from federation.remote.methods import Method
from federation.server.trace_export import TraceExport
from tests.support.polling import until
from tests.support.samples import sample_value


class FakeCollector:
    """Answers each call as it is told to; the last answer is for all that follow."""

    def __init__(self, *answers: bytes | FailureKind) -> None:
        self.calls = self
        self.closed = False
        self.asked_at_s: list[float] = []
        self.limits_s: list[float] = []
        self.spans: list[str] = []
        self._answers = list(answers)
        self.clock = ManualClock()

    async def unary_once(
        self, method: Method, request: bytes, timeout_s: float
    ) -> tuple[bytes, list[Any]]:
        self.asked_at_s.append(self.clock.monotonic_s())
        self.limits_s.append(timeout_s)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, FailureKind):
            raise failure("(traces)", answer, "as told")
        (told,) = collector.ExportTraceServiceRequest.FromString(request).resource_spans
        self.spans += [span.name for span in told.scope_spans[0].spans]
        return answer, []

    async def close(self) -> None:
        self.closed = True


class Exporting:
    def __init__(self, *answers: bytes | FailureKind) -> None:
        self.collector = FakeCollector(*answers)
        self.metrics = Metrics()
        clock = self.collector.clock
        self.tracer = Tracer(1, clock, random.Random(1), self.metrics.trace_spans)
        remote = cast("Remote", self.collector)
        self.export = TraceExport(self.tracer, remote, {}, self.metrics, clock)

    def end_calls(self, count: int) -> None:
        for number in range(count):
            self.tracer.answered(f"service/{number}", [], 0.0, 0)

    def counted(self, result: str) -> float:
        return sample_value(self.metrics, "federation_trace_spans_total", {"result": result})


async def test_all_that_waits_is_sent_in_order() -> None:
    exporting = Exporting(b"")
    exporting.end_calls(1000)
    exporting.export.start(FailingWork())
    await until(lambda: len(exporting.tracer) == 0, "all are sent")
    await exporting.export.close()
    assert exporting.collector.spans == [f"service/{number}" for number in range(1000)]
    assert exporting.counted("sent") == 1000
    assert exporting.collector.closed


async def test_what_was_not_taken_is_sent_again_after_growing_pauses() -> None:
    exporting = Exporting(*[FailureKind.UNAVAILABLE] * 8, b"")
    exporting.end_calls(3)
    failing = FailingWork()
    exporting.export.start(failing)
    await until(lambda: len(exporting.tracer) == 0, "all are sent")
    await exporting.export.close()
    at_s = exporting.collector.asked_at_s
    pauses = [round(b - a) for a, b in pairwise(at_s)]
    assert pauses == [2, 4, 8, 16, 30, 30, 30, 30]
    assert exporting.collector.spans == ["service/0", "service/1", "service/2"]
    assert len(failing) == 0


async def test_a_collector_that_is_away_costs_the_newest_spans() -> None:
    exporting = Exporting(FailureKind.TIMEOUT)
    exporting.export.start(FailingWork())
    await until(lambda: exporting.collector.clock.monotonic_s() > 1000, "time passes")
    exporting.end_calls(SPANS_MAX + 5)
    asked = len(exporting.collector.asked_at_s)
    await until(lambda: len(exporting.collector.asked_at_s) > asked, "it tries")
    await exporting.export.close()
    assert len(exporting.tracer) == SPANS_MAX
    assert exporting.counted("dropped") == 5
    assert exporting.counted("sent") == 0


async def test_what_a_collector_refuses_for_good_is_not_sent_again() -> None:
    exporting = Exporting(FailureKind.REFUSED, b"")
    exporting.end_calls(600)
    exporting.export.start(FailingWork())
    await until(lambda: len(exporting.tracer) == 0, "none waits")
    await exporting.export.close()
    assert exporting.counted("rejected") == 512
    assert exporting.counted("sent") == 88


async def test_what_a_collector_says_that_it_rejected_is_counted() -> None:
    answer = collector.ExportTraceServiceResponse()
    answer.partial_success.rejected_spans = 2
    exporting = Exporting(answer.SerializeToString())
    exporting.end_calls(5)
    exporting.export.start(FailingWork())
    await until(lambda: len(exporting.tracer) == 0, "none waits")
    await exporting.export.close()
    assert (exporting.counted("sent"), exporting.counted("rejected")) == (3, 2)


@pytest.mark.parametrize("answer", [b"", FailureKind.TIMEOUT])
async def test_the_end_of_a_node_waits_a_second_for_a_collector(
    answer: bytes | FailureKind,
) -> None:
    exporting = Exporting(answer)
    exporting.end_calls(3)
    await exporting.export.close()
    assert exporting.collector.limits_s == [1.0]
    assert len(exporting.tracer) == (0 if answer == b"" else 3)
    assert exporting.collector.closed
