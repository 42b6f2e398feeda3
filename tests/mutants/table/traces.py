"""Mistakes in traces: they would grow without bound, be lost, or tell of the wrong call."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

_TRACER = "federation/observability/tracing/tracer.py"
_TRACING = ("tests/observability/tracing/test_tracer.py",)

TRACES = [
    Mutant(
        "trace-of-a-call-that-is-over",
        _TRACER,
        "        parent = None if above is None or above.is_over else above.context",
        "        parent = None if above is None else above.context",
        _TRACING,
        "What a node fetches for weeks belongs to the trace of the call that began it.",
    ),
    Mutant(
        "trace-queue-without-end",
        _TRACER,
        "        if len(self._ended) >= SPANS_MAX:",
        "        if len(self._ended) < 0:",
        _TRACING,
        "A collector that is away fills the memory of the node.",
    ),
    Mutant(
        "trace-of-whoever-asked-not",
        _TRACER,
        "        if tracer is None or not self.context.is_sampled:",
        "        if tracer is None:",
        _TRACING,
        "Every call is told of, whatever its caller or the share says.",
    ),
    Mutant(
        "trace-lost-while-away",
        "federation/server/trace_export.py",
        '            self._complaints.warn("traces_not_sent", error)\n            return False',
        '            self._complaints.warn("traces_not_sent", error)\n'
        "            self._tracer.forget_oldest(len(batch))\n            return False",
        ("tests/server/test_trace_export.py",),
        "Spans are lost whenever a collector restarts.",
    ),
]
