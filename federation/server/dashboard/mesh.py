"""The mesh as this node sees it, as places in a drawing: upstreams, this node, peers. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from federation.server.status.attention import FINE_UPSTREAMS
from federation.server.status.facts import upstream_state
from federation.server.status.formats import counted, rounded
from federation.server.status.peer_facts import FINE_PEERS

WIDTH = 720
_ROW = 84
_SHOWN_MAX = 12  # on each side


class DrawnNode(NamedTuple):
    """Another node: where it is drawn, how it is, and what goes over the link."""

    name: str
    state: str
    link: str
    good: bool
    y: float


class MeshDrawing(NamedTuple):
    """The drawing; y: of this node."""

    height: int
    y: float
    upstreams: list[DrawnNode]
    peers: list[DrawnNode]
    left_out: int


def mesh(
    upstreams: Sequence[Mapping[str, Any]],
    peers: Sequence[Mapping[str, Any]],
    day: Mapping[str, Any],
) -> MeshDrawing:
    """Return where everything is drawn. day: the statistics of the last day."""
    received = {each["name"]: each for each in day["upstreams"]}
    sent = {each["name"]: each for each in day["peers"]}
    rows = max(1, min(_SHOWN_MAX, max(len(upstreams), len(peers))))
    height = rows * _ROW
    left = [
        (
            each["name"],
            upstream_state(each),
            _pulled(received.get(each["name"])),
            each["state"] in FINE_UPSTREAMS,
        )
        for each in upstreams[:_SHOWN_MAX]
    ]
    right = [
        (
            each["name"],
            each["state"],
            _pushed(each, sent.get(each["name"])),
            each["state"] in FINE_PEERS,
        )
        for each in peers[:_SHOWN_MAX]
    ]
    left_out = max(0, len(upstreams) - _SHOWN_MAX) + max(0, len(peers) - _SHOWN_MAX)
    return MeshDrawing(height, height / 2, _placed(left, height), _placed(right, height), left_out)


def _placed(nodes: Sequence[tuple[str, str, str, bool]], height: int) -> list[DrawnNode]:
    step = height / max(1, len(nodes))
    return [DrawnNode(*node, round((at + 0.5) * step, 1)) for at, node in enumerate(nodes)]


def _pulled(day: Mapping[str, Any] | None) -> str:
    return f"{rounded(day['received-bytes'])} today" if day else "nothing today"


def _pushed(peer: Mapping[str, Any], day: Mapping[str, Any] | None) -> str:
    sent = f"{rounded(day['sent-bytes'])} today" if day else "nothing today"
    behind = peer.get("lag-objects")
    return f"{sent}, {counted(behind, 'object', 'objects')} behind" if behind else sent
