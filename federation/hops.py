"""Which nodes a request has passed, so that requests between nodes of ours end.

Two headers carry it: federation-via, the ids of the nodes passed, oldest first, and
federation-origin, the node where the request began. Whoever serves a request sets its hops, and
every call made on its behalf carries them on, with this node's id behind the others. Whether a
caller's headers may be believed is not decided here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

VIA_HEADER = "federation-via"
ORIGIN_HEADER = "federation-origin"
HOPS_MAX = 16
ID_MAX_CHARS = 64

_ID = re.compile(rf"[A-Za-z0-9._-]{{1,{ID_MAX_CHARS}}}")
_VIA_MAX_CHARS = HOPS_MAX * (ID_MAX_CHARS + 2)


class Hops(NamedTuple):
    """Where a request has been."""

    via: tuple[str, ...] = ()
    origin: str | None = None

    def passed(self, node_id: str) -> bool:
        """Whether the request was at this node before: answering from local ends the loop."""
        return node_id in self.via or node_id == self.origin

    @property
    def is_at_its_end(self) -> bool:
        """Whether the request may go no further, since no header can say where else it was."""
        return len(self.via) >= HOPS_MAX

    def after(self, node_id: str) -> Hops:
        """Return the hops of a call that this node makes for the request."""
        return Hops((*self.via, node_id), self.origin or node_id)


NOWHERE = Hops()
_current: ContextVar[Hops] = ContextVar("federation_hops", default=NOWHERE)


def parse(metadata: Iterable[tuple[str, str | bytes]]) -> Hops:
    """Read the hops from a call's metadata; headers that are malformed or too long are ignored."""
    via, origin = NOWHERE
    for key, value in metadata:
        if not isinstance(value, str):
            continue
        if key == VIA_HEADER:
            via = _parse_via(value)
        elif key == ORIGIN_HEADER:
            origin = value if _ID.fullmatch(value) else None
    return Hops(via, origin)


def _parse_via(text: str) -> tuple[str, ...]:
    if len(text) > _VIA_MAX_CHARS:
        return ()
    ids = tuple(part.strip(" ") for part in text.split(","))
    usable = len(ids) <= HOPS_MAX and all(_ID.fullmatch(each) for each in ids)
    return ids if usable else ()


def headers(hops: Hops) -> list[tuple[str, str]]:
    """Return the metadata that parse reads back."""
    found = []
    if hops.via:
        found.append((VIA_HEADER, ",".join(hops.via)))
    if hops.origin is not None:
        found.append((ORIGIN_HEADER, hops.origin))
    return found


def current() -> Hops:
    """Return the hops of the request being served; none outside of one."""
    return _current.get()


@contextmanager
def serving(hops: Hops) -> Iterator[None]:
    """Set the hops for what is called within, tasks started there included."""
    token = _current.set(hops)
    try:
        yield
    finally:
        _current.reset(token)
