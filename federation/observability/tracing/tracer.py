"""The spans of one process: begun and ended by the calls, and kept until they were sent.

Whether a trace is sampled is decided once, where it begins: by a client that sends traceparent, or
else here, by chance. Every other node that it passes does the same. For the event loop only.
"""

from __future__ import annotations

import enum
import random
from collections import deque
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import islice

from federation.core.clock import Clock
from federation.observability.series import Counter, Labelled
from federation.observability.tracing import trace_context
from federation.observability.tracing.trace_context import TraceContext

SPANS_MAX = 2048  # that wait to be sent: a megabyte, with the longest tracestate two

# google.rpc.Code, for servers: what is not the caller's own fault, by OpenTelemetry's conventions
# (UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS).
_FAULTS = frozenset({2, 4, 12, 13, 14, 15})

Headers = Iterable[tuple[str, str | bytes]]
Attributes = Mapping[str, str | int]


class SpanKind(enum.IntEnum):
    """Numbers as OTLP has them."""

    SERVER = 2
    CLIENT = 3


@dataclass(frozen=True, slots=True)
class Span:
    """A call that has ended."""

    context: TraceContext
    parent_id: str  # empty: the trace begins with it
    name: str
    kind: SpanKind
    start_ns: int  # since 1970
    end_ns: int
    attributes: Attributes
    is_failed: bool


class TracedCall:
    """A call under way, one that is answered here or one that is made."""

    __slots__ = ("_attributes", "_kind", "_name", "_parent_id", "_started_s", "_tracer", "context")

    def __init__(
        self,
        tracer: Tracer,
        kind: SpanKind,
        name: str,
        parent: TraceContext | None,
        attributes: Attributes,
        started_s: float,
    ) -> None:
        self._tracer: Tracer | None = tracer
        self._kind = kind
        self._name = name
        self._parent_id = parent.span_id if parent is not None else ""
        self._attributes = attributes
        self._started_s = started_s
        self.context = tracer.span_below(parent)

    def __repr__(self) -> str:
        return f"<TracedCall {self._name} {self.context.trace_id}>"

    @property
    def is_over(self) -> bool:
        """Whether it has ended: what is done from then on is not on its behalf."""
        return self._tracer is None

    @property
    def headers(self) -> list[tuple[str, str]]:
        """What tells the server of a call that it is part of this trace."""
        return trace_context.headers_of(self.context)

    def answered(self, code: int) -> None:
        """End a call that was answered here; code: its google.rpc.Code."""
        self._end({"rpc.grpc.status_code": code}, is_failed=code in _FAULTS)

    def came_back(self, outcome: str, *, is_failed: bool) -> None:
        """End a call that was made; outcome: as in federation_remote_calls_total."""
        self._end({"federation.outcome": outcome}, is_failed=is_failed)

    def _end(self, more: Attributes, *, is_failed: bool) -> None:
        # Ended once: a call that is cancelled while it ends must not be told twice.
        tracer, self._tracer = self._tracer, None
        if tracer is None or not self.context.is_sampled:
            return
        clock = tracer.clock
        # The length by the monotonic clock: the wall clock may have been set during the call.
        end_ns = int(clock.wall_s() * 1e9)
        taken_ns = int((clock.monotonic_s() - self._started_s) * 1e9)
        tracer.keep(
            Span(
                self.context,
                self._parent_id,
                self._name,
                self._kind,
                end_ns - taken_ns,
                end_ns,
                {**self._attributes, **more},
                is_failed,
            )
        )


# The call that is answered now. Tasks inherit it and may outlive the call: see is_over.
_answering: ContextVar[TracedCall | None] = ContextVar("federation_traced_call", default=None)


class Tracer:
    """Begins spans, and keeps those of sampled traces for whoever sends them."""

    def __init__(
        self, share: float, clock: Clock, rng: random.Random, spans: Labelled[Counter]
    ) -> None:
        """share: of the traces that begin here, how many are sampled (0 to 1).

        spans: counts what becomes of each span, by result.
        """
        self.clock = clock
        self._share = share
        self._random = rng
        self._dropped = spans.labels(result="dropped")
        self._ended: deque[Span] = deque()

    def __repr__(self) -> str:
        return f"<Tracer {len(self._ended)} spans wait>"

    def __len__(self) -> int:
        """How many spans wait to be sent."""
        return len(self._ended)

    def answering(self, method: str, headers: Headers) -> TracedCall:
        """Begin the span of a call, and let the calls made on its behalf be below it.

        method: "package.Service/Method". To be called in the task that answers.
        """
        call = self._called(method, headers, self.clock.monotonic_s())
        _answering.set(call)
        return call

    def answered(self, method: str, headers: Headers, started_s: float, code: int) -> None:
        """Tell of a call that was answered at once, since started_s, so that none was made."""
        self._called(method, headers, started_s).answered(code)

    def calling(self, remote: str, service: str, method: str) -> TracedCall:
        """Begin the span of a call to another server; it is sent the span's headers.

        What this node does of its own accord, such as replication, begins a trace.
        """
        above = _answering.get()
        parent = None if above is None or above.is_over else above.context
        facts = {"rpc.service": service, "rpc.method": method, "federation.remote": remote}
        name, now_s = f"{service}/{method}", self.clock.monotonic_s()
        return TracedCall(self, SpanKind.CLIENT, name, parent, facts, now_s)

    def span_below(self, parent: TraceContext | None) -> TraceContext:
        """Return a new span of the parent's trace, or of a new trace."""
        # W3C Trace Context: an id of zeros is none.
        span_id = f"{self._random.getrandbits(64) or 1:016x}"
        if parent is not None:
            # The caller's decision about sampling included, or no trace would be whole.
            return parent._replace(span_id=span_id)
        trace_id = f"{self._random.getrandbits(128) or 1:032x}"
        return TraceContext(trace_id, span_id, self._random.random() < self._share)

    def keep(self, span: Span) -> None:
        """Keep a span until it was sent; it is dropped if too many wait."""
        # The newest is dropped: the beginning of a trouble says more about it than its end.
        if len(self._ended) >= SPANS_MAX:
            self._dropped.inc()
        else:
            self._ended.append(span)

    def oldest(self, spans_max: int) -> list[Span]:
        """Return those that wait longest; they still wait."""
        return list(islice(self._ended, spans_max))

    def forget_oldest(self, spans: int) -> None:
        """Drop this many of those that wait longest: they were sent, or cannot be."""
        for _ in range(spans):
            self._ended.popleft()

    def _called(self, method: str, headers: Headers, started_s: float) -> TracedCall:
        service, _, name = method.partition("/")
        facts = {"rpc.service": service, "rpc.method": name}
        parent = trace_context.parse(headers)
        return TracedCall(self, SpanKind.SERVER, method, parent, facts, started_s)
