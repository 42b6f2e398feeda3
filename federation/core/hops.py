"""Which nodes a request has passed, so that loops between nodes end.

Two headers carry it: federation-via, the ids of the nodes passed, oldest first, and
federation-origin, the node where the request began. Whoever serves a request sets its hops, and
every call made on its behalf carries them on, with this node's id behind the others. Three more are
about replication alone: federation-replicates marks each call of it, federation-stamp goes with the
index entry that it dates, and federation-unused says for how many seconds no client has used what
is sent, so that a copy keeps its place in the order of eviction. Whether a caller's headers may be
believed is not decided here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

from federation.core.index import Stamp

VIA_HEADER = "federation-via"
ORIGIN_HEADER = "federation-origin"
REPLICATES_HEADER = "federation-replicates"
STAMP_HEADER = "federation-stamp"
UNUSED_HEADER = "federation-unused"
HOPS_MAX = 16
ID_MAX_CHARS = 64
TICKS_MAX = 2**63 - 1

_PREFIX = "federation-"  # of all of them
_REPLICATES = "1"
_STAMP = re.compile(rf"([1-9][0-9]{{0,18}})-([A-Za-z0-9._-]{{1,{ID_MAX_CHARS}}})")
_UNUSED = re.compile(r"0|[1-9][0-9]{0,9}")
_ID = re.compile(rf"[A-Za-z0-9._-]{{1,{ID_MAX_CHARS}}}")
# Each with a comma and a space, which some proxies put between values.
_VIA_MAX_CHARS = HOPS_MAX * (ID_MAX_CHARS + 2)


class Hops(NamedTuple):
    """The nodes that a request has passed, and whether it is part of replication."""

    via: tuple[str, ...] = ()
    origin: str | None = None
    replicates: bool = False  # whoever asks is told of what is held here alone
    stamp: Stamp | None = None  # of the index entry that the request writes
    unused_s: int = 0  # for how long no client has used what the request writes

    def passed(self, node_id: str) -> bool:
        """Whether the request was at this node before: answering from local ends the loop."""
        # The origin also: a list that was too long to be parsed is empty.
        return node_id in self.via or node_id == self.origin

    @property
    def is_at_its_end(self) -> bool:
        """Whether the request may go no further, since no header can say where else it was."""
        return len(self.via) >= HOPS_MAX

    def after(self, node_id: str) -> Hops:
        """Return the hops of a call that this node makes for the request."""
        return self._replace(via=(*self.via, node_id), origin=self.origin or node_id)


NOWHERE = Hops()


def of_replication(via: tuple[str, ...], stamp: Stamp | None = None, unused_s: float = 0.0) -> Hops:
    """Return the hops for replicating an object that reached this node through these nodes."""
    # Whole seconds, as the header has them.
    return Hops(via, via[0] if via else None, True, stamp, int(unused_s))


_current: ContextVar[Hops] = ContextVar("federation_hops", default=NOWHERE)


def parse(metadata: Iterable[tuple[str, str | bytes]]) -> Hops:
    """Read the hops from a call's metadata; headers that are malformed or too long are ignored."""
    via, origin, replicates, stamp, unused_s = NOWHERE
    found = False
    for key, value in metadata:
        # Metadata whose name ends with -bin comes as bytes, and none of these does.
        if not key.startswith(_PREFIX) or not isinstance(value, str):
            continue
        found = True
        if key == VIA_HEADER:
            via = _parse_via(value)
        elif key == ORIGIN_HEADER:
            origin = value if is_node_id(value) else None
        elif key == REPLICATES_HEADER:
            replicates = value == _REPLICATES
        elif key == STAMP_HEADER:
            stamp = _parse_stamp(value)
        elif key == UNUSED_HEADER:
            unused_s = int(value) if _UNUSED.fullmatch(value) else 0
    return Hops(via, origin, replicates, stamp, unused_s) if found else NOWHERE


def is_node_id(text: str) -> bool:
    """Whether this text is a valid node id."""
    return _ID.fullmatch(text) is not None


def _parse_via(text: str) -> tuple[str, ...]:
    if len(text) > _VIA_MAX_CHARS:
        return ()
    ids = tuple(part.strip(" ") for part in text.split(","))
    usable = len(ids) <= HOPS_MAX and all(_ID.fullmatch(each) for each in ids)
    # Ignored as a whole: a part of a list would claim that the request passed no other node.
    return ids if usable else ()


def _parse_stamp(text: str) -> Stamp | None:
    found = _STAMP.fullmatch(text)
    if found is None or int(found[1]) > TICKS_MAX:
        return None
    return Stamp(int(found[1]), found[2])


def headers(hops: Hops) -> list[tuple[str, str]]:
    """Return the metadata for these hops; parse is the inverse."""
    found = []
    if hops.via:
        found.append((VIA_HEADER, ",".join(hops.via)))
    if hops.origin is not None:
        found.append((ORIGIN_HEADER, hops.origin))
    if hops.replicates:
        found.append((REPLICATES_HEADER, _REPLICATES))
    if hops.stamp is not None:
        found.append((STAMP_HEADER, f"{hops.stamp.ticks}-{hops.stamp.node}"))
    if hops.unused_s:
        found.append((UNUSED_HEADER, str(hops.unused_s)))
    return found


def current() -> Hops:
    """Return the hops of the request that is being served, or empty ones."""
    return _current.get()


@contextmanager
def serving(hops: Hops) -> Iterator[None]:
    """Set the hops for all calls made inside, including those of tasks started there."""
    token = _current.set(hops)
    try:
        yield
    finally:
        _current.reset(token)
