"""Mistakes by which something pinned is evicted, or pins take more than they may."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

_KEEPINGS = "federation/storage/catalogue/keepings.py"
_KEEPER = "federation/storage/upkeep/pin_keeper.py"
_PINNING = ("tests/storage/test_pinning.py",)
_KEEPING = ("tests/storage/test_pin_keeping.py",)

PINS = [
    Mutant(
        "pin-evicted-blob",
        "federation/storage/catalogue/eviction_rows.py",
        "f\"WHERE kept = 0 AND source {'=' if pulled",
        "f\"WHERE source {'=' if pulled",
        _PINNING,
        "Eviction reads all pinned blobs at each search.",
    ),
    Mutant(
        "pin-mark-of-a-kept-blob",
        "federation/storage/catalogue/eviction_rows.py",
        '            "AND kept = 0",\n',
        '            "",\n',
        _PINNING,
        "A blob that is pinned while eviction chooses is missing for everybody.",
    ),
    Mutant(
        "pin-marked-blob",
        _KEEPINGS,
        '"UPDATE blob SET kept = ?2, marked = 0 WHERE key = ?1"',
        '"UPDATE blob SET kept = ?2 WHERE key = ?1"',
        _PINNING,
        "A pinned blob that eviction had marked is missing for everybody.",
    ),
    Mutant(
        "pin-evicted-entry",
        "federation/storage/catalogue/entry_removal.py",
        "f\"WHERE kept = 0 AND source {'=' if pulled",
        "f\"WHERE source {'=' if pulled",
        _PINNING,
        "Eviction reads all pinned entries at each search.",
    ),
    Mutant(
        "pin-bound",
        _KEEPINGS,
        "    if added and total_bytes(connection) + added > max_bytes:",
        "    if False:",
        _PINNING,
        "Pins fill the quota, and nothing else can be stored.",
    ),
    Mutant(
        "pin-taken-over",
        _KEEPINGS,
        "for key, cost, kept, is_ended in rows if not kept or is_ended]",
        "for key, cost, kept, is_ended in rows if not kept]",
        _PINNING,
        "What two pins need is evicted when one of them is removed.",
    ),
    Mutant(
        "pin-given-back-blindly",
        _KEEPER,
        "            await self._look_again(found, walker)\n            await self._follow",
        "            await self._follow",
        _PINNING,
        "What is given back is not compared with what other pins need.",
    ),
    Mutant(
        "pin-purged-silently",
        "federation/storage/catalogue/blobs.py",
        "        keepings.blob_gone(transaction, gone[0], row.cost_bytes)",
        "        pass",
        _PINNING,
        "A pinned blob that was damaged or purged is not missed, and its bytes count for ever.",
    ),
    Mutant(
        "pin-later-entries",
        _KEEPER,
        "                await self._keep(_Live(rows), page, walker, rests=False)",
        "                pass",
        _PINNING,
        "What comes after the pin is evicted.",
    ),
    Mutant(
        "pin-of-a-removed-pin",
        _KEEPINGS,
        "    if not _is_in_force(connection, pin_id):",
        "    if False:",
        _KEEPING,
        "What is found for a pin after its removal is kept for ever.",
    ),
    Mutant(
        "pin-sum",
        _KEEPINGS,
        "    add_to_total(transaction, now_bytes - row[0])",
        "    add_to_total(transaction, size_bytes)",
        _KEEPING,
        "The sum of what pins take shrinks at each entry that grows, and pins take ever more.",
    ),
    Mutant(
        "pin-of-another-entry",
        "federation/storage/catalogue/entries.py",
        "    keepings.end_of_entries(transaction, [old.id])\n",
        "",
        _KEEPING,
        "An entry that no pin matches is kept, as it got the row id of one that was purged.",
    ),
    Mutant(
        "pin-ended-without-trace",
        "federation/storage/catalogue/pins.py",
        "            store(transaction, row.pin._replace(is_removed=True, at_s=wall_s))",
        "            _drop(transaction, row.id)",
        _KEEPING,
        "A pin that has ended comes back from a peer that has an older record of it.",
    ),
    Mutant(
        "pin-older-record",
        "federation/storage/catalogue/pins.py",
        "if old is None or old.pin.stamp < each.stamp]",
        "if old is None or old.pin.stamp != each.stamp]",
        ("tests/contracts/replication_log/test_pins.py",),
        "A pin that arrives late undoes its removal, and nodes disagree.",
    ),
    Mutant(
        "pin-removed-entry",
        "federation/storage/catalogue/entry_removal.py",
        "WHERE id = ? AND used < ? AND kept = 0 RETURNING",
        "WHERE id = ? AND used < ? RETURNING",
        _PINNING,
        "An entry that is pinned while eviction or expiry chooses is removed.",
    ),
    Mutant(
        "expiry-of-another-instance",
        "federation/storage/catalogue/entry_removal.py",
        'f"WHERE kind = ? AND instance = {instances.ID} AND name > ? AND kept = 0 "',
        'f"WHERE kind = ? AND {instances.ID} IS NOT NULL AND name > ? AND kept = 0 "',
        ("tests/storage/test_expiry.py",),
        "Entries of other instances are removed.",
    ),
    Mutant(
        "expiry-after-a-kill",
        "federation/storage/upkeep/expiry.py",
        "        if int(await self._core.pool.query(get_meta, HOLD) or 0) > self._core.now_ms():",
        "        if False:",
        ("tests/storage/test_expiry.py",),
        "What a killed process has served just before is removed.",
    ),
]
