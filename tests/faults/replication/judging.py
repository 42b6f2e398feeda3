"""Whether a node answers for everything that was acknowledged.

`judge` asks for all of it. `Glance` does so in a run of many rounds: what came since it last looked
is read, of what is older each blob is asked for and some entries.

A miss is a loss, but for one kind: a node whose disk or machine is overloaded calls missing what it
holds while it could not keep a promise about it. It counts that, and it passes: what was missed is
asked for again until it is there. A miss that the node did not count, or that stays, is a failure.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from federation.core.clock import SystemClock
from federation.core.digest import Digest
from tests.support.oracle import Oracle
from tests.support.polling import pass_time
from tests.support.process import Node
from tests.support.process_client import Client

_WITHHELD_MAX_S = 60.0
_AGAIN_S = 0.5
_ASKED_AT_ONCE = 10_000
_OLD_ENTRIES = 50

_clock = SystemClock()


@dataclass
class Withheld:
    """What nodes could not promise at first, over a whole run."""

    misses: int = 0
    longest_s: float = 0.0


@dataclass(frozen=True)
class _Named:
    """An entry that somebody acknowledged."""

    what: str
    ask: Callable[[], object]
    wanted: object

    def is_missed(self) -> bool:
        """Ask for it. Raises AssertionError when something else is under its name."""
        got = self.ask()
        assert got is None or got == self.wanted, f"{self.what}: {self.wanted} became {got}"
        return got is None


def judge(node: Node, client: Client, oracles: Iterable[Oracle], withheld: Withheld) -> None:
    """Ask a node for everything in these journals; notes what it could not promise at first.

    Raises AssertionError: something is lost, or not what was acknowledged.
    """
    for oracle in oracles:
        _judge(node, client, list(_entries(client, oracle)), list(oracle.blobs), withheld)


class Glance:
    """Looks at many nodes again and again while the journals grow."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._blobs: dict[Oracle, int] = {}  # how many were read everywhere
        self._entries: set[str] = set()  # that were asked for everywhere

    def look(self, nodes: Mapping[Node, Client], oracles: Iterable[Oracle], told: Withheld) -> None:
        """Raise AssertionError when something is lost, or not what was acknowledged."""
        for oracle in oracles:
            blobs, seen = list(oracle.blobs), self._blobs.get(oracle, 0)
            fresh: list[_Named] = []
            for node, client in nodes.items():
                entries = list(_entries(client, oracle))
                fresh = [each for each in entries if each.what not in self._entries]
                old = [each for each in entries if each.what in self._entries]
                some = self._rng.sample(old, min(len(old), _OLD_ENTRIES))
                _judge(node, client, [*some, *fresh], blobs, told)
                oracle.verify(client, blobs=blobs[seen:], newest_entries=0).check()
            self._blobs[oracle] = len(blobs)
            self._entries |= {each.what for each in fresh}


def _judge(
    node: Node,
    client: Client,
    entries: list[_Named],
    blobs: list[Digest],
    withheld: Withheld,
) -> None:
    before = withheld_by(node)
    entries = [each for each in entries if each.is_missed()]
    blobs = _missing(client, blobs)
    if entries or blobs:
        shown = [*(each.what for each in entries), *(f"blob {digest}" for digest in blobs)]
        assert withheld_by(node) > before, f"{node!r} lacks {len(shown)}: {shown[:5]}"
        began_s = _clock.monotonic_s()
        while entries or blobs:
            taken_s = _clock.monotonic_s() - began_s
            assert taken_s < _WITHHELD_MAX_S, f"{node!r} still lacks some of {shown[:5]}"
            pass_time(_AGAIN_S)
            entries = [each for each in entries if each.is_missed()]
            blobs = _missing(client, blobs)
        withheld.misses += len(shown)
        withheld.longest_s = max(withheld.longest_s, _clock.monotonic_s() - began_s)


def withheld_by(node: Node) -> float:
    """Return for how many objects a node has not promised that they stay."""
    return node.metrics().value("federation_leases_withheld_total")


def _entries(client: Client, oracle: Oracle) -> Iterable[_Named]:
    for (_, action), result in oracle.actions.items():
        yield _Named(f"action {action}", partial(client.get_action_result, action), result)
    for (_, uri), digest in oracle.assets.items():
        yield _Named(f"asset {uri}", partial(client.fetch_blob, uri), digest)


def _missing(client: Client, digests: Sequence[Digest]) -> list[Digest]:
    missing: set[Digest] = set()
    for at in range(0, len(digests), _ASKED_AT_ONCE):
        missing |= client.find_missing(digests[at : at + _ASKED_AT_ONCE])
    return sorted(missing)
