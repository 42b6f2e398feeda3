"""Remembers that blobs were all held at one time, and whether that is still certain.

A look-up that found all of them leased them, too. Until the lease ends eviction cannot take any of
them. What else could is visible at once: the epoch moves when a blob is set aside or deleted by any
process, and the kernel reports each file that vanishes (FileWatch). So while neither number has
moved and the lease lasts, the blobs are held, and they can be leased anew without a look-up.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from federation.core import uses
from federation.core.digest import Digest
from federation.core.uses import Use
from federation.storage.catalogue.blobs import keys_of
from federation.storage.context import StorageContext

_NEVER_MS = -(2**62)


class StoredWatch:
    """See federation.core.store.HeldWatch. Make it before the look-up that it covers."""

    __slots__ = ("_core", "_epoch", "_files", "_is_certain", "_leased_ms", "_used_ms")

    def __init__(self, core: StorageContext) -> None:
        self._core = core
        # These numbers are read before the look-up: a change during it must not go unnoticed.
        self._epoch = core.epoch.value
        self._files = core.files.changes()
        self._is_certain = core.files.is_on
        use, now_ms = uses.current(), core.now_ms()
        # A look-up may leave times alone that are younger than the granularity; Timing allows for
        # that.
        self._used_ms = now_ms if use is Use.CLIENT else _NEVER_MS
        self._leased_ms = now_ms if use is not Use.PEEK else _NEVER_MS

    def __repr__(self) -> str:
        return f"<StoredWatch since epoch {self._epoch}>"

    def renew(self, digests: Callable[[], Collection[Digest]] | None) -> bool:
        """See federation.core.store.HeldWatch."""
        core = self._core
        if self._epoch != core.epoch.value or core.directory.volume.trouble:
            return False
        if self._is_certain:
            if self._files != core.files.changes():
                return False
        # Without reports each closure is looked up, except one that is too large to be remembered:
        # see decisions, "A closure that was whole is remembered".
        elif digests is not None:
            return False
        # While leases wait to be written, only a look-up tells which of them are old.
        now_ms = core.now_ms()
        if now_ms - self._leased_ms > core.timing.lease_ms or core.is_behind():
            return False
        return self._lease(digests, now_ms)

    def _lease(self, digests: Callable[[], Collection[Digest]] | None, now_ms: int) -> bool:
        """Renew what the current use renews, if its time is getting old; False: it cannot be."""
        core, use = self._core, uses.current()
        renewed_ms = self._used_ms if use is Use.CLIENT else self._leased_ms
        if use is Use.PEEK or now_ms - renewed_ms <= core.timing.granularity_ms:
            return True
        # They were not remembered, so there is nothing to write a use or lease for.
        if digests is None:
            return False
        core.lease(keys_of(digests()), now_ms, use)
        self._leased_ms = now_ms
        if use is Use.CLIENT:
            self._used_ms = now_ms
        return True
