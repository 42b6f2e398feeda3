"""How many bytes of unfinished uploads each caller may have in the store at once.

Such bytes take room without being readable yet, and older blobs are evicted for them. A caller that
has as many as it may waits with its younger uploads until older ones have ended; its oldest one
always goes on, whatever its size, so waiting ends. Nothing is refused for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from federation.core.errors import UploadSuperseded


@dataclass(slots=True)
class _Caller:
    """All unfinished uploads of one caller; parts: those that a stream feeds, oldest first."""

    name: str
    size_bytes: int = 0
    users: int = 0
    parts: dict[Part, None] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def wake(self) -> None:
        """Wake the waiting uploads."""
        self.changed.set()
        # A new event for those who wait from now on, so nobody has to clear it.
        self.changed = asyncio.Event()


class UnderWay:
    """The accounts of all callers of a node: never more than it has open uploads."""

    def __init__(self, most_bytes: Callable[[], int], on_wait: Callable[[str], None]) -> None:
        """Take the bound, and what is called when an upload waits.

        most_bytes: of one caller; 0: no bound. It may change.
        on_wait: called with the caller's name when one of its uploads begins to wait.
        """
        self.most_bytes = most_bytes
        self.on_wait = on_wait
        self._callers: dict[str, _Caller] = {}

    def __repr__(self) -> str:
        total = sum(caller.size_bytes for caller in self._callers.values())
        return f"<UnderWay {total} bytes of {len(self._callers)} callers>"

    def begin(self, caller: str) -> Part:
        """Open the account of one upload; close() ends it."""
        account = self._callers.get(caller)
        if account is None:
            account = self._callers[caller] = _Caller(caller)
        account.users += 1
        return Part(self, account)

    def forget(self, caller: _Caller) -> None:
        """Close the account when the caller's last upload has ended."""
        caller.users -= 1
        if not caller.users:
            del self._callers[caller.name]


class Part:
    """One upload's part of its caller's unfinished bytes."""

    def __init__(self, all_callers: UnderWay, caller: _Caller) -> None:
        self._all = all_callers
        self._caller = caller
        self._size_bytes = 0
        self._closed = False
        caller.parts[self] = None

    def __repr__(self) -> str:
        return f"<Part {self._size_bytes} of {self._caller.size_bytes} bytes>"

    async def acquire(self, size_bytes: int) -> None:
        """Count bytes that are about to be stored; wait while the caller has too many.

        Raises UploadSuperseded when the account is closed meanwhile.
        """
        waits = False
        # Looked at again each time it is woken: another may have taken what became free.
        while not self._closed and not self._may(size_bytes):
            if not waits:
                waits = True
                self._all.on_wait(self._caller.name)
            await self._caller.changed.wait()
        if self._closed:
            raise UploadSuperseded("this upload was dropped")
        # Counted before it is stored: two uploads that were let in at once count each other.
        self._size_bytes += size_bytes
        self._caller.size_bytes += size_bytes

    def pause(self) -> None:
        """No stream feeds the upload now: others need not wait for it."""
        self._caller.parts.pop(self, None)
        self._caller.wake()

    def resume(self) -> None:
        """A stream feeds it again; it counts as the youngest from now on."""
        if not self._closed:
            self._caller.parts.setdefault(self)

    def close(self) -> None:
        """Release its bytes: they are stored or dropped. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        self._caller.size_bytes -= self._size_bytes
        self.pause()
        self._all.forget(self._caller)

    def _may(self, size_bytes: int) -> bool:
        most = self._all.most_bytes()
        if not most or self._caller.size_bytes + size_bytes <= most:
            return True
        # The oldest that a stream feeds: only its progress is certain to end the others' waiting.
        return next(iter(self._caller.parts), None) is self
