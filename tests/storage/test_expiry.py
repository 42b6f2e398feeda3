"""storage.expire-after: which entries go because of their age, and which do not."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import pytest

from federation.closure.pinned import pin_walk
from federation.config.model import LimitsConfig, StorageConfig
from federation.core.index import NO_STAMP, Entry, EntryKey, EntryKind, Stamp
from federation.core.pins import Pin, PinKind, PinTarget
from federation.core.provenance import Provenance, Source
from federation.storage.catalogue.hlc import ticks_at
from federation.storage.catalogue.transaction import HOLD, set_meta
from federation.storage.storage import Storage
from federation.storage.upkeep.expiry import Expiry
from tests.storage.conftest import put, short
from tests.storage.test_eviction import held
from tests.support.samples import sample_value

Opener = Callable[..., Awaitable[Storage]]
HOUR_MS = 3_600_000


def asset(name: str, instance: str = "pr") -> Entry:
    key = EntryKey(EntryKind.ASSET_BLOB, instance, name.encode().ljust(32, b"."))
    return Entry(key, b"value of " + name.encode(), f"urn:{name}")


async def quiet(open_storage: Opener, settings: StorageConfig) -> Storage:
    """A storage whose own upkeep has ended, so that nothing expires but by the test."""
    storage = await open_storage(settings)
    await storage.maintenance.close()
    return storage


async def left(storage: Storage, entries: list[Entry]) -> list[str]:
    found = await storage.get([each.key for each in entries])
    return [each.label for each in found if each is not None]


@pytest.mark.parametrize("count", [3, 1203])
async def test_what_was_neither_written_nor_used_for_so_long_goes(
    open_storage: Opener, count: int
) -> None:
    storage = await quiet(open_storage, short(expire_after={"pr": "2h", "none": "1h"}))
    old = [asset(f"old-{at}") for at in range(count)]
    others = [asset("used"), asset("other", "main"), asset("other", "pr/1")]
    await storage.put([*old, *others])
    blob = await put(storage, b"what entries name is left to eviction")
    storage.core.store_clock._base_ms += 3 * HOUR_MS
    await storage.get([others[0].key])
    await storage.flusher.flush()
    new = asset("new")
    await storage.put([new])
    expiry = Expiry(storage.core)
    assert await expiry.round() == count
    assert await left(storage, old) == []
    kept = [*others, new]
    assert await left(storage, kept) == [each.label for each in kept]
    assert await held(storage, [blob]) == [blob]
    assert await expiry.round() == 0
    name = "federation_expired_entries_total"
    assert sample_value(storage.core.metrics, name) == count


async def test_pinned_entries_stay_and_no_row_tells_peers(open_storage: Opener) -> None:
    storage = await quiet(open_storage, short(expire_after={"pr": "2h"}))
    await storage.put([asset("pinned"), asset("not")])
    target = PinTarget(PinKind.ASSETS, "pr", "urn:p*")
    walker = storage.pin_walker(pin_walk(LimitsConfig()))
    await storage.ledger.pins.pin(Pin(target, NO_STAMP), walker)
    head = storage.ledger.head()
    storage.core.store_clock._base_ms += 3 * HOUR_MS
    assert await Expiry(storage.core).round() == 1
    assert await left(storage, [asset("pinned"), asset("not")]) == ["urn:pinned"]
    assert storage.ledger.head() == head


async def test_a_peer_does_not_bring_back_what_has_expired_by_the_rule_here(
    open_storage: Opener,
) -> None:
    storage = await quiet(open_storage, short(expire_after={"pr": "2h"}))
    held, stamp = asset("held")._replace(value=b"older"), Stamp(5 << 16, "peer")
    await storage.put([held])
    target = PinTarget(PinKind.ASSETS, "pr", "urn:pin*")
    await storage.ledger.pins.apply([Pin(target, stamp)])
    sent = [asset(name) for name in ("gone", "young", "pinned")] + [asset("other", "main")]
    later = stamp._replace(ticks=ticks_at(storage.core.clock.wall_s() + 60))
    for entry in [*sent, asset("held")]:
        is_young = entry.label == "urn:young"
        came = Provenance(Source.PEER, ("peer",), "peer", 60.0 if is_young else 7201.0)
        await storage.put([entry._replace(stamp=later)], provenance=came)
    assert await left(storage, sent) == ["urn:young", "urn:pinned", "urn:other"]
    (found,) = await storage.get([held.key])
    assert found is not None, "a name that is held"
    assert found.value == asset("held").value, "gets the later value, as at all other nodes"


async def test_nothing_goes_while_the_leases_of_a_killed_process_are_not_known(
    open_storage: Opener,
) -> None:
    storage = await quiet(open_storage, short(expire_after={"pr": "2h"}))
    await storage.put([asset("a")])
    storage.core.store_clock._base_ms += 3 * HOUR_MS
    hold_ms = storage.core.now_ms() + HOUR_MS
    await storage.core.writer.submit(partial(set_meta, name=HOLD, value=hold_ms))
    assert await Expiry(storage.core).round() == 0
    storage.core.store_clock._base_ms += HOUR_MS
    assert await Expiry(storage.core).round() == 1


async def test_a_reload_changes_the_ages(open_storage: Opener) -> None:
    storage = await quiet(open_storage, short())
    await storage.put([asset("a")])
    storage.core.store_clock._base_ms += 3 * HOUR_MS
    expiry = Expiry(storage.core)
    assert await expiry.round() == 0
    storage.apply_config(short(expire_after={"pr": "1h"}))
    assert await expiry.round() == 1
