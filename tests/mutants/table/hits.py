"""Mistakes by which an entry is served from memory that has a hole, or is not what it was."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

_WHOLE = "federation/closure/whole.py"
_CHECKER = "federation/closure/checker.py"
_WALK = "federation/closure/walk.py"
_WATCH = "federation/storage/held_watch.py"
_FILES = "federation/storage/file_watch.py"
_CACHE = "federation/storage/entry_cache.py"
_CHANGES = "federation/storage/catalogue/entry_changes.py"
_ENTRIES = "federation/storage/catalogue/entries.py"
_CLOSURES = ("tests/services/test_closure.py",)
_HELD = ("tests/storage/test_held_watch.py",)
_FILE_TESTS = ("tests/storage/test_file_watch.py",)
_FINDER = ("tests/upstream/test_finder.py",)
_CACHED = ("tests/storage/test_entry_cache.py",)

HITS = [
    Mutant(
        "watch-epoch",
        _WATCH,
        "        if self._epoch != core.epoch.value or core.directory.volume.trouble:",
        "        if core.directory.volume.trouble:",
        _HELD,
        "An entry is served after something of it was set aside or deleted.",
    ),
    Mutant(
        "watch-volume",
        _WATCH,
        "        if self._epoch != core.epoch.value or core.directory.volume.trouble:",
        "        if self._epoch != core.epoch.value:",
        _HELD,
        "An entry is served while another volume is in the place of its blobs.",
    ),
    Mutant(
        "watch-files",
        _WATCH,
        "            if self._files != core.files.changes():",
        "            if self._files > core.files.changes():",
        _HELD,
        "An entry is served after a file of it vanished.",
    ),
    Mutant(
        "watch-unwatched",
        _WATCH,
        "        elif digests is not None:\n            return False\n",
        "",
        _HELD,
        "The same, where files are not watched.",
    ),
    Mutant(
        "watch-lease-over",
        _WATCH,
        "        if now_ms - self._leased_ms > core.timing.lease_ms or core.is_behind():",
        "        if core.is_behind():",
        _HELD,
        "Something is leased anew without a look that eviction may have taken already.",
    ),
    Mutant(
        "watch-behind",
        _WATCH,
        "        if now_ms - self._leased_ms > core.timing.lease_ms or core.is_behind():",
        "        if now_ms - self._leased_ms > core.timing.lease_ms:",
        _HELD,
        "A lease is given that may not be written in time.",
    ),
    Mutant(
        "watch-leases",
        _WATCH,
        "        core.lease(keys_of(digests()), now_ms, use)",
        "        assert keys_of(digests())",
        _HELD,
        "What a hit names is not leased.",
    ),
    Mutant(
        "watch-uses",
        _WATCH,
        "        renewed_ms = self._used_ms if use is Use.CLIENT else self._leased_ms",
        "        renewed_ms = self._leased_ms",
        _HELD,
        "A client's hit of what a peer has leased does not count as a use.",
    ),
    Mutant(
        "watch-peeked",
        _WATCH,
        "        self._leased_ms = now_ms if use is not Use.PEEK else _NEVER_MS",
        "        self._leased_ms = now_ms",
        _HELD,
        "A look that leases nothing is taken for a lease.",
    ),
    Mutant(
        "death-noticed",
        "federation/storage/upkeep/maintenance.py",
        "            self._core.epoch.bump()  # the process may",
        "            # the process may",
        _HELD,
        "What a process set aside right before it was killed stays whole in others.",
    ),
    Mutant(
        "death-noticed-at-a-start",
        "federation/storage/opening.py",
        "            epoch.bump()  # they may",
        "            assert dead  # they may",
        _HELD,
        "The same, if a process that starts notices it.",
    ),
    Mutant(
        "whole-watched-late",
        _CHECKER,
        "            self._whole.add(key, watch, bounds,",
        "            self._whole.add(key, self._local.watch(), bounds,",
        _CLOSURES,
        "What goes during a walk counts as seen by it.",
    ),
    Mutant(
        "look-watched-late",
        _CHECKER,
        "        whole.watch = watch",
        "        whole.watch = self._local.watch()",
        _CLOSURES,
        "What goes during a look-up counts as seen by it.",
    ),
    Mutant(
        "whole-structures",
        _WALK,
        "for digest in self._checked | structures if digest.size_bytes",
        "for digest in self._checked if digest.size_bytes",
        _CLOSURES,
        "A directory that is gone does not hide an entry; and none is leased.",
    ),
    Mutant(
        "whole-leaves",
        _WALK,
        "for digest in self._checked | structures if digest.size_bytes",
        "for digest in structures if digest.size_bytes",
        _CLOSURES,
        "A file that is gone does not hide an entry; and none is leased.",
    ),
    Mutant(
        "whole-limits",
        _WHOLE,
        "        if whole.bounds != bounds or age_s > _AGE_MAX_S:",
        "        if age_s > _AGE_MAX_S:",
        _CLOSURES,
        "A closure that is too large since a reload is served.",
    ),
    Mutant(
        "whole-age",
        _WHOLE,
        "        if whole.bounds != bounds or age_s > _AGE_MAX_S:",
        "        if whole.bounds != bounds:",
        _CLOSURES,
        "Structures of an entry that is used all the time are never verified.",
    ),
    Mutant(
        "whole-room",
        _WHOLE,
        "        while self.size_bytes > self._room_bytes:",
        "        while len(self) > self._room_bytes:",
        _CLOSURES,
        "What is remembered grows without a bound.",
    ),
    Mutant(
        "files-removed",
        _FILES,
        "_CHANGES = _MODIFY | _MOVED_FROM | _MOVED_TO | _DELETE |",
        "_CHANGES = _MODIFY | _MOVED_FROM | _MOVED_TO |",
        _FILE_TESTS,
        "A file that is removed is not missed.",
    ),
    Mutant(
        "files-moved",
        _FILES,
        "_CHANGES = _MODIFY | _MOVED_FROM | _MOVED_TO | _DELETE |",
        "_CHANGES = _MODIFY | _MOVED_TO | _DELETE |",
        _FILE_TESTS,
        "A file that is moved away is not missed.",
    ),
    Mutant(
        "files-replaced",
        _FILES,
        "            elif mask & _MOVED_TO and cookie in self._placing:",
        "            elif mask & _MOVED_TO:",
        _FILE_TESTS,
        "A file that is replaced is taken for an upload.",
    ),
    Mutant(
        "files-ends",
        _FILES,
        "        if ends:\n",
        "        if ends & _UNMOUNT:\n",
        _FILE_TESTS,
        "After a folder was replaced its files are not watched.",
    ),
    Mutant(
        "entries-announced",
        _CHANGES,
        "        self._epoch.set_entry_changes(after)",
        "        assert after",
        _CACHED,
        "Another process goes on serving the old value of an entry.",
    ),
    Mutant(
        "entries-announced-late",
        "federation/storage/catalogue/writer.py",
        """            if transaction.changes_entries and self._entry_changes is not None:
                self._entry_changes.announce(transaction)
            connection.execute("COMMIT")
""",
        """            connection.execute("COMMIT")
            if transaction.changes_entries and self._entry_changes is not None:
                connection.execute("BEGIN IMMEDIATE")
                self._entry_changes.announce(transaction)
                connection.execute("COMMIT")
""",
        _CACHED,
        "An old value is served between a commit and its announcement.",
    ),
    Mutant(
        "entries-read-before",
        _CACHE,
        "        if row.changes != self._seen:",
        "        if row.changes > self._seen:",
        _CACHED,
        "A value is cached that was read before a change which is announced already.",
    ),
    Mutant(
        "entries-between",
        _CACHE,
        "            elif step.before != self._seen or step.keys is None:",
        "            elif step.keys is None:",
        _CACHED,
        "A change by another process between two of ours is overlooked.",
    ),
    Mutant(
        "entries-put",
        _ENTRIES,
        "    transaction.changed_entries.append(entry.key)\n",
        "",
        _CACHED,
        "A client is served the value from before its own push.",
    ),
    Mutant(
        "entries-evicted",
        "federation/storage/catalogue/entry_removal.py",
        "    transaction.changes_any_entry = True\n",
        "",
        _CACHED,
        "An evicted entry is served.",
    ),
    Mutant(
        "recall-whole",
        "federation/upstream/entry_finder.py",
        "        return entry if self._closures.is_certain(entry) else None",
        "        return entry",
        _FINDER,
        "An entry with a hole is served at once.",
    ),
    Mutant(
        "recall-pulled",
        "federation/upstream/entry_finder.py",
        "        if entry is None or entry.source is Source.UPSTREAM:",
        "        if entry is None:",
        _FINDER,
        "An entry that its upstream may have changed is served at once, for ever.",
    ),
    Mutant(
        "known-files",
        "federation/storage/presence.py",
        "        return (core.epoch.value << 32) + core.files.changes()",
        "        return core.epoch.value << 32",
        ("tests/storage/test_known.py",),
        "FindMissing calls a blob present whose file has vanished.",
    ),
    Mutant(
        "known-unwatched",
        "federation/storage/presence.py",
        "        if not self._core.files.is_on or self._core.directory.volume.trouble:\n",
        "        if self._core.directory.volume.trouble:\n",
        ("tests/storage/test_known.py",),
        "The same, where files are not watched.",
    ),
    Mutant(
        "known-lists",
        "federation/storage/existence_cache.py",
        "        self._lists, self._in_lists = {}, 0",
        "        self._in_lists = 0",
        ("tests/storage/test_known.py",),
        "A batch that is asked about on and on counts as leased for ever.",
    ),
]
