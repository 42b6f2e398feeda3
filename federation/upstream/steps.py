"""How much of a growing blob its readers are shown, and when they are woken: in steps.

A reader that is shown every piece as it comes sends each on as a message of its own. With many
readers that keeps the node so busy that it takes the next piece late; to the upstream the node then
looks like a slow reader, so that it sends smaller pieces: forty readers of one blob took five times
as long as from a file. Steps grow with what has come, so the first bytes do not wait, and what has
come is shown after a moment however little it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from federation.core.store import CHUNK_BYTES

_SHARE = 8  # a step is at most this part of what has come
_MOMENT_S = 0.1


class Steps:
    """What readers of one blob are shown of it."""

    def __init__(self, received_bytes: Callable[[], int]) -> None:
        """received_bytes: how much has come."""
        self.shown_bytes = 0
        self._received_bytes = received_bytes
        self._changed = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<Steps {self.shown_bytes} shown>"

    async def wait(self) -> None:
        """Wait until something has changed."""
        await self._changed.wait()

    def more_came(self) -> None:
        """Show it now if it is a step, or in a moment."""
        came = self._received_bytes()
        if came - self.shown_bytes >= min(CHUNK_BYTES, came // _SHARE):
            self.show()
        else:
            self.show_soon()

    def show_soon(self) -> None:
        """Show it in a moment, unless something does before."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_MOMENT_S, self.show)

    def show(self) -> None:
        """Show all that has come, and wake everybody."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.shown_bytes = self._received_bytes()
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
