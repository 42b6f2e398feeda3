"""Bounds on instance names: their length, and how many each caller may introduce.

A name is kept once, for as long as anything has it; without a bound one caller could make the
catalogue grow by names alone.
"""

from __future__ import annotations

from collections import OrderedDict

from federation.config.model import LimitsConfig
from federation.core.errors import LimitReached, RequestTooLarge
from federation.observability.rate_limits import LimitHits

NAME_MAX_BYTES = 255
_CALLERS_MAX = 1000  # remembered at once; the one that wrote longest ago is forgotten


def check_length(name: str) -> None:
    """Raise RequestTooLarge for a name of more than NAME_MAX_BYTES."""
    # A character has four bytes at most, so a short name need not be encoded.
    if len(name) * 4 > NAME_MAX_BYTES and len(name.encode()) > NAME_MAX_BYTES:
        raise RequestTooLarge(
            "instance.name-bytes",
            f"the instance name has {len(name.encode())} bytes; {NAME_MAX_BYTES} are allowed",
        )


class InstanceNames:
    """The instances that each caller of a listener wrote to since the start."""

    def __init__(self, limits: LimitsConfig, hits: LimitHits) -> None:
        """limits: they may change."""
        self._limits = limits
        self._hits = hits
        self._names: OrderedDict[str, set[str]] = OrderedDict()

    def __repr__(self) -> str:
        return f"<InstanceNames of {len(self._names)} callers>"

    def check_write(self, name: str, caller: str, peer: str) -> None:
        """Count a name that a caller writes to. Raises LimitReached for one too many."""
        if not name:
            return  # the empty name takes no room in the catalogue
        names = self._names.get(caller)
        if names is None:
            names = self._names[caller] = set()
            if len(self._names) > _CALLERS_MAX:
                self._names.popitem(last=False)
        if name in names:
            return
        most = self._limits.instances_per_caller
        if most and len(names) >= most:
            self._hits.hit("instances-per-caller", caller, peer, of=most)
            raise LimitReached(
                "instances-per-caller",
                f"this caller has written to {most} instances since the node was started "
                "(limits.instances-per-caller)",
            )
        # Only a name that is written to counts, so a caller that is refused one keeps its others.
        names.add(name)
        self._names.move_to_end(caller)
