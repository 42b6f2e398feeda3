"""Mistakes by which a site on PostgreSQL loses what was acknowledged, or evicts what is leased."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

_CATALOGUE = "federation/storage/shared/catalogue"
_TESTS = "tests/storage/shared"
_DURABILITY = (f"{_TESTS}/test_durability.py",)
_EVICTION = (f"{_TESTS}/test_eviction.py",)
_BLOBS = (f"{_TESTS}/test_blobs.py",)

SITE_CATALOGUE = [
    Mutant(
        "flush-without-writing",
        f"{_CATALOGUE}/sql/common.sql",
        "  PERFORM pg_logical_emit_message(true, 'federation', '');",
        "  PERFORM pg_current_xact_id();",
        _DURABILITY,
        "A transaction that writes nothing does not flush: acknowledged rows are lost in a crash.",
        marked="servers",
    ),
    Mutant(
        "flush-unsynced",
        f"{_CATALOGUE}/sql/common.sql",
        "  PERFORM set_config('synchronous_commit', 'on', true);\n  SELECT seq",
        "  PERFORM set_config('synchronous_commit', 'off', true);\n  SELECT seq",
        _DURABILITY,
        "The flush does not wait for the disk either.",
        marked="servers",
    ),
    Mutant(
        "flush-of-another-life",
        f"{_CATALOGUE}/flusher.py",
        "        if found.life != life:",
        "        if found.life is None:",
        _DURABILITY,
        "Rows that a crash took away before the flush are acknowledged after it.",
        marked="servers",
    ),
    Mutant(
        "flush-under-way",
        f"{_CATALOGUE}/flusher.py",
        "last.life == life and last.seq >= seq",
        "last.life == life",
        _DURABILITY,
        "What was committed after the last flush is taken for durable.",
        marked="servers",
    ),
    Mutant(
        "numbers-without-lock",
        f"{_CATALOGUE}/sql/blobs.sql",
        "  SELECT * INTO before FROM site FOR UPDATE;",
        "  SELECT * INTO before FROM site;",
        (f"{_TESTS}/test_order.py", *_BLOBS),
        "Two nodes give the same numbers, or become visible out of order.",
        marked="servers",
    ),
    Mutant(
        "lease-after-a-crash",
        f"{_CATALOGUE}/sql/leads.sql",
        "  IF c.incarnation <> life THEN",
        "  IF c.incarnation IS NULL THEN",
        _EVICTION,
        "What was leased before a crash is evicted, though its lease may be lost.",
        marked="servers",
    ),
    Mutant(
        "site-lease-unwritten",
        f"{_CATALOGUE}/sql/blobs.sql",
        "    EXIT WHEN p_use = 0 OR stale IS NULL;",
        "    EXIT WHEN true;",
        (*_BLOBS, *_EVICTION),
        "Present is said of blobs that the eviction takes for unleased.",
        marked="servers",
    ),
    Mutant(
        "renewed-though-evicted",
        f"{_CATALOGUE}/sql/blobs.sql",
        "    EXIT WHEN federation_renew(stale, p_use, now) = cardinality(stale);",
        "    PERFORM federation_renew(stale, p_use, now);\n    EXIT;",
        _BLOBS,
        "Present is said of a blob that was evicted before its lease was renewed.",
        marked="servers",
    ),
    Mutant(
        "unfenced-lead",
        f"{_CATALOGUE}/sql/common.sql",
        "WHERE role = p_role AND term = p_term AND node IS NOT NULL FOR SHARE",
        "WHERE role = p_role FOR SHARE",
        (*_EVICTION, f"{_TESTS}/test_leads.py"),
        "A lead that was stopped and overtaken writes what it believes when it wakes.",
        marked="servers",
    ),
    Mutant(
        "own-object-gone",
        f"{_CATALOGUE}/sql/blobs.sql",
        "      WHERE i.attempt IS NOT NULL AND b.attempt IS DISTINCT FROM i.attempt",
        "      WHERE i.attempt IS NOT NULL",
        _BLOBS,
        "A statement that is run again has the object of its own row deleted.",
        marked="servers",
    ),
    Mutant(
        "silence-of-all",
        f"{_CATALOGUE}/leads.py",
        "        self.term = self.beat = -1",
        "        self.beat = self.beat",
        (f"{_TESTS}/test_candidate.py",),
        "After the database was away, every node overtakes a healthy lead.",
    ),
    Mutant(
        "slow-answer-as-silence",
        f"{_CATALOGUE}/leads.py",
        "self.since_s = row.term, row.beat, heard_s",
        "self.since_s = row.term, row.beat, asked_s",
        (f"{_TESTS}/test_candidate.py",),
        "While the database is slow, nodes overtake a healthy lead one after the other.",
    ),
    Mutant(
        "epoch-without-removal",
        f"{_CATALOGUE}/site_watch.py",
        "        if (row.presence, row.log_epoch) != (before.presence, before.log_epoch):",
        "        if row.presence != before.presence:",
        (f"{_TESTS}/test_polling.py",),
        "After an older database was put back, remembered names are called held for minutes.",
    ),
    Mutant(
        "polls-without-end",
        f"{_CATALOGUE}/site_watch.py",
        "            await self._clock.sleep(_HURRIED_POLL_S)",
        "            await self._clock.sleep(0)",
        (f"{_TESTS}/test_polling.py",),
        "Each upload that waits for a peer polls the database at once, all nodes together.",
    ),
    Mutant(
        "full-server-as-away",
        f"{_CATALOGUE}/connections.py",
        "            if self._open:  #",
        "            if self._open < 0:  #",
        (f"{_TESTS}/test_failures.py",),
        "A server without room for one more connection makes the node answer UNAVAILABLE.",
        marked="servers",
    ),
]
