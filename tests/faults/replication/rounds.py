"""Kill nodes, cut links and freeze both under continuous writes, and lose nothing anywhere.

    python -m tests.faults.replication.rounds --rounds 100 [--seed N] [--nodes 3]

Every node of a full mesh is written to all the time, under names of its own and under names that
all of them write. A round breaks one thing for up to a second and mends it. Every JUDGED_EVERY
rounds and at the end the writers pause, and then all nodes must come to hold the same: every blob
and entry that any of them acknowledged, with the bytes that its digest names, and one value under
each name that several wrote.
"""

from __future__ import annotations

import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import click
import grpc

from federation.core.clock import SystemClock
from federation.core.digest import digest_of
from tests.faults.replication.judging import Withheld, judge
from tests.faults.replication.link import Mode
from tests.faults.replication.mesh import Mesh, full, wrong_bytes_in
from tests.faults.storage.load import Load
from tests.support.oracle import Oracle

JUDGED_EVERY = 10
BROKEN_MAX_S = 1.0
SHARED_NAMES = 20
_LARGE_BYTES = 2**20

_clock = SystemClock()


@dataclass
class Result:
    """What a run did."""

    seed: int
    rounds: int = 0
    broken: dict[str, int] = field(default_factory=dict)
    blobs: int = 0
    entries: int = 0
    shared_writes: int = 0
    converged_s: list[float] = field(default_factory=list)
    withheld: Withheld = field(default_factory=Withheld)

    def summary(self) -> dict[str, object]:
        """The facts to print."""
        return {
            "seed": self.seed,
            "rounds": self.rounds,
            **{f"rounds of {name}": count for name, count in sorted(self.broken.items())},
            "blobs acknowledged": self.blobs,
            "entries acknowledged": self.entries,
            "writes of shared names": self.shared_writes,
            "longest way to the same contents (s)": round(max(self.converged_s, default=0), 2),
            "held, but not promised when first asked for": self.withheld.misses,
            "longest time until it was (s)": round(self.withheld.longest_s, 2),
            "lost, wrong or different": 0,
        }


class _Shared:
    """Writes a few names at one node that others write as well."""

    def __init__(self, mesh: Mesh, name: str, seed: str) -> None:
        self._mesh = mesh
        self._name = name
        self._rng = random.Random(seed)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self.writes = 0

    def __enter__(self) -> _Shared:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)

    def _work(self) -> None:
        with self._mesh.client(self._name) as client:
            while not self._stop.is_set():
                data = self._rng.randbytes(100)
                try:
                    client.batch_update([data])
                    uri = f"urn:example:shared:{self._rng.randrange(SHARED_NAMES)}"
                    client.push_blob(uri, digest_of(data))
                except grpc.RpcError:
                    return  # its node was killed
                self.writes += 1
                time.sleep(0.01)


class Rounds:
    """One run in one folder."""

    def __init__(self, folder: Path, seed: int, nodes: int) -> None:
        self._rng = random.Random(seed)
        self._names = [chr(ord("a") + number) for number in range(nodes)]
        self._folder = folder
        self._oracles: dict[str, Oracle] = {}
        self.result = Result(seed)

    def run(self, rounds: int, tell: Callable[[Result], None]) -> Result:
        """Raises AssertionError, with the seed in it, at the first difference that stays."""
        try:
            with Mesh(self._folder, full(self._names)) as mesh:
                self._oracles = {
                    name: Oracle(self._folder / f"{name}.jsonl") for name in self._names
                }
                mesh.start()
                while self.result.rounds < rounds:
                    self._some_rounds(mesh, min(JUDGED_EVERY, rounds - self.result.rounds), tell)
                    self._judge(mesh)
        except AssertionError as error:
            seed, done = self.result.seed, self.result.rounds
            raise AssertionError(f"seed {seed}, after round {done}: {error}") from error
        finally:
            for oracle in self._oracles.values():
                oracle.__exit__()
        return self.result

    def _some_rounds(self, mesh: Mesh, count: int, tell: Callable[[Result], None]) -> None:
        for _ in range(count):
            with self._writing(mesh):
                fault = self._rng.choice([self._kill, self._cut, self._silence, self._freeze])
                time.sleep(self._rng.uniform(0, 0.3))
                fault(mesh, self._rng.uniform(0, BROKEN_MAX_S))
            name = fault.__name__.removeprefix("_")
            self.result.broken[name] = self.result.broken.get(name, 0) + 1
            self.result.rounds += 1
            tell(self.result)

    @contextmanager
    def _writing(self, mesh: Mesh) -> Iterator[None]:
        seed = f"{self.result.seed}:{self.result.rounds}"
        loads, shared = [], []
        for name in self._names:
            address = mesh.nodes[name].address
            load = Load(
                address,
                self._oracles[name],
                f"{seed}:{name}",
                workers=1,
                large_bytes=_LARGE_BYTES,
            )
            loads.append(load.start())
            shared.append(_Shared(mesh, name, f"{seed}:{name}:shared").__enter__())
        try:
            yield
        finally:
            for each in shared:
                each.__exit__()
                self.result.shared_writes += each.writes
            for load in loads:
                done = load.stop()
                assert not done.faults, done.faults[:5]

    def _kill(self, mesh: Mesh, for_s: float) -> None:
        name = self._rng.choice(self._names)
        mesh.nodes[name].kill()
        time.sleep(for_s)
        mesh.start(name)

    def _freeze(self, mesh: Mesh, for_s: float) -> None:
        node = mesh.nodes[self._rng.choice(self._names)]
        node.pause()
        time.sleep(for_s)
        node.resume()

    def _cut(self, mesh: Mesh, for_s: float) -> None:
        self._break(mesh, Mode.CUT, for_s)

    def _silence(self, mesh: Mesh, for_s: float) -> None:
        self._break(mesh, self._rng.choice([Mode.SILENT, Mode.DEAF]), for_s)

    def _break(self, mesh: Mesh, mode: Mode, for_s: float) -> None:
        links = list(mesh.links.values())
        links = self._rng.sample(links, self._rng.randint(1, min(3, len(links))))
        for link in links:
            link.set(mode)
        time.sleep(for_s)
        for link in links:
            link.set(Mode.OPEN)

    def _judge(self, mesh: Mesh) -> None:
        began_s = _clock.monotonic_s()
        mesh.wait_until_equal(within_s=120)
        self.result.converged_s.append(_clock.monotonic_s() - began_s)
        self.result.blobs = sum(len(oracle.blobs) for oracle in self._oracles.values())
        self.result.entries = sum(
            len(oracle.actions) + len(oracle.assets) for oracle in self._oracles.values()
        )
        for name in self._names:
            wrong = wrong_bytes_in(mesh.nodes[name].data_dir)
            assert not wrong, f"{name} holds wrong bytes: {wrong[:5]}"
            with mesh.client(name) as client:
                judge(mesh.nodes[name], client, self._oracles.values(), self.result.withheld)


@click.command()
@click.option("--rounds", default=100, show_default=True)
@click.option("--nodes", default=3, show_default=True)
@click.option("--seed", type=int, help="Repeat a run's data; default: a new one, printed.")
@click.option("--folder", type=click.Path(path_type=Path), help="Work here, and leave the files.")
def main(rounds: int, nodes: int, seed: int | None, folder: Path | None) -> None:
    """Break a mesh of nodes again and again, and compare what they hold."""
    seed = random.SystemRandom().randrange(2**32) if seed is None else seed
    click.echo(f"seed {seed}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        result = Rounds(folder, seed, nodes).run(rounds, _tell)
    click.echo()
    for name, fact in result.summary().items():
        click.echo(f"{name:45} {fact}")


def _tell(result: Result) -> None:
    click.echo(f"\rround {result.rounds}", nl=False)


if __name__ == "__main__":
    main()
