"""Addresses whose calls are refused again and again are slowed down, and nobody else is."""

from __future__ import annotations

import asyncio

import pytest

from federation.core.clock import ManualClock
from federation.services.status_codes import StatusCode
from federation.transport import refusals
from federation.transport.refusals import REFUSALS, RefusedCalls
from tests.transport.test_connection import Client
from tests.transport.test_fuzz import call
from tests.transport.test_server import Site
from tests.transport.wire import PREFACE, SETTINGS, frame


def test_a_few_thousand_refused_calls_at_once_cost_no_pause() -> None:
    refused = RefusedCalls(ManualClock())
    assert not any(refused.note("10.0.0.1") for _ in range(5000))
    assert refused.note("10.0.0.1") > 0
    assert refused.note("10.0.0.2") == 0


def test_the_pause_grows_with_what_goes_on_and_is_bounded() -> None:
    clock = ManualClock()
    refused = RefusedCalls(clock)
    pauses = [refused.note("10.0.0.1") for _ in range(50_000)]
    assert pauses == sorted(pauses)
    assert 20 < pauses[-1] <= 30
    clock.advance(60)
    assert refused.note("10.0.0.1") == 0


def test_an_address_is_forgotten_once_it_makes_no_difference() -> None:
    clock = ManualClock()
    refused = RefusedCalls(clock)
    for _ in range(6000):
        refused.note("10.0.0.1")
    clock.advance(3)
    refused.forget()
    assert "1 addresses" in repr(refused)
    clock.advance(4)
    refused.forget()
    assert "0 addresses" in repr(refused)


def test_what_a_wrong_request_gets_is_no_refusal() -> None:
    assert StatusCode.NOT_FOUND not in REFUSALS
    assert StatusCode.INVALID_ARGUMENT not in REFUSALS
    assert StatusCode.RESOURCE_EXHAUSTED not in REFUSALS


@pytest.fixture
def few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """So many refused calls of an address cost nothing: a tenth of what a node allows."""
    monkeypatch.setattr(refusals, "_BURST", 500.0)


@pytest.mark.usefixtures("few_at_once")
async def test_a_connection_whose_calls_are_refused_is_not_read_for_a_while_and_is_counted() -> (
    None
):
    # By a clock that stands still: a busy machine takes longer over so many than is allowed.
    client = Client(Site(clock=ManualClock()))
    client.sends(PREFACE + frame(SETTINGS, 0, 0, b"") + frame(SETTINGS, 1, 0, b""))
    for stream in range(1, 1203, 2):
        client.sends(b"".join(call(stream, "None", b"")))
        if not client.socket.reads:
            break
        await asyncio.sleep(0)
    assert stream > 1000  # the first 500
    assert client.hits("calls.refused") == 1
    client.after(0)
    assert client.socket.reads
    assert client.state == "open"
    client.connection.connection_lost(None)


@pytest.mark.usefixtures("few_at_once")
async def test_calls_that_are_served_cost_no_pause() -> None:
    client = Client(Site(clock=ManualClock()))
    client.sends(PREFACE + frame(SETTINGS, 0, 0, b"") + frame(SETTINGS, 1, 0, b""))
    for stream in range(1, 1403, 2):
        client.sends(b"".join(call(stream, "Echo", b"")))
        await asyncio.sleep(0)
    assert client.socket.reads
    client.connection.connection_lost(None)
