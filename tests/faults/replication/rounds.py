"""Break nodes, links, clocks and disks of a mesh under continuous writes, and lose nothing.

    python -m tests.faults.replication.rounds --nodes 5 --minutes 60 [--seed N]
    python -m tests.faults.replication.rounds --nodes 3 --rounds 100 --plain [--seed N]

Every node of a full mesh is written to all the time, under names of its own and under names that
all of them write, and what it acknowledged is read. A round breaks one thing or several, purges
something meanwhile, and mends them. Then the writers pause, and all nodes must become ready and
come to hold the same: every blob and entry that any of them acknowledged, with the bytes that its
digest names, one value under each name that several wrote, and nothing that was purged. `--plain`
breaks processes and links only; the other faults need mounts, so the program starts itself again in
a mount namespace (root, or user namespaces).

After some minutes a run goes on with a new mesh, so that it needs a bounded amount of memory. What
is found wrong ends that mesh; its logs and catalogues are kept, and so is its seed: a mesh is drawn
from one seed alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import click
import grpc

from federation.core.clock import SystemClock
from tests.faults.replication import skewed
from tests.faults.replication.breaking import Breaker, Broken
from tests.faults.replication.clients import Journals, using
from tests.faults.replication.judging import Glance, Withheld, judge
from tests.faults.replication.mesh import Mesh, full, wrong_bytes_in
from tests.faults.replication.purging import Secrets
from tests.faults.replication.volumes import Volume, in_own_mounts, mount, umount
from tests.support.polling import wait_until
from tests.support.process import Node, merged

_READY_MAX_S = 90.0
_EQUAL_MAX_S = 240.0
_VOLUME_SIZE = "3g"
_FOLDERS_KEPT_MAX = 20

_clock = SystemClock()
_REFUSED = frozenset({grpc.StatusCode.RESOURCE_EXHAUSTED})
_SILENT = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED})
_MAY_ANSWER = {
    **dict.fromkeys(("full", "vanish", "hide"), _REFUSED | _SILENT),
    # Beside a full node it may last longer than the deadline of a call.
    "freeze": frozenset({grpc.StatusCode.DEADLINE_EXCEEDED}),
}
_MAY_END = {"kill", "hide"}


@dataclass(frozen=True)
class Plan:
    """What a run is like."""

    nodes: int = 5
    volumes: bool = False  # each node has a disk and a clock of its own, and settings that change
    judged_every: int = 1  # rounds
    faults_max: int = 3  # at once
    broken_max_s: float = 6.0
    pause_s: float = 0.4  # of each client, between its calls
    kinds: Sequence[str] = ()  # empty: all


PLAIN = Plan(nodes=3, judged_every=10, faults_max=1, broken_max_s=1.0, pause_s=0.03)


@dataclass
class Result:
    """What a run did."""

    seed: int
    rounds: int = 0
    meshes: int = 0
    broken: Counter[str] = field(default_factory=Counter)
    reads: Counter[str] = field(default_factory=Counter)
    ended: list[str] = field(default_factory=list)
    blobs: int = 0
    entries: int = 0
    shared_writes: int = 0
    purged: int = 0
    converged_s: float = 0.0
    withheld: Withheld = field(default_factory=Withheld)
    findings: list[str] = field(default_factory=list)
    last: str = ""  # what the last round broke, and how long it was until all was as it should be

    def summary(self) -> dict[str, object]:
        """The facts to print."""
        return {
            "seed": self.seed,
            "rounds": self.rounds,
            "meshes": self.meshes,
            **{f"faults: {name}": count for name, count in sorted(self.broken.items())},
            "blobs acknowledged": self.blobs,
            "entries acknowledged": self.entries,
            "writes of shared names": self.shared_writes,
            "purges": self.purged,
            **{f"reads meanwhile: {name}": count for name, count in sorted(self.reads.items())},
            "heard UNAVAILABLE from a node that was not broken": len(self.ended),
            "longest way to the same contents (s)": round(self.converged_s, 2),
            "held, but not promised when first asked for": self.withheld.misses,
            "longest time until it was (s)": round(self.withheld.longest_s, 2),
            "meshes with something lost, wrong or different": len(self.findings),
        }


class Rounds:
    """One mesh in one folder."""

    def __init__(self, folder: Path, seed: int, plan: Plan = PLAIN, result: Result | None = None):
        self._rng = random.Random(seed)
        self._seed = seed
        self._plan = plan
        self._names = [chr(ord("a") + number) for number in range(plan.nodes)]
        self._folder = folder
        self._done = 0
        self._last: list[str] = []
        self._secrets = Secrets(self._rng)
        self.result = result or Result(seed)

    def run(
        self, rounds: int, tell: Callable[[Result], None], until_s: float = float("inf")
    ) -> Result:
        """Run so many rounds, or until that time of the monotonic clock.

        Raises AssertionError, with the seed in it, at the first difference that stays.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        self.result.meshes += 1
        try:
            with ExitStack() as stack:
                self._run(stack, rounds, tell, until_s)
        except Exception as error:  # a call that fails where none may is a finding, too
            where = f"seed {self._seed}, round {self._done}, broken last: {', '.join(self._last)}"
            what = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
            raise AssertionError(f"{where}: {what}{error}") from error
        return self.result

    def _run(
        self, stack: ExitStack, rounds: int, tell: Callable[[Result], None], until_s: float
    ) -> None:
        journals = stack.enter_context(self._journals())
        mesh = Mesh(self._folder, full(self._names))
        breaker = self._prepare(stack, mesh)
        mesh.start(within_s=_READY_MAX_S)
        glance = Glance(random.Random(self._seed))
        while self._done < rounds and _clock.monotonic_s() < until_s:
            began_s = _clock.monotonic_s()
            self._round(mesh, breaker, journals)
            broken_s = _clock.monotonic_s() - began_s
            self.result.last = f"{', '.join(self._last)}: {broken_s:.1f} s"
            if self._done % self._plan.judged_every == 0:
                equal_s = self._judge(mesh, journals, glance)
                whole_s = _clock.monotonic_s() - began_s
                self.result.last += f", equal after {equal_s:.1f} s, judged at {whole_s:.1f} s"
            tell(self.result)
        self._judge(mesh, journals, None)
        self.result.blobs += journals.blobs
        self.result.entries += journals.entries
        self.result.shared_writes += journals.shared_writes
        self.result.purged += self._secrets.purged

    @contextlib.contextmanager
    def _journals(self) -> Iterator[Journals]:
        folder = self._folder / "journals"
        folder.mkdir()
        journals = Journals(folder, self._names)
        try:
            yield journals
        finally:
            journals.close()

    def _prepare(self, stack: ExitStack, mesh: Mesh) -> Breaker:
        """Enter the mesh, its nodes on volumes of their own if the plan says so."""
        volumes: dict[str, Volume] = {}
        clocks: dict[str, Path] = {}
        if self._plan.volumes:
            for name in self._names:
                volumes[name] = Volume(self._folder / name, _VOLUME_SIZE)
                stack.callback(volumes[name].remove)
        stack.enter_context(mesh)
        if self._plan.volumes:
            for name, node in mesh.nodes.items():
                clocks[name] = self._folder / f"{name}.clock"
                clocks[name].write_text("0")
                node.run_program(skewed.PROGRAM, {skewed.FILE_VARIABLE: str(clocks[name])})
                node.settings = merged(
                    node.settings, {"storage": {"reserve": 0, "lease": "3h", "quota": "100G"}}
                )
        return Breaker(mesh, self._rng, volumes, clocks)

    def _round(self, mesh: Mesh, breaker: Breaker, journals: Journals) -> None:
        faults = breaker.draw(self._rng.randint(1, self._plan.faults_max), self._plan.kinds)
        self._last = [f"{fault.kind} {fault.where}" for fault in faults]
        self.result.broken.update(fault.kind for fault in faults)
        kinds = {fault.where: fault.kind for fault in faults}
        refusals = {name: _MAY_ANSWER.get(kinds.get(name, ""), frozenset()) for name in self._names}
        seed = f"{self._seed}:{self._done}"
        with using(mesh, journals, seed, self._plan.pause_s, refusals) as crowds:
            time.sleep(self._rng.uniform(0, 0.3))
            self._secrets.push(mesh)
            self._break(faults, mesh)
        for name, crowd in crowds.items():
            kind = kinds.get(name, "nothing")
            self.result.reads.update(
                {f"{code} with {kind} broken": n for code, n in crowd.read.items()}
            )
            if kind not in _MAY_END:
                self.result.ended += [f"{self._last}: {text}" for text in crowd.ended]
        self._done += 1
        self.result.rounds += 1

    def _break(self, faults: Sequence[Broken], mesh: Mesh) -> None:
        """Begin them one after the other, purge something, and end them in any order."""
        stacks = []
        with ExitStack() as whatever_happens:
            for fault in faults:
                stack = whatever_happens.enter_context(ExitStack())
                stack.enter_context(fault.context)
                stacks.append(stack)
                time.sleep(self._rng.uniform(0, self._plan.broken_max_s / len(faults)))
            self._secrets.purge(mesh)
            self._rng.shuffle(stacks)
            for stack in stacks:
                stack.close()

    def _judge(self, mesh: Mesh, journals: Journals, glance: Glance | None) -> float:
        """Return how long it took until all held the same, in seconds."""
        for node in mesh.nodes.values():
            assert node.running, f"{node!r} ended by itself\n{node.log_tail}"
            wait_until(lambda: _is_ready(node), f"{node!r} is ready", timeout_s=_READY_MAX_S)  # noqa: B023
        began_s = _clock.monotonic_s()
        try:
            mesh.wait_until_equal(within_s=_EQUAL_MAX_S)
        except AssertionError as error:
            raise AssertionError(f"{_peers_of(mesh)}\n{error}") from None
        taken_s = _clock.monotonic_s() - began_s
        self.result.converged_s = max(self.result.converged_s, taken_s)
        oracles = list(journals.of.values())
        with ExitStack() as stack:
            clients = {
                node: stack.enter_context(mesh.client(name)) for name, node in mesh.nodes.items()
            }
            if glance is not None:
                glance.look(clients, oracles, self.result.withheld)
            self._secrets.check(clients)
            for node, client in clients.items():
                journals.check_shared(client)
                if glance is None:
                    wrong = wrong_bytes_in(node.data_dir)
                    assert not wrong, f"{node!r} holds wrong bytes: {wrong[:5]}"
                    judge(node, client, oracles, self.result.withheld)
        return taken_s


def _peers_of(mesh: Mesh) -> str:
    """Say what each node says of its peers."""
    told = []
    for name in mesh.nodes:
        try:
            told += [f"{name}: {json.dumps(each)}" for each in mesh.status(name)["peers"]]
        except (OSError, AssertionError) as error:
            told.append(f"{name}: {error}")
    return "\n".join(told)


def _is_ready(node: Node) -> bool:
    try:
        return node.http_get("/readyz")[0] == 200
    except OSError:  # nobody answers in time
        return False


class Long:
    """A run over one mesh after the other."""

    def __init__(self, folder: Path, plan: Plan, result: Result, go_on: bool) -> None:
        self._folder = folder
        self._plan = plan
        self._result = result
        self._go_on = go_on

    def run(self, minutes: float, rounds: int, fresh_after: float) -> None:
        """Run for so long, or this many rounds; what is found wrong is in the result."""
        ends_s = _clock.monotonic_s() + minutes * 60
        seed = self._result.seed
        while _clock.monotonic_s() < ends_s and self._result.rounds < rounds:
            until_s = min(ends_s, _clock.monotonic_s() + fresh_after * 60)
            work = self._folder / "work"
            work.mkdir(parents=True, exist_ok=True)
            with self._room(work):
                try:
                    some = Rounds(work / "mesh", seed, self._plan, self._result)
                    some.run(rounds - self._result.rounds, _tell, until_s)
                except AssertionError as error:
                    self._found(seed, error, work)
                    if not self._go_on:
                        return
            seed = (seed + 1) % 2**32

    @contextlib.contextmanager
    def _room(self, work: Path) -> Iterator[None]:
        """Have journals and logs in memory: their writes do not slow down the disk of others."""
        if self._plan.volumes:
            mount("-t", "tmpfs", "-o", "size=2g", "tmpfs", str(work))
        try:
            yield
        finally:
            if self._plan.volumes:
                umount(work)
            shutil.rmtree(work)

    def _found(self, seed: int, error: AssertionError, work: Path) -> None:
        kept = self._folder / f"found-{seed}"
        if len(self._result.findings) < _FOLDERS_KEPT_MAX:
            shutil.rmtree(kept, ignore_errors=True)
            kept.mkdir(parents=True)
            for pattern in (
                "*.log",
                "*.yaml",
                "*.clock",
                "*.volume/data/catalogue*",
                "*/catalogue*",
            ):
                for path in (work / "mesh").glob(pattern):
                    name = str(path.relative_to(work / "mesh")).replace("/", "_")
                    shutil.copy(path, kept / name)
        text = "".join(traceback.format_exception(error))
        (kept / "finding.txt").write_text(text)
        self._result.findings.append(str(error))
        click.echo(f"\nFOUND, kept in {kept}:\n{str(error)[:3000]}\n")


@click.command()
@click.option("--minutes", type=float, help="How long; default: until all rounds are done.")
@click.option("--rounds", default=10**9, help="How many at most; default: no limit.")
@click.option("--nodes", default=5, show_default=True)
@click.option("--seed", type=int, help="Repeat a run's data; default: a new one, printed.")
@click.option("--plain", is_flag=True, help="Break processes and links only.")
@click.option("--kinds", default="", help="Comma-separated: break only this.")
@click.option("--fresh-after", default=15.0, show_default=True, help="Minutes a mesh lives.")
@click.option("--go-on", is_flag=True, help="After something was found, go on with a new mesh.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where what was found is kept.")
def main(
    minutes: float | None,
    rounds: int,
    nodes: int,
    seed: int | None,
    plain: bool,
    kinds: str,
    fresh_after: float,
    go_on: bool,
    folder: Path | None,
) -> None:
    """Break a mesh of nodes again and again, and compare what they hold."""
    if minutes is None and rounds == 10**9:
        raise click.UsageError("say --minutes or --rounds")
    if not plain and (command := in_own_mounts([sys.executable, "-m", _NAME, *sys.argv[1:]])):
        os.execvp(command[0], command)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    seed = random.SystemRandom().randrange(2**32) if seed is None else seed
    click.echo(f"seed {seed}")
    folder = folder or Path(tempfile.mkdtemp(prefix="federation-rounds-"))
    result = Result(seed)
    chosen = tuple(filter(None, kinds.split(",")))
    plan = (
        Plan(nodes, judged_every=10, faults_max=1, broken_max_s=1.0, pause_s=0.03, kinds=chosen)
        if plain
        else Plan(nodes, volumes=True, kinds=chosen)
    )
    Long(folder, plan, result, go_on).run(minutes or float("inf"), rounds, fresh_after)
    click.echo()
    for name, fact in result.summary().items():
        click.echo(f"{name:55} {fact}")
    for text in sorted(set(result.ended))[:5]:
        click.echo(f"heard: {text[:600]}")
    with contextlib.suppress(OSError):
        folder.rmdir()  # nothing was found
    sys.exit(1 if result.findings else 0)


_NAME = "tests.faults.replication.rounds"


def _tell(result: Result) -> None:
    click.echo(f"round {result.rounds}: {result.last}")


if __name__ == "__main__":
    main()
