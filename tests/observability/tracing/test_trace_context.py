"""The headers of W3C Trace Context."""

from __future__ import annotations

import pytest

from federation.observability.tracing.trace_context import TraceContext, headers_of, parse

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = TraceContext(TRACE, SPAN, True)


def test_the_callers_span_is_read() -> None:
    assert parse([("traceparent", f"00-{TRACE}-{SPAN}-01")]) == SAMPLED
    assert parse([("traceparent", f"00-{TRACE}-{SPAN}-00")]) == SAMPLED._replace(is_sampled=False)
    assert parse([("traceparent", f"00-{TRACE}-{SPAN}-ff")]) == SAMPLED


def test_what_is_written_is_read_again() -> None:
    for context in (SAMPLED, SAMPLED._replace(is_sampled=False), SAMPLED._replace(state="a=1")):
        assert parse(headers_of(context)) == context


def test_a_later_version_may_say_more() -> None:
    assert parse([("traceparent", f"01-{TRACE}-{SPAN}-01-more")]) == SAMPLED


@pytest.mark.parametrize(
    "value",
    [
        "",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-01-more",
        f"01-{TRACE}-{SPAN}-01more",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE[:-1]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-0g",
    ],
)
def test_a_malformed_parent_is_none(value: str) -> None:
    assert parse([("traceparent", value)]) is None


def test_two_parents_are_none() -> None:
    header = ("traceparent", f"00-{TRACE}-{SPAN}-01")
    assert parse([header, header]) is None


def test_bytes_are_no_parent() -> None:
    assert parse([("traceparent", f"00-{TRACE}-{SPAN}-01".encode())]) is None


def test_states_are_passed_on_in_order() -> None:
    parent = ("traceparent", f"00-{TRACE}-{SPAN}-01")
    found = parse([("tracestate", "a=1,b=2"), parent, ("tracestate", "c=3")])
    assert found == SAMPLED._replace(state="a=1,b=2,c=3")


@pytest.mark.parametrize("state", ["x" * 513, "a=\x07", "a=é"])
def test_a_state_that_no_header_may_be_is_dropped(state: str) -> None:
    found = parse([("traceparent", f"00-{TRACE}-{SPAN}-01"), ("tracestate", state)])
    assert found == SAMPLED


def test_a_state_without_a_parent_is_nothing() -> None:
    assert parse([("tracestate", "a=1")]) is None
