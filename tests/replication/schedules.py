"""Thousands of short histories of nodes a few seconds: fake clock, fake links, real decisions.

    python -m tests.replication.schedules --seeds 20000 [--first 0] [--topology mesh3] [--events]

One seed and topology give one schedule, always the same; what fails is printed with both. Unlike
simulation.py, which runs whole workers, this drives only what decides (cursor, rules, batching,
backoff, blame, stamps, hops), without an event loop, and so some fifty times as fast.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

from federation.core.digest import Digest
from federation.core.index import Entry, EntryKey, EntryKind
from federation.core.provenance import Provenance, Source
from federation.remote.failures import FailureKind
from federation.storage.catalogue.hlc import DRIFT_S
from federation.storage.upkeep.dates_ahead import STEADY_S
from tests.replication.schedule_followers import Sender
from tests.replication.schedule_judge import EVERYTHING, KEPT, RULE_SETS, Given, Road, check_values
from tests.replication.schedule_nodes import WALL_S, Node
from tests.replication.schedule_world import Endless, Life, Line, Wire, World
from tests.replication.simulation import TOPOLOGIES

_DAY_S = 86400.0
_FROM_UPSTREAM = Provenance(Source.UPSTREAM, origin="hq")
_REFUSALS = (
    FailureKind.DENIED,
    FailureKind.INTERNAL,
    FailureKind.EXHAUSTED,
    FailureKind.REFUSED,
)
_WHOLE_REFUSALS = (FailureKind.DENIED, FailureKind.EXHAUSTED, FailureKind.INTERNAL)


@dataclass
class Schedule:
    """One history: build it, run() it, check() it."""

    seed: int
    topology: str
    problems: list[str] = field(default_factory=list)
    transfers: int = 0  # of objects over links
    objects: int = 0

    def __post_init__(self) -> None:
        edges = TOPOLOGIES[self.topology]
        self.world = world = World(self.seed)
        self.rng = rng = world.rng
        self.is_calm = rng.random() < 0.25
        self.given = Given()
        skew_s = 0.0 if rng.random() < 0.3 else rng.choice((60.0, 3 * _DAY_S))
        self._step_s = min(skew_s, 60.0) if rng.random() < 0.5 else 3 * _DAY_S
        widest_s = max(skew_s, self._step_s)
        count = 1 + max(max(edge) for edge in edges)
        self.nodes = []
        for number in range(count):
            batch_bytes = rng.choice((2**17, 2**22))
            node = Node(world, number, rng.uniform(-skew_s, skew_s), batch_bytes)
            node.names = self.given.needs
            node.drift_s = DRIFT_S if widest_s <= DRIFT_S / 4 else 4 * widest_s
            self.nodes.append(node)
        self.roads = [self._road(self.nodes[a], self.nodes[b]) for a, b in edges]
        self._writers = [self.nodes[a] for a in sorted({a for a, _ in edges})]
        self._serial = 0

    def _road(self, here: Node, there: Node) -> Road:
        rng = self.rng
        line = Line(rng.choice((0.001, 0.02, 0.3)))
        if not self.is_calm:
            line.bytes_per_s, line.object_s = rng.choice(
                ((1e8, 0.0), (1e8, 0.0), (3e3, 0.0), (1e7, 0.5))
            )
            line.lost, line.repeated, line.late = (rng.choice((0.0, 0.05, 0.2)) for _ in range(3))
        rule_set = rng.choice(RULE_SETS) if rng.random() < 0.35 else EVERYTHING
        begin = rng.randrange(24 * 60)
        window = (begin, (begin + rng.randrange(30, 600)) % (24 * 60))
        wire = Wire(self.world, f"{here.name}->{there.name}", line, lambda: there.life)
        return Road(self.world, self.given, here, there, wire, rule_set, window)

    def run(self) -> Schedule:
        """Let it happen."""
        for node in self.nodes:
            self._start(node)
        self._plan()
        try:
            self.world.run()
        except Endless:
            self.world.wrong(f"no rest after {self.world.steps} steps")
        else:
            self._judge()
        self.problems = self.world.problems
        self.objects = len(self.given.blobs) + sum(map(len, self.given.values.values()))
        self.transfers = sum(road.crossed.total() for road in self.roads)
        return self

    def check(self) -> Schedule:
        """Raise AssertionError with all that is needed to look into what is wrong."""
        assert not self.problems, str(self)
        return self

    def __str__(self) -> str:
        again = f"--first {self.seed} --seeds 1 --topology {self.topology}"
        head = f"seed {self.seed} {self.topology} (python -m tests.replication.schedules {again})"
        return "\n".join([head, *self.world.events, *self.problems[:20]])

    def _judge(self) -> None:
        for road in self.roads:
            road.check_end(calm=self.is_calm)
        for node in self.nodes:
            if node.parked:
                self.world.wrong(f"{node.name} still has parked {list(node.parked)[:3]}")
        check_values(self.world, self.given, self.roads, self.nodes)

    # What happens

    def _plan(self) -> None:
        rng = self.rng
        acts: list[Callable[[], None]] = [self._push] * rng.randrange(3, 9 - len(self.nodes))
        if rng.random() < 0.1:
            acts.append(self._push_many)
        if not self.is_calm:
            for act in (
                self._cut,
                self._crash,
                self._refuse,
                self._refuse_all,
                self._step_clock,
                self._jolt_clock,
            ):
                acts += [act] * rng.randrange(3)
        rng.shuffle(acts)
        at_s = 0.0
        for act in acts:
            self.world.after(at_s, act)
            at_s += rng.expovariate(1.0)
        self.world.after(at_s + 5.0, self._heal)

    def _start(self, node: Node) -> None:
        node.life = Life()
        width = self.rng.choice((3, 10, 1000))
        node.senders = [Sender(self.world, road, width) for road in self.roads if road.here is node]

    def _blob(self) -> Digest:
        self._serial += 1
        rng = self.rng
        bits = rng.uniform(22, 28) if rng.random() < 0.1 else rng.uniform(4, 20)
        digest = Digest(self._serial.to_bytes(32, "big"), int(2**bits))
        self.given.blobs.add(digest)
        return digest

    def _push(self) -> None:
        rng = self.rng
        node = rng.choice(self._writers)
        if node.life.is_over:
            return
        blobs = [self._blob() for _ in range(rng.randrange(1, 4))]
        if rng.random() < 0.3 and node.blobs:
            blobs.append(rng.choice(list(node.blobs)))
        if rng.random() < 0.1:
            self._pull(node, blobs)
            return
        if rng.random() < 0.3:
            self._take(node, blobs)
            return
        entry = self._entry(blobs)
        names_first = rng.random() < 0.3
        self.world.note(
            f"{node.name} gets {entry.label} {'before' if names_first else 'after'} blobs"
        )
        if names_first:
            self._put(node, entry)
            self.world.after(rng.uniform(0, 6.0), self._take, node, self.given.needs[entry.value])
        else:
            self._take(node, self.given.needs[entry.value])
            self._put(node, entry)

    def _push_many(self) -> None:
        node = self.rng.choice(self._writers)
        if not node.life.is_over:
            self._take(node, [self._blob() for _ in range(40)])

    def _take(self, node: Node, blobs: list[Digest] | tuple[Digest, ...]) -> None:
        if node.life.is_over:  # its client tries again
            self.world.after(1.0, self._take, node, blobs)
            return
        self.world.note(f"{node.name} gets {len(blobs)} blobs")
        for digest in blobs:
            node.take(digest)

    def _entry(self, blobs: list[Digest]) -> Entry:
        """A value for one of few names: a new one, or at times one that was given before."""
        name = self.rng.randrange(4)
        label = f"{KEPT if name % 2 else 'urn:other:'}{name}"
        key = EntryKey(EntryKind.ASSET_BLOB, "", label.encode())
        before = self.given.values.get(key)
        if before and self.rng.random() < 0.25:
            return Entry(key, self.rng.choice(before)[1], label)
        return self._new_entry(key, label, blobs)

    def _new_entry(self, key: EntryKey, label: str, blobs: list[Digest]) -> Entry:
        self._serial += 1
        value = b"value %d" % self._serial
        self.given.needs[value] = tuple(dict.fromkeys(blobs))
        for digest in blobs:
            self.given.labels[digest].add(label)
        return Entry(key, value, label)

    def _put(self, node: Node, entry: Entry) -> None:
        if node.life.is_over:
            self.world.after(1.0, self._put, node, entry)
            return
        stamp = node.put(entry)
        if stamp is None and node.entries[entry.key][1].value != entry.value:
            self.world.wrong(f"{node.name} let fall what a client gave: {entry.label}")
        # What a wrong clock dated counts from when it is dated anew.
        if stamp is not None and not node.is_wrongly_dated(stamp):
            self.given.values[entry.key].append((stamp, entry.value, node.name))

    def _pull(self, node: Node, blobs: list[Digest]) -> None:
        """An upstream gives something; of some of it, a client does, too."""
        label = f"urn:pulled:{self._serial}"
        self.world.note(f"{node.name} pulls {label} and {len(blobs)} blobs")
        for digest in blobs:
            node.take(digest, _FROM_UPSTREAM)
        key = EntryKey(EntryKind.ASSET_BLOB, "", label.encode())
        node.put(self._new_entry(key, label, blobs), _FROM_UPSTREAM)
        later_s = self.rng.uniform(0, 3.0)
        if self.rng.random() < 0.5:
            self.world.after(later_s, self._take, node, blobs[:1])
        if self.rng.random() < 0.3:
            self.world.after(later_s, self._put, node, self._new_entry(key, label, blobs))

    # What goes wrong

    def _cut(self) -> None:
        road = self.rng.choice(self.roads)
        self.world.note(f"{road} is cut")
        road.wire.is_cut = True
        self.world.after(self.rng.uniform(0.1, 20), setattr, road.wire, "is_cut", False)

    def _crash(self) -> None:
        node = self.rng.choice(self.nodes)
        if node.life.is_over:
            return
        self.world.note(f"{node.name} crashes")
        node.crash()
        for road in self.roads:
            road.crashes += road.here is node
        self.world.after(self.rng.uniform(0, 10), self._start, node)

    def _refuse(self) -> None:
        """A node will not have a few objects, until all is healed."""
        node = self.rng.choice(self.nodes)
        kind = self.rng.choice(_REFUSALS)
        things: list[Digest | EntryKey] = [*self.given.blobs, *self.given.values]
        self.world.note(f"{node.name} refuses some objects: {kind}")
        for thing in self.rng.sample(sorted(things, key=repr), min(3, len(things))):
            node.refuses[thing] = kind

    def _refuse_all(self) -> None:
        node = self.rng.choice(self.nodes)
        node.refuses_all = self.rng.choice(_WHOLE_REFUSALS)
        self.world.note(f"{node.name} refuses everything: {node.refuses_all}")
        self.world.after(self.rng.uniform(0.1, 20), setattr, node, "refuses_all", None)

    def _step_clock(self) -> None:
        node = self.rng.choice(self.nodes)
        node.skew_s = self.rng.uniform(-self._step_s, self._step_s)
        self.world.note(f"{node.name} has its clock set to {WALL_S + node.skew_s:.0f}")

    def _jolt_clock(self) -> None:
        """Let a clock be quite wrong for a moment."""
        node = self.rng.choice(self.nodes)
        if not node.jolt_s:
            node.jolt_s = self.rng.choice((-1, 1, 1)) * self.rng.choice((1, 40)) * 2 * node.drift_s
            self.world.note(f"{node.name} has its clock wrong by {node.jolt_s:.0f} s")
            self.world.after(self.rng.uniform(0.1, 20), self._right_clock, node)

    def _right_clock(self, node: Node) -> None:
        self.world.note(f"{node.name} has its clock put right")
        node.jolt_s = 0.0
        self.world.after(STEADY_S, self._redate, node)

    def _redate(self, node: Node) -> None:
        if node.jolt_s:
            return  # it is wrong again; it is looked at when that is over
        if node.life.is_over:
            self.world.after(1.0, self._redate, node)
            return
        for entry in node.redate():
            self.world.note(f"{node.name} dates {entry.label} anew")
            self.given.values[entry.key].append((entry.stamp, entry.value, node.name))

    def _heal(self) -> None:
        self.world.note("all heals")
        for road in self.roads:
            road.wire.heal()
        for node in self.nodes:
            node.refuses.clear()
            node.refuses_all = None


def main() -> int:
    """Run many; print those that fail."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--topology", choices=TOPOLOGIES, action="append")
    parser.add_argument("--events", action="store_true", help="print what happened, too")
    args = parser.parse_args()
    failed = 0
    for seed in range(args.first, args.first + args.seeds):
        for topology in args.topology or TOPOLOGIES:
            schedule = Schedule(seed, topology).run()
            if schedule.problems or args.events:
                failed += bool(schedule.problems)
                shown = (
                    str(schedule)
                    if args.events
                    else "\n  ".join([f"seed {seed} {topology}:", *schedule.problems[:3]])
                )
                sys.stdout.write(f"{shown}\n")
    sys.stdout.write(f"{failed} schedules failed\n")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
