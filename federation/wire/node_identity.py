"""What a node tells its peers about itself: its id, and the end of its change log.

Two headers of the answer to GetCapabilities carry it. From them a sender notices that a peer is
itself, that another data directory answers under its address, or that one was put back from a
backup and so holds less than it has acknowledged.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from federation.core.hops import is_node_id

NODE_HEADER = "federation-node"
LOG_HEADER = "federation-log"

_LOG = re.compile(r"([A-Za-z0-9_-]{1,64})\.([0-9]{1,19})")


class LogPosition(NamedTuple):
    """The end of a change log: seq counts within an epoch, and a log begun anew has another."""

    epoch: str
    seq: int

    def __str__(self) -> str:
        return f"{self.epoch}.{self.seq}"


class NodeIdentity(NamedTuple):
    """The node that answered; empty for other servers, and where this node is not a known peer."""

    node_id: str = ""
    log: LogPosition | None = None


UNKNOWN = NodeIdentity()


def parse(metadata: Iterable[tuple[str, str | bytes]]) -> NodeIdentity:
    """Read an answer's headers; malformed or too long ones are ignored."""
    node_id, log = UNKNOWN
    for key, value in metadata:
        # Binary headers (-bin) come as bytes, and none of these is one.
        if not isinstance(value, str):
            continue
        if key == NODE_HEADER and is_node_id(value):
            node_id = value
        elif key == LOG_HEADER:
            log = parse_log(value)
    return NodeIdentity(node_id, log)


def parse_log(text: str) -> LogPosition | None:
    """Read a position as str() writes it; None if it is malformed."""
    found = _LOG.fullmatch(text)
    return LogPosition(found[1], int(found[2])) if found is not None else None


def headers(announced: NodeIdentity) -> list[tuple[str, str]]:
    """Return the metadata for this identity; parse is the inverse."""
    # A header without a value would be malformed for the receiver.
    found = [(NODE_HEADER, announced.node_id)] if announced.node_id else []
    if announced.log is not None:
        found.append((LOG_HEADER, str(announced.log)))
    return found
