"""A process that is overtaken stops sending, and goes on when it leads again."""

from __future__ import annotations

import pytest

from federation.core.errors import LeadLost
from federation.core.replication_log import Lane
from tests.replication.test_reconcile import Pair, in_virtual_time
from tests.support.memory_ledger import MemoryLedger


def test_who_is_overtaken_stops_and_stands_again() -> None:
    async def story() -> None:
        pair = Pair()
        first = pair.fill(10)
        other = MemoryLedger(pair.here.storage)
        async with pair.running():
            await pair.until(lambda: pair.lacks(first) == 0)
            await pair.until(lambda: pair.facts["state"] == "following")
            other.overtake()
            await pair.until(lambda: not pair.worker.leads)
            (record,) = await other.peers()
            await other.save([record._replace(sent_objects=1000)])
            late = pair.fill(20)
            await pair.until(lambda: pair.facts["state"] == "none")
            assert pair.lacks(late) == 10
            other.close()
            await pair.until(lambda: pair.worker.leads)
            await pair.until(lambda: pair.lacks(late) == 0)
            records = pair.here.storage.records
            # It goes on from what the other one had saved.
            await pair.until(lambda: records["n1", Lane.ALWAYS].sent_objects == 1010, 60)
            assert records["n1", Lane.ALWAYS].cursor == 20

    in_virtual_time(story)


def test_what_a_process_saves_that_was_overtaken_is_refused() -> None:
    async def story() -> None:
        pair = Pair()
        pair.fill(1)
        async with pair.running():
            await pair.until(lambda: pair.facts["state"] == "following")
            MemoryLedger(pair.here.storage).overtake()
            records = await pair.ledger.peers()
            with pytest.raises(LeadLost):
                await pair.ledger.save(records)

    in_virtual_time(story)
