"""Detects an upstream whose address leads back to this very node, so that it is not asked.

A request whose last hop is this node shows that there is one. To find out which, the node asks each
upstream about a random digest of its own: the one whose question arrives here is this node.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import structlog

from federation.core import hops
from federation.core.digest import Digest, DigestFunction
from federation.core.errors import FederationError
from federation.core.tasks import Background
from federation.upstream.upstream import Upstream

_log = structlog.get_logger(__name__)


class SelfDetector:
    """Searches once, and once more after each change of the upstreams."""

    def __init__(self, upstreams: Sequence[Upstream]) -> None:
        self._upstreams = upstreams
        self._asking: dict[Digest, Upstream] = {}
        self._searched = False
        self._background = Background()

    def __repr__(self) -> str:
        return f"<SelfDetector {'searched' if self._searched else 'idle'}>"

    def on_own_request(self) -> None:
        """Search for the upstream: a request has arrived whose last hop is this node."""
        if not self._searched:
            # Set before the search: the requests that it causes must not begin another one.
            self._searched = True
            self._background.start(self._search(), "which upstream is this node")

    def reset(self) -> None:
        """Allow another search: the upstreams have changed."""
        self._searched = False

    @property
    def is_searching(self) -> bool:
        """Whether a question that arrives may be one that this node sent to an upstream."""
        return bool(self._asking)

    def recognise(self, digests: Collection[Digest]) -> None:
        """Mark an upstream as this node if these digests include the one made up for it."""
        if not self._asking:
            return
        for digest in digests:
            upstream = self._asking.get(digest)
            if upstream is not None:
                upstream.is_this_node = True

    async def close(self) -> None:
        """Stop searching."""
        await self._background.close()

    async def _search(self) -> None:
        # Without hops: with this node among them, the question would look like one in a loop.
        with hops.serving(hops.NOWHERE):
            # A copy, as a reload may change the list while one of them is asked.
            for upstream in list(self._upstreams):
                await self._ask(upstream)
        found = [upstream.name for upstream in self._upstreams if upstream.is_this_node]
        _log.error(
            "upstream_is_this_node",
            upstreams=found,
            hint="its url leads back to this node; take it out of the configuration. If its data "
            "directory is a copy of this one, stop it and run `federation new-id` there"
            if found
            else "the url of an upstream leads back to another process of this node",
        )

    async def _ask(self, upstream: Upstream) -> None:
        # Nobody else asks for it: if this node is asked for it, the upstream leads back to it.
        made_up = Digest(upstream.jitter.randbytes(32), 1, DigestFunction.SHA256)
        self._asking[made_up] = upstream
        try:
            await upstream.store.find_missing([made_up])
        except FederationError as error:
            _log.debug("upstream_not_asked", upstream=upstream.name, reason=str(error))
        finally:
            del self._asking[made_up]
