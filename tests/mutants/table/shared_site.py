"""Mistakes of a shared site: a row before its bytes, doubt taken for absence, too much deleted."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

_SHARED = "federation/storage/shared"
_LARGE = ("tests/storage/shared/test_large_blobs.py",)
_UPKEEP = ("tests/storage/shared/test_site_upkeep.py",)

SHARED_SITE = [
    Mutant(
        "part-hash",
        f"{_SHARED}/parts.py",
        "        if await asyncio.to_thread(hash_part, data) == part_hash(at.parts, part):",
        "        if await asyncio.to_thread(hash_part, data):",
        _LARGE,
        "Bytes that somebody changed in the bucket are shown before the whole is compared.",
        marked="servers",
    ),
    Mutant(
        "insert-race",
        f"{_SHARED}/catalogue/sql/blobs.sql",
        "  EXCEPTION WHEN unique_violation OR lock_not_available THEN",
        "  EXCEPTION WHEN lock_not_available THEN",
        ("tests/storage/shared/test_blobs.py",),
        "A batch fails as a whole because another node was faster with one of its blobs.",
        marked="servers",
    ),
    Mutant(
        "part-in-one",
        f"{_SHARED}/parts.py",
        "    for in_one in (False, True):",
        "    for in_one in (False, False):",
        ("tests/storage/shared/test_broken_answers.py",),
        "Where connections break, a server with wrong ranges makes right blobs count as damaged.",
    ),
    Mutant(
        "last-part-waits",
        f"{_SHARED}/fill.py",
        "                if part < count - 1:",
        "                if part < count:",
        ("tests/storage/shared/test_fill.py",),
        "Readers are given the end of a blob before the whole was compared with its digest.",
    ),
    Mutant(
        "last-part-compared",
        f"{_SHARED}/fill.py",
        "        self._ingest.verify()\n        self._move(",
        "        self._move(",
        ("tests/storage/shared/test_fill.py",),
        "A read of wrong bytes ends well, because the last part is shown without a comparison.",
    ),
    Mutant(
        "fill-behind",
        f"{_SHARED}/fill.py",
        "asyncio.Queue(_BEHIND_PARTS)",
        "asyncio.Queue()",
        ("tests/storage/shared/test_fill.py",),
        "A fill whose cache is slow takes all places for parts, and the other fills stand still.",
    ),
    Mutant(
        "whole-past-the-cache",
        f"{_SHARED}/site_reading.py",
        "                if is_last and hasher.digest() != self._digest.hash:",
        "                if is_last and hasher.digest() == b'':",
        ("tests/storage/shared/test_site_faults.py",),
        "Wrong bytes that were hashed as a part are read to their end past the cache.",
        marked="servers",
    ),
    Mutant(
        "bucket-marker",
        f"{_SHARED}/objects.py",
        "        if data is None and await self.get_marker() is None:",
        "        if data is None and await self.get_marker() == b'':",
        ("tests/storage/shared/test_objects.py",),
        "Another bucket than before makes every client upload everything.",
        marked="servers",
    ),
    Mutant(
        "parts-before-row",
        f"{_SHARED}/part_sender.py",
        "        while self._tasks and self._failure is None:",
        "        while self._tasks and self._failure is None and self._sent < 0:",
        _LARGE,
        "A blob is called held before its last part is in the bucket.",
        marked="servers",
    ),
    Mutant(
        "sweep-asks",
        f"{_SHARED}/upkeep/bucket_sweep.py",
        "if not is_known}",
        "}",
        _UPKEEP,
        "The sweep deletes the objects of blobs that are held.",
        marked="servers",
    ),
    Mutant(
        "sweep-age",
        f"{_SHARED}/upkeep/bucket_sweep.py",
        "for each in page if each.modified_s < before_s)",
        "for each in page)",
        _UPKEEP,
        "The sweep deletes the parts of an upload that is under way.",
        marked="servers",
    ),
    Mutant(
        "older-catalogue",
        f"{_SHARED}/site_marker.py",
        "facts.head > row.seq",
        "facts.head < 0",
        _UPKEEP,
        "An older database that was put back is not noticed.",
        marked="servers",
    ),
    Mutant(
        "closure-lease",
        f"{_SHARED}/site_small.py",
        "        if uses.current() is Use.PEEK or self._core.uses.are_leased(keys):",
        "        if uses.current() is Use.PEEK or keys:",
        _LARGE,
        "A directory that only this node's cache has makes an action result whole.",
        marked="servers",
    ),
]
