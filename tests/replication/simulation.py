"""Many nodes in one process, in virtual time, over links that are cut, slow, and repeat themselves.

    python -m tests.replication.simulation --seeds 1000 [--first 0] [--topology mesh3]

Replication itself is the real thing; what is simulated is the storage under it (memory_ledger.py)
and the wire between nodes. One seed gives one history, always the same.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
from collections import Counter, defaultdict
from collections.abc import Collection, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import structlog

from federation.closure.names import names_of_entry
from federation.config.peers import PeerConfig
from federation.core.digest import Digest, DigestFunction, digest_of
from federation.core.errors import FederationError
from federation.core.index import Entry, EntryKey, EntryKind
from federation.core.pins import Pin
from federation.core.provenance import Provenance, Source
from federation.core.purges import Purge, Purgeable
from federation.remote.failures import FailureKind, failure
from federation.replication.assembly import make_session, walking
from federation.replication.peer_api import Identity, ObjectHistory, OpenAt, Theirs
from federation.replication.peer_records import PeerRecordCache
from federation.replication.send_memory import SendMemory
from federation.replication.session import PeerSession
from federation.replication.throttle import LoopThrottle
from federation.replication.worker import Replicator
from federation.wire.node_identity import LogPosition
from tests.replication.graph import reached
from tests.replication.here import LIMITS, asset_of, result_of
from tests.replication.virtual_time import VirtualClock, run
from tests.support.memory_ledger import MemoryLedger, MemoryStorage
from tests.support.memory_purges import MemoryPurges

Edges = Sequence[tuple[int, int]]
TOPOLOGIES: dict[str, Edges] = {
    "one-way": [(0, 1)],
    "pair": [(0, 1), (1, 0)],
    "chain": [(0, 1), (1, 2), (2, 3)],
    "ring3": [(0, 1), (1, 2), (2, 0)],
    "mesh3": [(a, b) for a in range(3) for b in range(3) if a != b],
    "mesh5": [(a, b) for a in range(5) for b in range(5) if a != b],
}
_CONVERGES_WITHIN_S = 8_000.0
_QUIET_S = 200.0


@dataclass
class Faults:
    """How often what goes wrong; all 0: nothing does."""

    cuts: int = 0
    crashes: int = 0
    wipes: int = 0
    trims: int = 0
    lost_answers: float = 0.0  # of calls: done, but never heard of
    repeats: float = 0.0  # of calls: done twice
    astray: float = 0.0  # of calls: a proxy answers them, with UNIMPLEMENTED
    skew_s: float = 0.0
    delay_s: float = 0.01
    purges: int = 0


CALM = Faults()
ROUGH = Faults(
    cuts=6,
    crashes=3,
    lost_answers=0.05,
    repeats=0.05,
    astray=0.02,
    skew_s=3600.0,
    delay_s=0.5,
    purges=6,
)
WORST = Faults(
    cuts=6,
    crashes=4,
    wipes=1,
    trims=2,
    lost_answers=0.1,
    repeats=0.1,
    astray=0.05,
    skew_s=200_000,
    delay_s=2.0,
    purges=8,
)


class Wire:
    """The way from one node to another."""

    def __init__(self, here: Node, there: Node, faults: Faults, rng: random.Random) -> None:
        self.here = here
        self.there = there
        self.is_cut = False
        self.crossed: Counter[object] = Counter()  # how often each object did
        self._faults = faults
        self._rng = rng

    async def call(self, work: Any) -> Any:
        """Do something over there, or fail, or both."""
        await asyncio.sleep(self._rng.uniform(0, self._faults.delay_s))
        self._check()
        if self._rng.random() < self._faults.astray:
            raise failure(self.there.name, FailureKind.UNSUPPORTED, "a proxy's 404")
        result = work()
        if self._rng.random() < self._faults.repeats:
            work()
        await asyncio.sleep(self._rng.uniform(0, self._faults.delay_s))
        self._check()
        if self._rng.random() < self._faults.lost_answers:
            raise failure(self.there.name, FailureKind.TIMEOUT, "the answer was lost")
        return result

    def _check(self) -> None:
        if self.is_cut or not self.there.is_up:
            raise failure(self.there.name, FailureKind.UNAVAILABLE, "no way there")


class SimulatedPeer:
    """replication.target.Target over a Wire."""

    batch_bytes = 4_000

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self.identity = Identity()

    async def _call(self, work: Any) -> Any:
        try:
            return await self._wire.call(work)
        finally:
            if not self._wire.is_cut and self._wire.there.is_up:
                storage = self._wire.there.storage
                self.identity = Identity(storage.node_id, LogPosition("epoch", storage.head))

    def _provenance(self, history: ObjectHistory) -> Provenance:
        here = self._wire.here.storage.node_id
        return Provenance(Source.PEER, (*history.via, here), self._wire.here.name, history.unused_s)

    def hashes_with(self, function: DigestFunction) -> bool:
        return True

    def lacks(self, kind: EntryKind) -> bool:
        return False

    async def greet(self) -> None:
        await self._call(lambda: None)

    async def meet(self) -> None:
        try:
            await self._call(lambda: None)
        except FederationError:
            return

    async def find_missing(self, digests: Collection[Digest]) -> set[Digest]:
        held = self._wire.there

        def missing() -> set[Digest]:
            blobs, purges = held.storage.blobs, held.storage.purges
            return {d for d in digests if d not in blobs and not purges.has(d)}

        found: set[Digest] = await self._call(missing)
        return found

    async def find_absent(self, digests: Collection[Digest]) -> set[Digest]:
        return await self.find_missing(digests)

    async def write_small(
        self, blobs: Sequence[tuple[Digest, bytes]], history: ObjectHistory
    ) -> list[FederationError | None]:
        def work() -> None:
            for digest, data in blobs:
                self._wire.crossed[digest] += 1
                self._wire.there.storage.take(digest, data, self._provenance(history))

        await self._call(work)
        return [None] * len(blobs)

    async def send(
        self, digest: Digest, open_at: OpenAt, history: ObjectHistory, *, goes_on: bool = False
    ) -> None:
        async with open_at(0) as chunks:
            data = b"".join([chunk async for chunk in chunks])
        await self.write_small([(digest, data)], history)

    async def push(self, entry: Entry, history: ObjectHistory, node_id: str) -> None:
        def work() -> None:
            if node_id and self._wire.there.storage.node_id != node_id:
                raise failure(self._wire.there.name, FailureKind.UNAVAILABLE, "another node")
            self._wire.crossed[entry.key, entry.value] += 1
            self._wire.there.check_closed(entry, self._wire.here.storage)
            self._wire.there.storage.put_one(entry, self._provenance(history))

        await self._call(work)

    async def tell_purges(self, purges: Sequence[Purge]) -> None:
        await self._call(lambda: [self._wire.there.storage.purges.apply_one(p) for p in purges])

    async def tell_pins(self, pins: Sequence[Pin]) -> None:
        await self._wire.there.storage.pins.apply(pins)

    async def compare(self, entry: Entry) -> Theirs:
        theirs = await self._call(lambda: self._wire.there.storage.entries.get(entry.key))
        if theirs is None:
            return Theirs.NOTHING
        return Theirs.SAME if theirs.value == entry.value else Theirs.OTHER

    async def close(self) -> None:
        return None


class Node:
    """A storage, and the worker of the process that runs on it at the moment."""

    def __init__(self, number: int, faults: Faults, rng: random.Random) -> None:
        self.number = number
        self.name = f"n{number}"
        self.clock = VirtualClock(rng.uniform(-faults.skew_s, faults.skew_s))
        self.generation = 0
        self.storage = MemoryStorage(f"{self.name}.0", self.clock)
        self.wires: dict[str, Wire] = {}
        self.is_up = False
        self.dangling: list[str] = []
        self._rng = rng
        self._ledger: MemoryLedger | None = None
        self.worker: Replicator | None = None

    def start(self) -> None:
        self.is_up = True
        self._ledger = ledger = MemoryLedger(self.storage)
        walk, throttle, memory = walking(LIMITS), LoopThrottle(), SendMemory()

        def link(peer: PeerConfig, records: PeerRecordCache) -> PeerSession:
            target = SimulatedPeer(self.wires[peer.name])
            parts = self.storage, ledger, walk, self.clock, self._rng, throttle, memory
            return make_session(peer, records, target, *parts)

        self.worker = Replicator(ledger, link, self.clock)
        self.worker.start(
            [
                PeerConfig(name=name, url="http://127.0.0.1:1", check_every=600.0)
                for name in self.wires
            ]
        )

    async def crash(self) -> None:
        """End the process: nothing is saved any more."""
        assert self.worker is not None
        assert self._ledger is not None
        self.is_up = False
        await self.worker._background.close()  # not close(): that one saves
        self._ledger.close()
        self.worker = None

    async def stop(self) -> None:
        assert self.worker is not None
        assert self._ledger is not None
        await self.worker.close()
        self._ledger.close()
        self.is_up = False

    def wipe(self) -> None:
        """Lose the data directory."""
        self.generation += 1
        self.storage = MemoryStorage(f"{self.name}.{self.generation}", self.clock)

    def check_closed(self, entry: Entry, sender: MemoryStorage) -> None:
        """Note an entry that came before what it names."""
        for names in names_of_entry(entry):
            self.dangling += [
                f"{entry.label} before {digest}"
                for digest in names.blobs
                if digest not in self.storage.blobs
                and not digest.is_empty
                # A blob that was purged is not sent; the entry is hidden at both.
                and digest not in {*sender.purges.records, *self.storage.purges.records}
            ]

    @property
    def lag(self) -> dict[str, Any]:
        if self.worker is None:
            return {"down": True}
        return {each["name"]: each for each in self.worker.describe()["peers"]}

    @property
    def is_settled(self) -> bool:
        """Whether its peers have all it can give."""
        shown = self.lag
        return not shown.get("down") and all(
            (each := shown.get(name)) is not None
            and each["state"] == "following"
            and each["lag-objects"] == 0
            and each["purges-told"]
            for name in self.wires
        )


@dataclass
class History:
    """What happened in one run."""

    seed: int
    events: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    objects: int = 0
    crossings: int = 0
    took_s: float = 0.0  # virtual

    def check(self) -> History:
        assert not self.problems, f"seed {self.seed}:\n" + "\n".join(
            [*self.events, *self.problems[:20]]
        )
        return self


class Simulation:
    def __init__(self, seed: int, edges: Edges, faults: Faults, pushes: int) -> None:
        self.history = History(seed)
        self._rng = random.Random(seed)
        self._faults = faults = replace(faults)
        self._pushes = pushes
        count = 1 + max(max(edge) for edge in edges)
        self.nodes = [Node(number, faults, self._rng) for number in range(count)]
        self.wires = [Wire(self.nodes[a], self.nodes[b], faults, self._rng) for a, b in edges]
        for wire in self.wires:
            wire.here.wires[wire.there.name] = wire
        self._writers = sorted({a for a, _ in edges})
        self._serial = 0
        self._pushed: dict[Purgeable, bytes | Entry] = {}
        self._purged_at: defaultdict[Purgeable, set[str]] = defaultdict(set)
        self._again: dict[Purgeable, tuple[Node, str]] = {}  # where, and the id it had

    async def run(self) -> History:
        for node in self.nodes:
            node.start()
        await self._act()
        await self._heal()
        await self._converge()
        for node in self.nodes:
            await node.stop()
        self.history.took_s = asyncio.get_running_loop().time()
        self.history.crossings = sum(wire.crossed.total() for wire in self.wires)
        return self.history

    def _note(self, event: str) -> None:
        self.history.events.append(f"{asyncio.get_running_loop().time():9.3f} {event}")

    # What happens

    async def _act(self) -> None:
        faults = self._faults
        acts: list[Any] = [self._push] * self._pushes
        acts += [self._cut] * faults.cuts + [self._crash] * faults.crashes
        acts += [self._wipe] * faults.wipes + [self._trim] * faults.trims
        acts += [self._purge] * faults.purges
        self._rng.shuffle(acts)
        async with asyncio.TaskGroup() as group:
            for act in acts:
                work: Coroutine[Any, Any, None] = act()
                group.create_task(work)
                await asyncio.sleep(self._rng.expovariate(2.0))

    async def _push(self) -> None:
        rng = self._rng
        up = [self.nodes[at] for at in self._writers if self.nodes[at].is_up]
        if not up:
            return
        node = rng.choice(up)
        blobs = []
        for _ in range(rng.randrange(1, 5)):
            self._serial += 1
            blobs.append(b"%d " % self._serial * rng.randrange(1, 100))
        held = [digest_of(data) for data in blobs]
        self._pushed.update(zip(held, blobs, strict=True))
        entry = None
        if rng.random() < 0.7:
            name = rng.randrange(4)  # few, so that they are written over
            if rng.random() < 0.5:
                entry = result_of(digest_of(b"action %d" % name), *held)
            else:
                entry = asset_of(f"urn:name:{name}", held[0], *held[1:])
        if entry is not None:
            self._pushed[entry.key] = entry
        self._note(f"{node.name} gets {len(blobs)} blobs, {entry.label if entry else ''}")
        if entry is not None and rng.random() < 0.2:
            node.storage.put_one(entry)
            await asyncio.sleep(rng.uniform(0, 1.0))
            entry = None
        for digest, data in zip(held, blobs, strict=True):
            node.storage.take(digest, data)
        if entry is not None:
            node.storage.put_one(entry)
        self.history.objects += len(blobs)

    async def _cut(self) -> None:
        wire = self._rng.choice(self.wires)
        self._note(f"{wire.here.name}->{wire.there.name} is cut")
        wire.is_cut = True
        await asyncio.sleep(self._rng.uniform(0.1, 20))
        wire.is_cut = False

    async def _crash(self) -> None:
        node = self._rng.choice(self.nodes)
        if node.worker is None:
            return
        self._note(f"{node.name} crashes")
        await node.crash()
        await asyncio.sleep(self._rng.uniform(0, 10))
        node.start()

    async def _wipe(self) -> None:
        node = self._rng.choice(self.nodes)
        if node.worker is None:
            return
        self._note(f"{node.name} loses its data directory")
        await node.crash()
        node.wipe()
        await asyncio.sleep(self._rng.uniform(0, 5))
        node.start()

    async def _purge(self) -> None:
        """Purge something, held or not, and perhaps push it again."""
        rng = self._rng
        up = [self.nodes[at] for at in self._writers if self.nodes[at].is_up]
        things = sorted(self._pushed, key=str)
        if not up or not things:
            return
        thing, node = rng.choice(things), rng.choice(up)
        self._note(f"{node.name} purges {thing}")
        node.storage.purges.purge_one(thing)
        self._purged_at[thing].add(node.storage.node_id)
        self._again.pop(thing, None)
        await asyncio.sleep(rng.uniform(0, 5.0))
        if rng.random() < 0.5 and node.is_up:
            self._note(f"{node.name} gets {thing} again")
            self._push_again(node, thing)

    def _push_again(self, node: Node, thing: Purgeable) -> None:
        pushed = self._pushed[thing]
        self._again[thing] = node, node.storage.node_id
        if isinstance(thing, Digest):
            assert isinstance(pushed, bytes)
            node.storage.take(thing, pushed)
        else:
            assert isinstance(pushed, Entry)
            for names in names_of_entry(pushed):
                for digest in names.blobs:
                    self._push_again(node, digest)
            node.storage.put_one(pushed)

    async def _trim(self) -> None:
        node = self._rng.choice(self.nodes)
        upto = self._rng.randrange(node.storage.head + 1)
        self._note(f"the log of {node.name} is trimmed up to {upto}")
        node.storage.trim(upto)

    # What must come of it

    async def _heal(self) -> None:
        self._faults.astray = 0.0  # what was parked for it is tried again ever more rarely
        for wire in self.wires:
            wire.is_cut = False
        for node in self.nodes:
            if node.worker is None:
                node.start()

    async def _converge(self) -> None:
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + _CONVERGES_WITHIN_S
        while not self._is_settled():
            if loop.time() > deadline_s:
                self.history.problems += [f"not settled: {n.name} {n.lag}" for n in self.nodes]
                return
            await asyncio.sleep(5)
        heads = [node.storage.head for node in self.nodes]
        await asyncio.sleep(_QUIET_S)
        if heads != [node.storage.head for node in self.nodes]:
            self.history.problems.append("objects still go round")
        self._compare()

    def _is_settled(self) -> bool:
        return all(node.is_settled and not node.storage.parked for node in self.nodes)

    def _compare(self) -> None:
        for wire in self.wires:
            a, b = wire.here.storage, wire.there.storage
            where = f"{wire.here.name}->{wire.there.name}"
            problems = self.history.problems
            problems += _untold(where, a.purges, b.purges)
            purged = {d for d in a.blobs if b.purges.has(d)}  # there; it may not come back to us
            lost = [str(digest) for digest in a.blobs if digest not in {*b.blobs, *purged}]
            problems += [f"{where} lacks {each}" for each in lost]
            for key, entry in a.entries.items():
                other = b.entries.get(key)
                if other is None and not (b.purges.has(key) or _is_hidden(entry, a)):
                    problems.append(f"{where} lacks {entry.label}")
                elif other is None:
                    continue
                elif (other.value, other.stamp) != (entry.value, entry.stamp) and (
                    other.stamp <= entry.stamp or _both_ways(self.wires, wire)
                ):
                    problems.append(f"{where} differs in {entry.label}")
            if self._faults == CALM:
                problems += [
                    f"{where} was crossed {times} times by {each}"
                    for each, times in wire.crossed.items()
                    if times > 1
                ]
        for node in self.nodes:
            self.history.problems += [f"{node.name}: {each}" for each in node.dangling]
            self.history.problems += _come_back(node)
        self.history.problems += self._not_held_again()

    def _not_held_again(self) -> list[str]:
        """Return what is not where it was pushed after it had been purged there, and only there."""
        return [
            f"{node.name} lacks {thing}, which was pushed after it was purged"
            for thing, (node, node_id) in self._again.items()
            if self._purged_at[thing] <= {node_id}
            and node.storage.node_id == node_id  # else it has lost its directory
            and thing not in node.storage.blobs
            and thing not in node.storage.entries
        ]


def _untold(where: str, here: MemoryPurges, there: MemoryPurges) -> list[str]:
    """Return the records that the node at the other end of a wire does not have, nor later ones."""
    return [
        f"{where} was not told of {purge}"
        for thing, (_, purge) in here.records.items()
        if thing not in there.records or there.records[thing][1].stamp < purge.stamp
    ]


def _come_back(node: Node) -> list[str]:
    """Return what a node holds although it was purged and nobody has pushed it since."""
    storage = node.storage
    back = [
        thing
        for thing, (_, purge) in storage.purges.records.items()
        if (isinstance(thing, Digest) and thing in storage.blobs and not purge.is_allowed)
        or (
            isinstance(thing, EntryKey)
            and thing in storage.entries
            and storage.entries[thing].stamp < purge.stamp
        )
    ]
    return [f"{node.name} holds {thing}, which was purged" for thing in back]


def _is_hidden(entry: Entry, storage: MemoryStorage) -> bool:
    """Whether an entry needs a blob that was purged."""
    named = [digest for names in names_of_entry(entry) for digest in names.blobs]
    return any(storage.purges.has(digest) for digest in named)


def _both_ways(wires: Sequence[Wire], wire: Wire) -> bool:
    """Whether what the other has comes back, over however many nodes."""
    edges = [(each.here.name, each.there.name) for each in wires]
    return wire.here.name in reached(wire.there.name, edges)


def simulate(seed: int, topology: str, faults: Faults, pushes: int = 15) -> History:
    """Run one history to its end."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    try:
        return run(Simulation(seed, TOPOLOGIES[topology], faults, pushes).run())
    finally:
        structlog.configure(**before)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--topology", choices=TOPOLOGIES, action="append")
    parser.add_argument("--faults", choices=["calm", "rough", "worst"], action="append")
    args = parser.parse_args()
    levels = {"calm": CALM, "rough": ROUGH, "worst": WORST}
    failed = 0
    for seed in range(args.first, args.first + args.seeds):
        for topology in args.topology or TOPOLOGIES:
            for level in args.faults or levels:
                history = simulate(seed, topology, levels[level])
                if history.problems:
                    failed += 1
                    shown = "\n  ".join(history.problems[:3])
                    sys.stdout.write(f"seed {seed} {topology} {level}:\n  {shown}\n")
                    sys.stdout.flush()
    sys.stdout.write(f"{failed} histories failed\n")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
