"""The contract of a role that one of all processes on a storage has at a time."""

from __future__ import annotations

from typing import Protocol


class SoleRole(Protocol):
    """One role, as one process sees it. Its methods are cheap and never block."""

    def try_to_lead(self) -> bool:
        """Take the role; False: another process has it.

        Kept until the storage is closed, until this process ends in whatever way, or until it is
        lost: where the storage is a server, a process that it has not heard from for a while is
        overtaken, and may call this again.

        Raises TooBusy, SourceUnavailable.
        """
        ...

    def holds_lead(self) -> bool:
        """Whether this process has the role, as far as it knows."""
        ...
