"""How many bytes of objects all peers together may hold here while they are sent.

A peer may hold as much as is still free: one that is frozen takes half of all, two leave a third to
the others, and none is left without. A peer that holds nothing is let in with an object of any
size, so that the largest one can be sent; so beyond the bound there is at most one object a peer.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import NamedTuple

from federation.core.admission import Admission

ENTRIES_BYTES = 32 * 2**20
CALLS_BYTES = 64 * 2**20


class PeerMemory(NamedTuple):
    """The part of one peer."""

    admission: Admission
    peer: str

    def hold(self, size_bytes: int) -> AbstractAsyncContextManager[None]:
        """Hold so many bytes within, after those of this peer that asked before: see Admission."""
        return self.admission.hold(self.peer, size_bytes)


class SendMemory:
    """Shared by all peers: what entries take while their closures are sent, and what calls carry.

    There are two bounds, since an entry waits for the calls that send what it names.
    """

    def __init__(self, entries_bytes: int = ENTRIES_BYTES, calls_bytes: int = CALLS_BYTES) -> None:
        self.entries = Admission(lambda: entries_bytes, first_is_free=True)
        self.calls = Admission(lambda: calls_bytes, first_is_free=True)

    def __repr__(self) -> str:
        return f"<SendMemory entries {self.entries!r}, calls {self.calls!r}>"

    def of_calls(self, peer: str) -> PeerMemory:
        """Return a peer's part of what calls carry."""
        return PeerMemory(self.calls, peer)

    def of_entries(self, peer: str) -> PeerMemory:
        """Return a peer's part of what entries take."""
        return PeerMemory(self.entries, peer)
