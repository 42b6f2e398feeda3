"""The headers that carry a trace from program to program (W3C Trace Context, level 2)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

PARENT_HEADER = "traceparent"
STATE_HEADER = "tracestate"
_STATE_MAX_CHARS = 512  # what the specification asks of those who pass it on
_SAMPLED = 1  # the bit in the flags
# Later versions may append fields; version ff is none.
_PARENT = re.compile(r"(?!ff)([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_NO_TRACE, _NO_SPAN = "0" * 32, "0" * 16


class TraceContext(NamedTuple):
    """One span, as the headers name it; ids in hexadecimal."""

    trace_id: str
    span_id: str
    is_sampled: bool  # whether the programs that the trace passes tell of their spans
    state: str = ""  # what other vendors' programs pass to each other


def parse(headers: Iterable[tuple[str, str | bytes]]) -> TraceContext | None:
    """Return the caller's span; None: it sent none, or several, or one that is malformed."""
    parents: list[str] = []
    states: list[str] = []
    for key, value in headers:
        if key == PARENT_HEADER and isinstance(value, str):
            parents.append(value)
        elif key == STATE_HEADER and isinstance(value, str):
            states.append(value)
    # The specification: several are as bad as a malformed one, and the trace begins anew.
    found = _PARENT.fullmatch(parents[0].strip()) if len(parents) == 1 else None
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    # Version 00 has four fields; only later ones may have more.
    if trace_id == _NO_TRACE or span_id == _NO_SPAN or (more is not None and version == "00"):
        return None
    state = ",".join(states)
    # Dropped as a whole: a part of a list could be read as another vendor's.
    if len(state) > _STATE_MAX_CHARS or not (state.isascii() and state.isprintable()):
        state = ""
    return TraceContext(trace_id, span_id, bool(int(flags, 16) & _SAMPLED), state)


def headers_of(context: TraceContext) -> list[tuple[str, str]]:
    """Return the headers that name this span as the caller's; parse is the inverse."""
    # Other bits of the caller's flags are of versions that this program does not know.
    flags = "01" if context.is_sampled else "00"
    found = [(PARENT_HEADER, f"00-{context.trace_id}-{context.span_id}-{flags}")]
    if context.state:
        found.append((STATE_HEADER, context.state))
    return found
