"""Mistakes by which something is evicted that a client was told is here, or room is lost."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

_STORAGE = "federation/storage"
_LEASES = ("tests/storage/test_second_look.py", "tests/storage/test_leases.py")
_PROCESSES = ("tests/storage/test_processes.py", "tests/faults/storage/test_leases.py")
_PINS = ("tests/storage/test_pins.py",)

LEASES = [
    Mutant(
        "second-look-touch",
        f"{_STORAGE}/catalogue/blobs.py",
        "if row.state == MARKED and row.accessed_ms < before_ms:",
        "if row.state == MARKED:",
        _LEASES,
        "What was leased while it was marked is deleted.",
    ),
    Mutant(
        "second-look-state",
        f"{_STORAGE}/catalogue/blobs.py",
        "if row.state == MARKED and row.accessed_ms < before_ms:",
        "if row.accessed_ms < before_ms:",
        _LEASES,
        "What was revived is deleted with those that were not.",
    ),
    Mutant(
        "touch-revives",
        f"{_STORAGE}/catalogue/blobs.py",
        "UPDATE blob SET accessed = ?2, state = 0 WHERE key = ?1 AND accessed < ?2",
        "UPDATE blob SET accessed = ?2 WHERE key = ?1 AND accessed < ?2",
        _LEASES,
        "What is used while it is marked is called missing from then on.",
    ),
    Mutant(
        "marked-is-missing",
        f"{_STORAGE}/presence.py",
        "row.size_bytes != size_bytes or row.state == MARKED",
        "row.size_bytes != size_bytes",
        _LEASES,
        "What is about to be deleted is called present, by every process.",
    ),
    Mutant(
        "found-is-leased",
        f"{_STORAGE}/presence.py",
        "            self._core.lease(found.lease, asked_ms)",
        "            assert asked_ms",
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
        _PROCESSES,
        "What a process leased that died beside this one is evicted.",
    ),
    Mutant(
        "hold-forgives",
        f"{_STORAGE}/upkeep/maintenance.py",
        "            await self._evictor.forgive()\n",
        "",
        (*_PROCESSES, *_LEASES),
        "What was marked before the death of who leased it stays missing, and goes.",
    ),
    Mutant(
        "grace",
        f"{_STORAGE}/upkeep/eviction.py",
        """        self._core.epoch.bump()
        due_ms = self._core.now_ms() + self._core.timing.grace_ms
""",
        """        self._core.epoch.bump()
        due_ms = self._core.now_ms()
""",
        _LEASES,
        "The second look comes before the touches of other processes are written.",
    ),
    Mutant(
        "epoch-at-mark",
        f"{_STORAGE}/upkeep/eviction.py",
        """lambda tx: catalogue.mark(tx, choice.blobs))
        self._core.epoch.bump()
""",
        """lambda tx: catalogue.mark(tx, choice.blobs))
""",
        (*_LEASES, "tests/storage/test_known.py", "tests/storage/test_hot.py"),
        "Processes answer from memory that what is marked is present.",
    ),
    Mutant(
        "epoch-at-delete",
        f"{_STORAGE}/upkeep/eviction.py",
        """            lambda tx: catalogue.delete_marked(tx, marked.keys, before_ms)
        )
        self._core.epoch.bump()
""",
        """            lambda tx: catalogue.delete_marked(tx, marked.keys, before_ms)
        )
""",
        (*_LEASES, "tests/storage/test_known.py", "tests/storage/test_hot.py"),
        "Verdicts about closures outlive what they were about.",
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
        '"DELETE FROM entry WHERE id = ? AND accessed < ? RETURNING value, label"',
        '"DELETE FROM entry WHERE id = ? AND accessed + 0 * ? >= 0 RETURNING value, label"',
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
        "        self._core.space.release(self._digest.size_bytes)\n",
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
        "return self.totals.size_bytes + size_bytes <= self.quota_bytes",
        "return size_bytes <= self.quota_bytes",
        ("tests/storage", "tests/contracts/store"),
        "Several processes overrun the quota together.",
    ),
]
