"""Remembers what requests were decoded to: clients that build the same send the same bytes.

What a request means never changes, so nothing here becomes stale.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

REMEMBERED_MAX_BYTES = 128 * 1024  # a longer request is not remembered, as it has many places
_ITEM_BYTES = 500  # what a short request takes beside its own bytes

_T = TypeVar("_T")


class RememberedRequests(Generic[_T]):
    """The requests that were used last, within a number of bytes. Used from the event loop only."""

    def __init__(
        self,
        decode: Callable[[bytes], _T],
        room_bytes: int,
        is_small: Callable[[_T], bool] = lambda _: True,
    ) -> None:
        """decode: what it raises is passed on, and not remembered.

        room_bytes: for requests; what they were decoded to may take several times as much.
        is_small: whether it takes no more than that; otherwise the request is not remembered.
        """
        self._decode = decode
        self._room_bytes = room_bytes
        self._is_small = is_small
        self._decoded: OrderedDict[bytes, _T] = OrderedDict()  # last used: at the end
        self._size_bytes = 0

    def __repr__(self) -> str:
        return f"<RememberedRequests {len(self._decoded)}, {self._size_bytes} bytes>"

    def decoded(self, request: bytes) -> _T:
        """Return the same object as last time, if the request is remembered."""
        decoded = self._decoded
        if request in decoded:
            decoded.move_to_end(request)
            return decoded[request]
        new = self._decode(request)
        if len(request) <= REMEMBERED_MAX_BYTES and self._is_small(new):
            decoded[request] = new
            self._size_bytes += len(request) + _ITEM_BYTES
            while self._size_bytes > self._room_bytes:
                self._size_bytes -= len(decoded.popitem(last=False)[0]) + _ITEM_BYTES
        return new
