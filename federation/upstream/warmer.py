"""Brings closures here that were named in advance: by a command, or by a schedule.

What is here already costs a look, so an interrupted run is continued by running it again.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from federation._proto.build.bazel.remote.asset.v1 import remote_asset_pb2 as asset
from federation.closure.names import names_of_entry
from federation.closure.walk import Walk, WalkContext
from federation.config.model import LimitsConfig
from federation.core import hops, uses
from federation.core.clock import Clock
from federation.core.digest import Digest, DigestFunction
from federation.core.errors import FederationError
from federation.core.index import Entry
from federation.core.uses import Use
from federation.core.wanted import Wanted
from federation.upstream.bringing import BringingStore, Brought
from federation.upstream.entry_finder import EntryQuery, FederatedFinder
from federation.upstream.questions import (
    ActionQuestion,
    AssetQuestion,
    AssetRequest,
    keys_with_size,
)
from federation.wire.action_result import key_of
from federation.wire.asset_request import wanted_by

_AT_ONCE = 4  # names
_BLOBS_AT_ONCE = 500
_PROBLEMS_MAX = 100
_REQUESTS: tuple[type[AssetRequest], ...] = (asset.FetchBlobRequest, asset.FetchDirectoryRequest)


class PullOutcome(enum.StrEnum):
    """What became of one name."""

    WHOLE = "whole"  # all that it names is here
    NOT_FOUND = "not-found"  # neither this node nor an upstream has it whole
    INCOMPLETE = "incomplete"  # part of it could not be brought


class WarmScope(NamedTuple):
    """What all names of a run have in common."""

    instance: str = ""
    function: DigestFunction = DigestFunction.SHA256  # of assets
    qualifiers: Sequence[tuple[str, str]] = ()  # of assets


@dataclass(slots=True)
class WarmReport:
    """What a run has done so far. problems lists at most 100 names."""

    names: int = 0
    whole: int = 0
    not_found: int = 0
    incomplete: int = 0
    problems: list[tuple[str, str]] = field(default_factory=list)  # name, reason
    store: BringingStore | None = None

    @property
    def brought(self) -> Brought:
        """What was brought; directories that were read on the way are not counted."""
        return Brought() if self.store is None else self.store.brought

    @property
    def done(self) -> int:
        """How many names are done."""
        return self.whole + self.not_found + self.incomplete

    def note(self, wanted: Wanted, outcome: PullOutcome, reason: str) -> None:
        """Count one name."""
        if outcome is PullOutcome.WHOLE:
            self.whole += 1
            return
        if outcome is PullOutcome.NOT_FOUND:
            self.not_found += 1
        else:
            self.incomplete += 1
        if len(self.problems) < _PROBLEMS_MAX:
            self.problems.append((str(wanted), reason))


class Warmer:
    """One run at a time; a few names at once."""

    def __init__(
        self, finder: FederatedFinder, store: BringingStore, limits: LimitsConfig, clock: Clock
    ) -> None:
        """Take the finder, which is closed with this, and the store that brings blobs."""
        self._finder = finder
        self.store = store
        self._limits = limits
        self._clock = clock
        self._context = WalkContext()

    def __repr__(self) -> str:
        return f"<Warmer {self.store.brought}>"

    async def close(self) -> None:
        """Stop all questions under way."""
        await self._finder.close()

    async def run(self, wanted: Sequence[Wanted], scope: WarmScope, report: WarmReport) -> None:
        """Bring all of them, and count each in the report as soon as it is done."""
        # Lists repeat names, and two walks over one closure at once would only wait for each other.
        names = list(dict.fromkeys(wanted))
        self.store.brought = Brought()
        report.names, report.store = len(names), self.store
        batches = _batches(names)
        # On behalf of this node, not of a request. What comes is new; what is held is not used.
        with hops.serving(hops.NOWHERE), uses.counted_as(Use.LEASE):
            async with asyncio.TaskGroup() as group:
                for _ in range(_AT_ONCE):
                    group.create_task(self._work(batches, scope, report))

    async def _work(
        self, batches: Iterator[list[Wanted]], scope: WarmScope, report: WarmReport
    ) -> None:
        for batch in batches:  # shared by all workers
            try:
                await self._bring(batch, scope, report)
            except FederationError as error:  # this node's own storage, or a malformed entry
                for each in batch:
                    report.note(each, PullOutcome.INCOMPLETE, str(error))

    async def _bring(self, batch: list[Wanted], scope: WarmScope, report: WarmReport) -> None:
        blobs = {each.blob: each for each in batch if each.blob is not None}
        if blobs:
            missing = await self.store.find_missing(list(blobs))
            for digest, each in blobs.items():
                lacks = digest in missing
                outcome = PullOutcome.NOT_FOUND if lacks else PullOutcome.WHOLE
                report.note(each, outcome, "no upstream sent it" if lacks else "")
            return
        for each in batch:
            report.note(each, *await self._bring_entry(each, scope))

    async def _bring_entry(self, wanted: Wanted, scope: WarmScope) -> tuple[PullOutcome, str]:
        # Before the question: while the window is closed, upstreams are asked for nothing.
        await self.store.turn()
        found = await self._find(wanted, scope)
        if not found:
            return PullOutcome.NOT_FOUND, "neither this node nor an upstream has it whole"
        for entry in found:
            walk = Walk(self.store, self._limits, self._context)
            if not await walk.complete(partial(names_of_entry, entry)):
                return PullOutcome.INCOMPLETE, "an upstream did not send all of it"
        return PullOutcome.WHOLE, ""

    async def _find(self, wanted: Wanted, scope: WarmScope) -> list[Entry]:
        if wanted.digest is not None:
            queries = [self._about_action(wanted.digest, scope)]
        else:
            # A URI does not say what was pushed under it: a blob, a directory, or both.
            queries = [self._about_asset(kind, wanted.uri, scope) for kind in _REQUESTS]
        found = await asyncio.gather(*map(self._finder.find, queries))
        return [entry for entry in found if entry is not None]

    def _about_action(self, action: Digest, scope: WarmScope) -> EntryQuery:
        key = key_of(scope.instance, action)
        keys = keys_with_size(key, action)
        return EntryQuery(keys, self._is_current, ActionQuestion(key, action))

    def _about_asset(self, kind: type[AssetRequest], uri: str, scope: WarmScope) -> EntryQuery:
        """Raises InvalidRequest."""
        request = kind(
            uris=[uri], instance_name=scope.instance, digest_function=scope.function.name
        )
        for name, value in scope.qualifiers:
            request.qualifiers.add(name=name, value=value)
        asked = wanted_by(request)
        return EntryQuery(asked.keys, self._is_current, AssetQuestion(request, asked))

    async def _is_current(self, entry: Entry) -> bool:
        # The index returns expired entries, too, which are not to be brought.
        return entry.expires_at_s is None or entry.expires_at_s > self._clock.wall_s()


def _batches(names: Iterable[Wanted]) -> Iterator[list[Wanted]]:
    """Cut names into batches: blobs that follow each other, or one other name."""
    blobs: list[Wanted] = []
    for each in names:
        if each.blob is None:
            if blobs:
                yield blobs
                blobs = []
            yield [each]
            continue
        blobs.append(each)
        if len(blobs) == _BLOBS_AT_ONCE:
            yield blobs
            blobs = []
    if blobs:
        yield blobs
