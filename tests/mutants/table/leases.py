"""Mistakes by which something is evicted that a client was told is here, or room is lost."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

_STORAGE = "federation/storage"
_LEASES = ("tests/storage/test_second_look.py", "tests/storage/test_leases.py")
_PROCESSES = ("tests/storage/test_processes.py", "tests/faults/storage/test_leases.py")
_PINS = ("tests/storage/test_pins.py",)

LEASES = [
    Mutant(
        "second-look-use",
        f"{_STORAGE}/catalogue/eviction_rows.py",
        "AND used < ? AND leased < ? ORDER BY marked LIMIT ?",
        "AND used - used < ? AND leased < ? ORDER BY marked LIMIT ?",
        _LEASES,
        "What was used while it was marked is deleted.",
    ),
    Mutant(
        "second-look-lease",
        f"{_STORAGE}/catalogue/eviction_rows.py",
        "AND used < ? AND leased < ? ORDER BY marked LIMIT ?",
        "AND used < ? AND leased - leased < ? ORDER BY marked LIMIT ?",
        _LEASES,
        "What was promised to a peer while it was marked is deleted.",
    ),
    Mutant(
        "second-look-mark",
        f"{_STORAGE}/catalogue/eviction_rows.py",
        "FROM blob WHERE marked > 0 AND marked <= ? ",
        "FROM blob WHERE marked <= ? ",
        _LEASES,
        "What was revived is deleted with those that were not.",
    ),
    Mutant(
        "first-look-lease",
        f"{_STORAGE}/catalogue/eviction_rows.py",
        "AND used >= ? AND used < ? AND leased < ? ",
        "AND used >= ? AND used < ? AND leased - leased < ? ",
        _LEASES,
        "What was promised and not used since is evicted.",
    ),
    Mutant(
        "use-revives",
        f"{_STORAGE}/catalogue/blobs.py",
        "UPDATE blob SET used = ?2, marked = 0 WHERE key = ?1 AND used < ?2",
        "UPDATE blob SET used = ?2 WHERE key = ?1 AND used < ?2",
        _LEASES,
        "What is used while it is marked is called missing from then on.",
    ),
    Mutant(
        "lease-revives",
        f"{_STORAGE}/catalogue/blobs.py",
        "UPDATE blob SET leased = ?2, marked = 0 WHERE key = ?1 AND leased < ?2",
        "UPDATE blob SET leased = ?2 WHERE key = ?1 AND leased < ?2",
        _LEASES,
        "What a peer is promised while it is marked is called missing from then on.",
    ),
    Mutant(
        "upload-revives",
        f"{_STORAGE}/catalogue/blobs.py",
        "leased = max(leased, ?3), marked = 0 WHERE key = ?1",
        "leased = max(leased, ?3) WHERE key = ?1",
        _LEASES,
        "An upload of what is marked is answered OK, and the blob deleted.",
    ),
    Mutant(
        "marked-is-missing",
        f"{_STORAGE}/presence.py",
        "row.size_bytes != size_bytes or row.marked_ms:",
        "row.size_bytes != size_bytes:",
        _LEASES,
        "What is about to be deleted is called present, by every process.",
    ),
    Mutant(
        "found-is-leased",
        f"{_STORAGE}/presence.py",
        "            self._core.lease(found.lease, asked_ms, use)",
        "            assert use",
        _LEASES,
        "FindMissing calls present what may be evicted the next moment.",
    ),
    Mutant(
        "late-look-up",
        f"{_STORAGE}/presence.py",
        "is_late, is_behind = self._core.is_late(asked_ms), self._core.is_behind()",
        "is_late, is_behind = False, self._core.is_behind()",
        (*_LEASES, "tests/storage/test_stalled.py"),
        "A look-up that took longer than an eviction calls present what is gone.",
    ),
    Mutant(
        "stuck-touches",
        f"{_STORAGE}/context.py",
        "return oldest_ms is not None and self.is_late(oldest_ms)",
        "return oldest_ms is not None and oldest_ms < 0",
        (*_LEASES, "tests/storage/test_stalled.py"),
        "Leases are given that cannot be written down.",
    ),
    Mutant(
        "failed-flush",
        f"{_STORAGE}/access_times.py",
        "        batch.blobs.update(newer.blobs)\n",
        "        batch.blobs = newer.blobs\n",
        _LEASES,
        "The leases of a flush that failed are forgotten.",
    ),
    Mutant(
        "failed-flush-age",
        f"{_STORAGE}/access_times.py",
        "batch.oldest_ms = batch.oldest_ms or newer.oldest_ms",
        "batch.oldest_ms = newer.oldest_ms",
        (*_LEASES, "tests/storage/test_stalled.py"),
        "How long leases are unwritten is counted anew from each failed flush.",
    ),
    Mutant(
        "unflushed-in-flight",
        f"{_STORAGE}/access_times.py",
        "        if self._flushing is not None and self._flushing.oldest_ms is not None:\n"
        "            return self._flushing.oldest_ms\n",
        "",
        (*_LEASES, "tests/storage/test_stalled.py"),
        "Leases of a flush that hangs count as written.",
    ),
    Mutant(
        "hold-at-start",
        f"{_STORAGE}/opening.py",
        "        if dead or rebooted:",
        "        if dead and rebooted:",
        (*_LEASES, "tests/storage/test_opening.py", *_PROCESSES),
        "What a killed process had leased is evicted after the next start.",
    ),
    Mutant(
        "hold-for-the-living",
        f"{_STORAGE}/upkeep/maintenance.py",
        "            until_ms = self._core.now_ms() + self._core.timing.lease_ms\n",
        "            until_ms = self._core.now_ms()\n",
        (*_LEASES, *_PROCESSES),
        "What a process leased that died beside this one is evicted.",
    ),
    Mutant(
        "hold-forgives",
        f"{_STORAGE}/upkeep/maintenance.py",
        "            await self._evictor.unmark_all()\n",
        "",
        (*_PROCESSES, *_LEASES),
        "What was marked before the death of who leased it stays missing, and goes.",
    ),
    Mutant(
        "grace",
        f"{_STORAGE}/upkeep/eviction.py",
        "            marked_before_ms = self._core.now_ms() - self._core.timing.grace_ms",
        "            marked_before_ms = self._core.now_ms()",
        _LEASES,
        "The second look comes before the touches of other processes are written.",
    ),
    Mutant(
        "epoch-at-mark",
        f"{_STORAGE}/upkeep/eviction.py",
        """lambda tx: eviction_rows.mark(tx, choice.blobs, before_ms))
        self._core.epoch.bump()
""",
        """lambda tx: eviction_rows.mark(tx, choice.blobs, before_ms))
""",
        _LEASES,
        "Verdicts about closures outlive that FindMissing calls a part of them missing.",
    ),
    Mutant(
        "epoch-at-delete",
        f"{_STORAGE}/upkeep/eviction.py",
        """                tx, marked_before_ms, before_ms, _DELETED_AT_ONCE
            )
        )
        self._core.epoch.bump()
""",
        """                tx, marked_before_ms, before_ms, _DELETED_AT_ONCE
            )
        )
""",
        (*_LEASES, "tests/storage/test_known.py", "tests/storage/test_hot.py"),
        "What is remembered about blobs outlives them.",
    ),
    Mutant(
        "lease-period",
        f"{_STORAGE}/timing.py",
        "return self.lease_ms + 2 * self.granularity_ms",
        "return self.lease_ms // 2",
        (*_LEASES, "tests/storage/test_choices.py"),
        "Leases end before their time.",
    ),
    Mutant(
        "lease-slack",
        f"{_STORAGE}/timing.py",
        "return self.lease_ms + 2 * self.granularity_ms",
        "return self.lease_ms",
        (*_LEASES, "tests/storage/test_choices.py"),
        "Touches that were spared because they were new, and verdicts, count for less.",
    ),
    Mutant(
        "entry-touched-since",
        f"{_STORAGE}/catalogue/entries.py",
        '"DELETE FROM entry WHERE id = ? AND used < ? RETURNING value, label"',
        '"DELETE FROM entry WHERE id = ? AND used - used < ? RETURNING value, label"',
        (*_LEASES, "tests/storage/test_choices.py"),
        "An entry that was used since it was chosen is deleted.",
    ),
    Mutant(
        "pins",
        f"{_STORAGE}/catalogue/peer_records.py",
        "        received = min(received, record.cursor)\n",
        "",
        _PINS,
        "What a peer has not yet got is evicted.",
    ),
    Mutant(
        "pins-cursor",
        f"{_STORAGE}/catalogue/peer_records.py",
        "        received = min(received, record.cursor)\n",
        "        received = min(received, record.cursor + 1)\n",
        _PINS,
        "The next object that a peer is to get is evicted.",
    ),
    Mutant(
        "refuse-when-full",
        f"{_STORAGE}/upkeep/maintenance.py",
        'if fits or self._core.settings.when_full == "refuse":',
        "if fits:",
        _PINS,
        "A peer is given up although the operator wants writes refused instead.",
    ),
    Mutant(
        "reservation-kept",
        f"{_STORAGE}/ingest.py",
        "        self._core.space.release(self._reserved_bytes)\n",
        "",
        ("tests/storage", "tests/contracts/store"),
        "Each upload takes away room for good.",
    ),
    Mutant(
        "reservation-of-batch-kept",
        f"{_STORAGE}/batch_files.py",
        "        core.space.release(sum(blob.digest.size_bytes for blob in blobs))\n",
        "",
        ("tests/storage", "tests/contracts/store"),
        "Each batch of files takes away room for good.",
    ),
    Mutant(
        "reservation-of-inline-kept",
        f"{_STORAGE}/receiving.py",
        "            self._core.space.release(size_bytes)\n",
        "            assert size_bytes\n",
        ("tests/storage", "tests/contracts/store"),
        "Each batch of small blobs takes away room for good.",
    ),
    Mutant(
        "reservations-count",
        f"{_STORAGE}/space.py",
        "        if self.stored_bytes + self.reserved_bytes + size_bytes > self.quota_bytes:",
        "        if self.stored_bytes + size_bytes > self.quota_bytes:",
        ("tests/storage", "tests/faults/storage/test_disk_full.py"),
        "Uploads under way overrun the quota together.",
    ),
    Mutant(
        "quota-in-the-lock",
        f"{_STORAGE}/catalogue/transaction.py",
        "return self.held_bytes + self.grown_bytes + size_bytes <= self.quota_bytes",
        "return self.grown_bytes + size_bytes <= self.quota_bytes",
        ("tests/storage/test_room.py",),
        "Several processes overrun the quota together.",
    ),
]
