from __future__ import annotations

import asyncio

import pytest

from federation.core.errors import RequestTooLarge, Stalled
from federation.core.memory_budget import MemoryBudget
from federation.services.request_stream import AHEAD_BYTES, AHEAD_MESSAGES, RequestStream
from federation.services.transport import CallEnded


class Sender:
    """Reads as a transport does: gives what it holds, then the end or waits."""

    def __init__(self, *messages: bytes, ends: bool = True) -> None:
        self.messages = list(messages)
        self.ends = ends
        self.hang_up = asyncio.Event()
        self.cancelled = False

    async def read(self) -> bytes | None:
        if self.messages:
            return self.messages.pop(0)
        if self.ends:
            return None
        try:
            await self.hang_up.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        raise CallEnded


async def settle() -> None:
    for _ in range(2000):
        await asyncio.sleep(0)


async def test_messages_come_in_order_then_none_for_ever() -> None:
    stream = RequestStream(Sender(b"a", b"", b"b").read, MemoryBudget(100))
    assert [await stream.next(5) for _ in range(5)] == [b"a", b"", b"b", None, None]


async def test_a_message_that_is_here_and_the_end_need_no_task() -> None:
    sender = Sender(b"a")
    before = asyncio.all_tasks()
    stream = RequestStream(sender.read, MemoryBudget(100), may_read=lambda: True)
    assert await stream.next(5) == b"a"
    assert asyncio.all_tasks() == before
    assert [await stream.next(5), await stream.next(5)] == [None, None]
    assert asyncio.all_tasks() == before


async def test_an_end_that_is_here_needs_no_read_unless_messages_are_ahead_of_it() -> None:
    sender = Sender(b"a", b"b")
    stream = RequestStream(
        sender.read, MemoryBudget(100), may_read=lambda: True, is_ended=lambda: not sender.messages
    )
    assert [await stream.next(5) for _ in range(3)] == [b"a", b"b", None]
    ahead = Sender(b"a", b"b")
    stream = RequestStream(ahead.read, MemoryBudget(100), is_ended=lambda: not ahead.messages)
    assert [await stream.next(5) for _ in range(3)] == [b"a", b"b", None]


async def test_an_interrupted_upload_is_told_so_though_its_end_is_here() -> None:
    stream = RequestStream(Sender().read, MemoryBudget(100), is_ended=lambda: True)
    stream.interrupt(Stalled("taken over"))
    with pytest.raises(Stalled, match="taken over"):
        await stream.next(5)


async def test_of_many_messages_that_are_here_only_two_are_read_by_their_handler() -> None:
    """Others have their turn between those that the pump reads, however many there are."""
    before = asyncio.all_tasks()
    stream = RequestStream(Sender(b"a", b"b", b"c").read, MemoryBudget(100), may_read=lambda: True)
    assert [await stream.next(5), await stream.next(5)] == [b"a", b"b"]
    assert asyncio.all_tasks() == before
    assert [await stream.next(5), await stream.next(5)] == [b"c", None]


async def test_a_message_that_comes_later_is_waited_for_within_its_time() -> None:
    sender = Sender(b"a", ends=False)
    is_here = [True, False]
    stream = RequestStream(sender.read, MemoryBudget(100), may_read=lambda: is_here.pop(0))
    assert await stream.next(5) == b"a"
    with pytest.raises(Stalled):
        await stream.next(0.01)
    stream.close()
    await settle()
    assert not sender.cancelled
    sender.hang_up.set()
    await settle()


async def test_an_interrupted_upload_gets_no_message_that_is_here() -> None:
    sender = Sender(b"a", b"b")
    stream = RequestStream(sender.read, MemoryBudget(100), may_read=lambda: True)
    assert await stream.next(5) == b"a"
    stream.interrupt(Stalled("taken over"))
    with pytest.raises(Stalled, match="taken over"):
        await stream.next(5)


async def test_silence_is_a_stall_and_the_pending_read_is_not_cancelled() -> None:
    sender = Sender(ends=False)
    stream = RequestStream(sender.read, MemoryBudget(100))
    with pytest.raises(Stalled):
        await stream.next(0.01)
    stream.close()
    await settle()
    assert not sender.cancelled
    sender.hang_up.set()
    await settle()
    assert await stream.next(5) is None


@pytest.mark.parametrize("is_here", [False, True])
async def test_a_message_that_the_transport_refuses_fails_the_handler(*, is_here: bool) -> None:
    async def read() -> bytes | None:
        raise RequestTooLarge("message.size", "too large")

    stream = RequestStream(read, MemoryBudget(100), may_read=lambda: is_here)
    for _ in range(2):
        with pytest.raises(RequestTooLarge):
            await stream.next(5)


@pytest.mark.parametrize(
    ("size", "ahead"),
    [(1, AHEAD_MESSAGES), (AHEAD_BYTES // 4, 4), (2 * AHEAD_BYTES, 1)],
    ids=["tiny", "middling", "large"],
)
async def test_reading_ahead_is_bounded(size: int, ahead: int) -> None:
    sender = Sender(*[bytes(size)] * 1000)
    budget = MemoryBudget(100 * AHEAD_BYTES)
    stream = RequestStream(sender.read, budget)
    await stream.next(5)
    await settle()
    assert 1000 - len(sender.messages) == ahead + 1
    assert budget.used_bytes == ahead * size
    while await stream.next(5) is not None:
        pass
    assert budget.used_bytes == 0


async def test_without_budget_one_message_at_a_time_is_read() -> None:
    sender = Sender(*[bytes(10)] * 5)
    stream = RequestStream(sender.read, MemoryBudget(5))
    assert await stream.next(5) == bytes(10)
    await settle()
    assert len(sender.messages) == 3  # one queued beside the one taken
    assert [await stream.next(5) for _ in range(5)] == [bytes(10)] * 4 + [None]


async def test_close_gives_the_budget_back_and_stops_the_pump() -> None:
    sender = Sender(*[bytes(10)] * 1000)
    budget = MemoryBudget(10_000)
    stream = RequestStream(sender.read, budget)
    await stream.next(5)
    await settle()
    stream.close()
    await settle()
    assert budget.used_bytes == 0
    assert len(sender.messages) > 700
    assert "ended" in repr(stream)
