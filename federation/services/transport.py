"""One call on the wire, as what every call passes through sees it: no protocol's own types.

A protocol that is served makes a Transport for each call, and runs it through services/pipeline.py
in a task of its own. It cancels that task when the caller leaves or its deadline passes, and has
sent the answer by the time the task ends.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol, runtime_checkable

from federation.access.incoming_call import IncomingCall
from federation.core.store import FilePart
from federation.services.status_codes import CallStatus


class CallEnded(Exception):
    """The call is over on the wire: its caller left, or the connection broke."""


class Transport(IncomingCall, Protocol):
    """One call."""

    def next_size(self) -> int | None:
        """Return how many bytes the next message has; None: that is not known yet."""
        ...

    def came_bytes(self) -> int:
        """Return how much has come of a message whose size is known."""
        ...

    def is_ready(self) -> bool:
        """Whether read() would return, or raise, without waiting. False: or it is not known."""
        ...

    def is_ended(self) -> bool:
        """Whether all messages are read, so that read() would return None. False: or not known."""
        ...

    async def read(self) -> bytes | None:
        """Return the next message; None after the last one.

        Raises CallEnded, and RequestTooLarge for a message that the method does not take.

        The caller never cancels it: it ends by itself when the call does.
        """
        ...

    async def write(self, message: bytes, rest: bytes = b"") -> None:
        """Send a message, or its beginning and the rest, so that nobody has to join large parts.

        Returns when the next one may be sent. Raises CallEnded.
        """
        ...

    async def send_headers(self, headers: Sequence[tuple[str, str]]) -> None:
        """Send these headers before the first message of the answer."""
        ...

    async def abort(self, status: CallStatus) -> None:
        """End the call with this status, from outside of its task. Never raises."""
        ...


@runtime_checkable
class SendsFiles(Protocol):
    """What a transport may do besides: send parts of files that never get to this process."""

    async def send_file(self, part: FilePart) -> None:
        """Send a part of a file; returns when the next message may be sent. Raises CallEnded."""
        ...


class Connections(Protocol):
    """The connections that calls come by, each known by PeerAddress.text. Blocks: for threads."""

    def received_from(self, peers: Collection[str]) -> Mapping[str, int]:
        """Return how many bytes each has brought since it began; those that are gone are absent."""
        ...

    def break_off(self, peer: str) -> None:
        """Reset a connection, so that nothing is held of its calls any more."""
        ...
