"""What must be true of a schedule: at each step, and once all has healed and nothing moves.

Nothing here asks the machines that are judged: what the rules leave out is said a second time, in
plain functions, and which value of a name must win is found from what was given where.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from federation.config.peers import PeerConfig
from federation.core.digest import Digest
from federation.core.index import PULLED_TICKS, Entry, EntryKey, Stamp
from federation.core.provenance import Source
from federation.core.replication_log import Lane, LogRow
from federation.remote.failures import FailureKind, RemoteFailed
from federation.replication.batch_size import BATCHES_MAX
from federation.replication.outcomes import SendOutcome
from federation.replication.rules import Rules
from tests.replication.graph import reached
from tests.replication.schedule_nodes import Headers, Node, Way
from tests.replication.schedule_world import Wire, World

BIG_BYTES = 2**20
KEPT = "urn:kept:"


class RuleSet:
    """A peer's configuration, and the same in other words: when what is sent."""

    def __init__(
        self,
        keys: dict[str, Any],
        blob: Callable[[Digest], str] = lambda _: "always",
        name: Callable[[str], str] = lambda _: "always",
        along: Callable[[Digest], bool] = lambda _: True,
    ) -> None:
        """along: whether a blob comes along with an entry."""
        self.peer = PeerConfig.model_validate(
            {"name": "there", "url": "http://127.0.0.1:1", **keys}
        )
        self.rules = Rules(self.peer)
        self.blob = blob
        self.name = name
        self.along = along
        self.sends_pulled = keys.get("send") == "all"
        self.is_newest_first = keys.get("order") == "newest"


EVERYTHING = RuleSet({})
RULE_SETS = [
    RuleSet({"order": "newest"}),
    RuleSet({"send": "all"}),
    RuleSet(
        {"rules": [{"max_size": BIG_BYTES}]},
        blob=lambda digest: "always" if digest.size_bytes <= BIG_BYTES else "never",
        along=lambda digest: digest.size_bytes <= BIG_BYTES,
    ),
    RuleSet(
        {"rules": [{"match": KEPT + "*"}]},
        blob=lambda _: "never",
        name=lambda label: "always" if label.startswith(KEPT) else "never",
    ),
    RuleSet(
        {"rules": [{"match": KEPT + "*", "when": "manual"}, {}]},
        name=lambda label: "manual" if label.startswith(KEPT) else "always",
    ),
    RuleSet(
        {"rules": [{"match": KEPT + "*"}, {"when": "window"}]},
        blob=lambda _: "window",
        name=lambda label: "always" if label.startswith(KEPT) else "window",
    ),
]
_GO = ("always", "window")


@dataclass
class Given:
    """What clients and upstreams gave to all nodes together."""

    needs: dict[bytes, tuple[Digest, ...]] = field(default_factory=dict)  # by value
    labels: dict[Digest, set[str]] = field(default_factory=lambda: defaultdict(set))  # that need it
    values: dict[EntryKey, list[tuple[Stamp, bytes, str]]] = field(
        default_factory=lambda: defaultdict(list)
    )  # as clients gave them: with the node
    blobs: set[Digest] = field(default_factory=set)


@dataclass
class Road:
    """One direction between two nodes, over all their lives; checks whatever goes over it."""

    world: World
    given: Given
    here: Node
    there: Node
    wire: Wire
    rule_set: RuleSet
    window: tuple[int, int]  # minutes of the local day
    crashes: int = 0
    crossed: Counter[object] = field(default_factory=Counter)
    refused: dict[object, tuple[int, float]] = field(default_factory=dict)  # how often, since when

    def __str__(self) -> str:
        return f"{self.here.name}->{self.there.name}"

    @property
    def rules(self) -> Rules:
        """What decides."""
        return self.rule_set.rules

    def wrong(self, problem: str) -> None:
        """Write down what must not be."""
        self.world.wrong(f"{self}: {problem}")

    # What is sent

    def cross(
        self, digests: Sequence[Digest], headers: Headers, way: Way
    ) -> list[RemoteFailed | None]:
        """Carry blobs over."""
        total_bytes = sum(digest.size_bytes for digest in digests)
        if len(digests) > 1 and total_bytes > self.there.batch_bytes:
            self.wrong(f"a batch of {total_bytes} bytes")
        for digest in digests:
            if not self._may_cross(digest):
                self.wrong(f"blob {_short(digest)} is left out by a rule, and was sent")
        refused = self.there.receive_blobs(headers, digests, way)
        for digest, why in zip(digests, refused, strict=True):
            self._count(digest, digest, why)
        return refused

    def push(self, entry: Entry, headers: Headers, way: Way) -> RemoteFailed | None:
        """Carry an entry over."""
        if self.rule_set.name(entry.label) not in _GO:
            self.wrong(f"{entry.label} is left out by a rule, and was sent")
        if entry.source is Source.UPSTREAM and not self.rule_set.sends_pulled:
            self.wrong(f"{entry.label} was pulled, and was sent")
        if self.there.name in way:
            self.wrong(f"{entry.label} goes back to where it came from, by {way}")
        refused = self.there.receive_entry(headers, entry, way)
        self._count((entry.key, entry.stamp), entry.key, refused)
        return refused

    def _count(self, thing: object, name: object, refused: RemoteFailed | None) -> None:
        """Count what was taken; and see that what is refused is not sent all the time."""
        if refused is None:
            self.crossed[thing] += 1
            return
        now_s = self.world.now_s
        times, since_s = self.refused.get(name, (0, now_s))
        self.refused[name] = (times + 1, since_s)
        if times > 30 + 2 * (now_s - since_s):
            self.wrong(f"{name} was refused {times} times")

    def _may_cross(self, digest: Digest) -> bool:
        pulled = self.here.blobs[digest] is Source.UPSTREAM
        rules = self.rule_set
        if rules.blob(digest) in _GO and (rules.sends_pulled or not pulled):
            return True
        return rules.along(digest) and any(rules.name(n) in _GO for n in self.given.labels[digest])

    def check_batch(self, batch: Sequence[Digest], bytes_max: int, items_max: int) -> None:
        """Check what was cut against what was learnt so far."""
        total_bytes = sum(digest.size_bytes for digest in batch)
        if len(batch) > 1 and (total_bytes > bytes_max or len(batch) > items_max):
            self.wrong(f"{len(batch)} blobs in a batch, {total_bytes} bytes")

    def check_refused(
        self,
        batch: Sequence[Digest],
        results: Sequence[RemoteFailed | None],
        ended: Sequence[tuple[Digest, SendOutcome]],
    ) -> None:
        """Check that what is refused for good holds up nothing."""
        ends = {digest for digest, _ in ended}
        for digest, why in zip(batch, results, strict=True):
            if why is not None and why.kind is FailureKind.REFUSED and digest not in ends:
                self.wrong(f"blob {_short(digest)} is refused for good, and not set aside")

    def check_slots(self, batches: int) -> None:
        """Check how many are under way."""
        if batches > BATCHES_MAX:
            self.wrong(f"{batches} batches at once")

    def check_window(self) -> None:
        """Check that what waits for the window begins within it."""
        begin, end = self.window
        local = datetime.fromtimestamp(self.here.wall_s)
        minute = local.hour * 60 + local.minute
        if not (begin <= minute < end if begin < end else minute >= begin or minute < end):
            self.wrong(f"sends in the window at minute {minute}, not in {begin}-{end}")

    def check_parked(self, label: str, reason: str) -> None:
        """Check that nothing is set aside because the peer was silent."""
        if "no way there" in reason or "no answer" in reason:
            self.wrong(f"{label} was parked: {reason}")

    # The cursor

    def check_cursor(self, lane: Lane, first: int, last: int) -> None:
        """Check that the cursor of a lane may pass these rows."""
        if last > self.here.head:
            self.wrong(f"the cursor {lane} passed the log's end at {self.here.head}")
        for row in self.here.rows(first, last):
            if not self._is_done(lane, row):
                self.wrong(f"the cursor {lane} passed row {row.seq}, which is not delivered")

    def _is_done(self, lane: Lane, row: LogRow) -> bool:
        there = self.there
        thing: Any = row.digest or row.key
        if (
            there.name in self.here.facts[row.seq - 1].way
            or (there.name, thing) in self.here.parked
        ):
            return True
        if row.source is Source.UPSTREAM and not self.rule_set.sends_pulled:
            return True
        if row.digest is not None:
            return row.digest in there.blobs or self.rule_set.blob(row.digest) != lane
        now_seq, entry = self.here.entries[thing]
        if now_seq > row.seq or self.rule_set.name(entry.label) != lane:
            return True
        _, held = there.entries.get(thing, (0, None))
        if held is not None and entry.stamp.ticks <= PULLED_TICKS and held.value == entry.value:
            return True  # it pulled the same itself, or this is its own that has come round
        return (held is not None and held.stamp >= entry.stamp) or not self.takes_all(entry)

    def takes_all(self, entry: Entry) -> bool:
        """Whether no rule leaves out a blob that an entry needs.

        Else it comes only if the peer happens to have that blob when it is asked.
        """
        return all(map(self.rule_set.along, self.given.needs[entry.value]))

    # The end

    def check_end(self, *, calm: bool) -> None:
        """Check that all that is to be there is there."""
        here, there, rules = self.here, self.there, self.rule_set
        for digest, source in here.blobs.items():
            is_sent = rules.sends_pulled or source is not Source.UPSTREAM
            if is_sent and rules.blob(digest) in _GO and digest not in there.blobs:
                self.wrong(f"blob {_short(digest)} never came")
        for key, (_, entry) in here.entries.items():
            pulled = entry.source is Source.UPSTREAM
            if key not in self.given.values and entry.stamp.ticks > 1:
                self.wrong(f"{entry.label} was pulled, and got {entry.stamp}")
            if rules.name(entry.label) not in _GO or (pulled and not rules.sends_pulled):
                continue
            held = there.entries.get(key)
            is_there = held and (held[1].stamp >= entry.stamp or held[1].value == entry.value)
            if self.takes_all(entry) and not is_there:
                self.wrong(f"{entry.label} of {entry.stamp} never came")
        excuses = 0 if calm else self.wire.failed + self.wire.repeated + self.crashes
        for thing, times in self.crossed.items():
            if times > 1 + excuses:
                self.wrong(f"crossed {times} times by {thing}")
        for lane in (Lane.ALWAYS, Lane.WINDOW) if rules.rules.has_window else (Lane.ALWAYS,):
            if here.cursors.get((there.name, lane), 0) != here.head:
                self.wrong(f"the cursor {lane} stays behind {here.head}: {here.cursors}")


def check_values(world: World, given: Given, roads: Sequence[Road], nodes: Iterable[Node]) -> None:
    """Check that every node has the newest value of each name among those that can come to it."""
    by_name = {node.name: node for node in nodes}
    for key, values in given.values.items():
        label = next(n.entries[key][1].label for n in by_name.values() if key in n.entries)
        open_roads = [road for road in roads if road.rule_set.name(label) in _GO]
        needs = {digest for _, value, _ in values for digest in given.needs[value]}
        if not all(road.rule_set.along(digest) for road in open_roads for digest in needs):
            continue  # which values come where depends on who was first
        back = [(road.there.name, road.here.name) for road in open_roads]
        for node in by_name.values():
            sources = reached(node.name, back)
            newest = max((each[:2] for each in values if each[2] in sources), default=None)
            _, held = node.entries.get(key, (0, None))
            if (held and (held.stamp, held.value)) != newest:
                world.wrong(f"{node.name} has {held}, not {newest}")


def _short(digest: Digest) -> str:
    return f"{int.from_bytes(digest.hash, 'big')}/{digest.size_bytes}"
