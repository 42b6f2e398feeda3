"""Which blobs upstreams have: asked in parallel within a time budget, remembered for a while."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence

from federation.core.digest import Digest
from federation.core.errors import SourceUnavailable
from federation.core.tasks import Background
from federation.upstream.upstream import Upstream


class UpstreamPresence:
    """find_missing over upstreams, for callers that may only read. budget_s: time for one call."""

    def __init__(self, upstreams: Sequence[Upstream], budget_s: float) -> None:
        self._upstreams = upstreams
        self.budget_s = budget_s
        self._background = Background()

    async def find_missing(
        self, digests: Collection[Digest], only: Upstream | None = None
    ) -> set[Digest]:
        """Return the blobs that no healthy upstream reports present; unknown counts as missing.

        only: ask no other upstream. Never raises.
        """
        missing = set(digests)
        asking = []
        for upstream in [only] if only is not None else self._upstreams:
            # Unknown counts as missing: the client uploads or builds, and waits for no dead link.
            if not upstream.serves_blobs or not upstream.is_up:
                continue
            answers = {digest: upstream.says_it_has(digest) for digest in digests}
            missing -= {digest for digest, present in answers.items() if present}
            if unknown := [digest for digest, present in answers.items() if present is None]:
                asking.append((upstream, unknown))
        tasks = [
            self._background.start(self._ask(upstream, unknown), f"find missing {upstream.name}")
            for upstream, unknown in asking
            # Another upstream's remembered answer may have settled all of them.
            if missing.intersection(unknown)
        ]
        if tasks:
            # Late answers are remembered for the next time.
            done, _ = await asyncio.wait(tasks, timeout=self.budget_s)
            for task in done:
                missing -= task.result()
        return missing

    async def close(self) -> None:
        """Stop asking."""
        await self._background.close()

    async def _ask(self, upstream: Upstream, digests: list[Digest]) -> set[Digest]:
        try:
            absent = await upstream.store.find_missing(digests)
        except SourceUnavailable as error:
            upstream.note(error)
            return set()
        present = set(digests) - absent
        upstream.note(None, present)
        upstream.note_absent(absent)
        # Not simply present: what it reported before and did not send is not believed for a while.
        return {digest for digest in present if upstream.says_it_has(digest)}
