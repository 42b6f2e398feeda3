"""Probes whether an upstream that is down has come back, so that no client waits for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from federation.core.clock import Clock
from federation.core.digest import digest_of
from federation.core.errors import SourceUnavailable
from federation.core.tasks import Background, FailingWork
from federation.upstream.upstream import Upstream

_POLL_S = 0.25
_BLOB = digest_of(b"federation: are you there?")
_URI = "urn:federation:are-you-there"


class Prober:
    """Probes each upstream when its breaker says that it is time."""

    def __init__(
        self,
        upstreams: Sequence[Upstream],
        clock: Clock,
        may_probe: Callable[[], bool],
        failing: FailingWork | None = None,
    ) -> None:
        self._upstreams = upstreams
        self._clock = clock
        self._may_probe = may_probe
        self._failing = failing or FailingWork()
        self._background = Background()

    def start(self) -> None:
        """Begin to probe; close() ends it."""
        self._background.keep(self._watch, "upstream-probes", self._clock, self._failing)

    async def close(self) -> None:
        """Stop probing."""
        await self._background.close()

    async def _watch(self) -> None:
        while True:
            await self._clock.sleep(_POLL_S)
            # Offline means that no byte leaves on this node's own account.
            if not self._may_probe():
                continue
            for upstream in self._upstreams:
                # As a task of its own: an upstream that hangs must not delay the probes of others.
                if upstream.breaker.probe_due(self._clock.monotonic_s()):
                    self._background.start(self._probe(upstream), f"probe {upstream.name}")

    async def _probe(self, upstream: Upstream) -> None:
        """Ask for something that no server has: any answer shows that it is alive."""
        try:
            if upstream.serves_blobs:
                # A question about one digest leases nothing, since nobody has such a blob.
                await upstream.store.find_missing([_BLOB])
            elif upstream.index is not None:
                await upstream.index.fetch_blob([_URI])
        except SourceUnavailable as error:
            upstream.note(error)
        except Exception as error:  # noqa: BLE001 - without an outcome there would be no more probes
            upstream.note(SourceUnavailable(upstream.name, f"{type(error).__name__}: {error}"))
        else:
            upstream.note(None)
