"""Which blobs that an index entry names are missing: the walk of serving it, without leases."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from federation.closure.names import Names, Structure, names_of_entry, names_of_structure
from federation.closure.walk import STRUCTURE_MAX_BYTES
from federation.config.model import LimitsConfig
from federation.core.digest import Digest
from federation.core.errors import InvalidRequest
from federation.core.index import Entry
from federation.storage.contract import Explainer

MISSING_MAX = 20
_LEAVES = 2000  # looked up at once


class ClosureReport(NamedTuple):
    """The result of a walk; complete: nothing is missing, and everything could be read."""

    complete: bool
    blobs: int
    structures: int
    missing: list[Digest]  # the first MISSING_MAX found
    problem: str | None  # why the walk could not read everything


def closure_of(entry: Entry, explainer: Explainer, limits: LimitsConfig) -> ClosureReport:
    """Walk the closure until everything was checked, or MISSING_MAX blobs are missing."""
    walk = _Walk(explainer, limits)
    problem = None
    try:
        walk.run(entry)
    except InvalidRequest as error:
        problem = f"malformed: {error}"
    except _Stopped as stopped:
        problem = str(stopped)
    complete = problem is None and not walk.missing
    return ClosureReport(complete, walk.blobs, len(walk.seen), walk.missing, problem)


class _Stopped(Exception):
    """The walk ends early."""


class _Walk:
    def __init__(self, explainer: Explainer, limits: LimitsConfig) -> None:
        self._explainer = explainer
        self._limits = limits
        self._leaves: set[Digest] = set()
        self._waiting: deque[Structure] = deque()
        self.seen: set[Structure] = set()
        self.blobs = 0
        self.missing: list[Digest] = []

    def run(self, entry: Entry) -> None:
        """Walk. Raises InvalidRequest, _Stopped."""
        self._take(names_of_entry(entry))
        while self._waiting:
            self._open(self._waiting.popleft())
        self._check_leaves()

    def _take(self, parts: Iterable[Names]) -> None:
        for names in parts:
            self.blobs += len(names.blobs)
            self._leaves.update(names.blobs)
            for structure in names.structures:
                if structure not in self.seen:
                    self.seen.add(structure)
                    self._waiting.append(structure)
            if self.blobs > self._limits.closure_blobs:
                raise _Stopped(f"it names more than {self._limits.closure_blobs} blobs")
            if len(self.seen) > self._limits.tree_directories:
                raise _Stopped(f"it has more than {self._limits.tree_directories} directories")
            if len(self._leaves) >= _LEAVES:
                self._check_leaves()

    def _open(self, structure: Structure) -> None:
        shape, digest = structure
        # The bound of the walk that serves entries, so that both come to the same end.
        if digest.size_bytes > STRUCTURE_MAX_BYTES:
            raise _Stopped(f"structure {digest} is larger than {STRUCTURE_MAX_BYTES} bytes")
        data = self._explainer.read(digest)
        if data is None:
            self._note_missing([digest])
            return
        self._take(names_of_structure(shape, data, digest.function))

    def _check_leaves(self) -> None:
        # In batches: a look-up of each would take a query for each.
        leaves, self._leaves = self._leaves, set()
        self._note_missing(sorted(self._explainer.missing(leaves)))

    def _note_missing(self, digests: Iterable[Digest]) -> None:
        for digest in digests:
            if digest in self.missing:
                continue
            if len(self.missing) == MISSING_MAX:
                raise _Stopped(f"more than {MISSING_MAX} are missing; the rest was not checked")
            self.missing.append(digest)
