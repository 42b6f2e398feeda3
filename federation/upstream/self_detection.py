"""Noticing that an upstream's address leads back to this very node, and leaving it out from then.

A request whose last hop is this node gives it away. Which upstream it is, is found by asking each
about a blob whose digest was made up for it: the one whose question arrives here is this node.
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
    """Looks once, and once more after the upstreams have changed."""

    def __init__(self, upstreams: Sequence[Upstream]) -> None:
        self._upstreams = upstreams
        self._asking: dict[Digest, Upstream] = {}
        self._looked = False
        self._background = Background()

    def __repr__(self) -> str:
        return f"<SelfDetector {'looked' if self._looked else 'not met'}>"

    def called(self) -> None:
        """A request has come whose last hop is this node."""
        if not self._looked:
            self._looked = True
            self._background.start(self._look(), "which upstream is this node")

    def look_again(self) -> None:
        """The upstreams are others now."""
        self._looked = False

    @property
    def is_looking(self) -> bool:
        """Whether a question that arrives may be one that was sent to an upstream."""
        return bool(self._asking)

    def recognise(self, digests: Collection[Digest]) -> None:
        """See whether a question that arrived here is one that was sent to an upstream."""
        if not self._asking:
            return
        for digest in digests:
            upstream = self._asking.get(digest)
            if upstream is not None:
                upstream.is_this_node = True

    async def close(self) -> None:
        """Stop looking."""
        await self._background.close()

    async def _look(self) -> None:
        with hops.serving(hops.NOWHERE):
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
        made_up = Digest(upstream.jitter.randbytes(32), 1, DigestFunction.SHA256)
        self._asking[made_up] = upstream
        try:
            await upstream.store.find_missing([made_up])
        except FederationError as error:
            _log.debug("upstream_not_asked", upstream=upstream.name, reason=str(error))
        finally:
            del self._asking[made_up]
