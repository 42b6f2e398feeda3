"""What a peer gets of all that is held, and when: its rules, its window, the way an object came.

Decisions without I/O.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from fnmatch import translate
from re import Pattern
from re import compile as compile_pattern
from typing import NamedTuple

from federation.config.peers import PeerConfig, RuleConfig
from federation.core import hops
from federation.core.digest import Digest
from federation.core.index import EntryKey, EntryKind
from federation.core.provenance import Source


class When(enum.StrEnum):
    """When an object is sent."""

    ALWAYS = "always"
    WINDOW = "window"
    MANUAL = "manual"
    NEVER = "never"


class Bounds(NamedTuple):
    """Which blobs may be sent along with an entry."""

    min_bytes: int = 0
    max_bytes: int = 0  # 0: no limit
    metadata_only: bool = False  # only directories and trees come along

    def admit(self, digest: Digest) -> bool:
        """Whether the size of a blob is within the bounds."""
        size = digest.size_bytes
        return self.min_bytes <= size and (not self.max_bytes or size <= self.max_bytes)

    def nothing(self) -> Bounds:
        """Return bounds that admit no blob."""
        # More than any size that the protocol can express.
        return self._replace(min_bytes=2**63)


class Decision(NamedTuple):
    """When an entry is sent, and with which blobs."""

    when: When
    bounds: Bounds = Bounds()


class _Rule:
    def __init__(self, rule: RuleConfig) -> None:
        self.decision = Decision(
            When(rule.when), Bounds(rule.min_size, rule.max_size, rule.closure == "metadata")
        )
        self._uri = None if rule.match == "*" else compile_pattern(translate(rule.match))
        self._instances = _patterns(rule.instances)
        self.concerns_blobs = self._uri is None and not self._instances

    def matches(self, key: EntryKey, label: str) -> bool:
        """Whether the rule applies to this entry."""
        if self._instances and not any(p.match(key.instance) for p in self._instances):
            return False
        if self._uri is None:
            return True
        return key.kind is not EntryKind.ACTION_RESULT and bool(self._uri.match(label))


def _patterns(globs: Sequence[str]) -> list[Pattern[str]]:
    return [compile_pattern(translate(glob)) for glob in globs]


class Rules:
    """The rules of one peer. Without any rule, everything is always sent.

    Blobs have neither URI nor instance, so a rule that names some concerns no blob by itself; nor
    does one that lets only directories come along with an entry. What entries need comes along.
    """

    def __init__(self, peer: PeerConfig) -> None:
        self._rules = [_Rule(rule) for rule in peer.rules or [RuleConfig()]]
        self.sends_pulled = peer.send == "all"
        self._names_there = peer.names_there

    @property
    def has_window(self) -> bool:
        """Whether anything waits for the peer's window."""
        return any(rule.decision.when is When.WINDOW for rule in self._rules)

    @property
    def sends_always(self) -> bool:
        """Whether anything is sent at all times."""
        return any(rule.decision.when is When.ALWAYS for rule in self._rules)

    def of_blob(self, digest: Digest) -> When:
        """Decide about a blob by itself. A rule does not apply to sizes outside its bounds."""
        for rule in self._rules:
            decision = rule.decision
            if not rule.concerns_blobs or not decision.bounds.admit(digest):
                continue
            # A metadata-only rule says nothing of blobs by themselves, unless it sends nothing.
            if decision.bounds.metadata_only and decision.when is not When.NEVER:
                continue
            return decision.when
        return When.NEVER

    def of_entry(self, key: EntryKey, label: str) -> Decision:
        """Decide about an action result or asset; label is its URI."""
        # This instance has no name at the peer; under another's name its entries would replace
        # those of the other.
        if self._names_there is not None and key.instance not in self._names_there:
            return Decision(When.NEVER)
        for rule in self._rules:
            if rule.matches(key, label):
                return rule.decision
        return Decision(When.NEVER)

    def takes_from(self, source: Source) -> bool:
        """Whether objects from this source are sent at all."""
        return source is not Source.UPSTREAM or self.sends_pulled


def was_there(via: Sequence[str], peer_node: str) -> bool:
    """Whether an object passed the peer on its way here.

    peer_node: the node id of the peer; empty: it is not a node of this project.
    """
    return bool(peer_node) and peer_node in via


def may_go_on(via: Sequence[str]) -> bool:
    """Whether the header has room for one more node."""
    return len(via) < hops.HOPS_MAX
