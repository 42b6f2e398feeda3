"""Time that passes at once: events in a heap, processes that are generators, and wires that fail.

A process yields how many seconds it sleeps (a float), or a Signal, and is sent what that was fired
with. It ends with the Life that it belongs to.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any

from federation.remote.failures import FailureKind, RemoteFailed, failure

Process = Generator[Any, Any, Any]

STEPS_MAX = 60_000  # the busiest schedules take some thousands
LONGEST_S = 20 * 86400.0
TIMEOUT_S = 60.0
STALL_S = 30.0


class Endless(Exception):
    """It never comes to rest."""


class Life:
    """From one start of a node to its crash."""

    def __init__(self) -> None:
        self.is_over = False


class Signal:
    """Fired once."""

    __slots__ = ("is_fired", "value", "waiting")

    def __init__(self) -> None:
        self.is_fired = False
        self.value: Any = None
        self.waiting: list[tuple[Life, Process]] = []


class World:
    """The one clock, the one source of chance, and what is to happen."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.now_s = 0.0
        self.steps = 0
        self.problems: list[str] = []
        self.events: list[str] = []
        self._heap: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._ready: deque[tuple[Life, Process, Any]] = deque()
        self._serial = 0

    def monotonic_s(self) -> float:
        """As federation.core.clock.Clock has it."""
        return self.now_s

    def note(self, event: str) -> None:
        """Write down what happens, for whoever looks into a failure."""
        self.events.append(f"{self.now_s:9.3f} {event}")

    def wrong(self, problem: str) -> None:
        """Write down what must not be."""
        self.problems.append(f"{self.now_s:9.3f} {problem}")

    def after(self, delay_s: float, work: Callable[..., object], *args: Any) -> None:
        """Have something done later."""
        self._serial += 1
        heappush(self._heap, (self.now_s + delay_s, self._serial, work, args))

    def run(self) -> None:
        """Let everything happen. Raises Endless."""
        heap, ready = self._heap, self._ready
        while heap or ready:
            self.steps += 1
            if self.steps > STEPS_MAX:
                raise Endless
            if ready:
                self._step(*ready.popleft())
                continue
            self.now_s, _, work, args = heappop(heap)
            if self.now_s > LONGEST_S:
                raise Endless
            work(*args)

    # Processes

    def start(self, life: Life, process: Process) -> None:
        """Run a process until it waits for something, and from then on."""
        self.steps += 1
        if self.steps > 2 * STEPS_MAX:  # some that begin others without end
            raise Endless
        self._step(life, process, None)

    def _step(self, life: Life, process: Process, value: Any) -> None:
        while not life.is_over:
            try:
                wanted = process.send(value)
            except StopIteration:
                return
            if wanted.__class__ is float:
                self.after(wanted, self._step, life, process, None)
                return
            if not wanted.is_fired:
                wanted.waiting.append((life, process))
                return
            value = wanted.value
        process.close()

    def fire(self, signal: Signal, value: Any = None) -> None:
        """Wake whoever waits; a second time it says nothing new."""
        if signal.is_fired:
            return
        signal.is_fired, signal.value = True, value
        self._ready.extend((life, process, value) for life, process in signal.waiting)

    def together(self, life: Life, processes: Sequence[Process]) -> Signal:
        """Start all of them; fired when the last one ends."""
        ended, left = Signal(), len(processes)

        def counted(process: Process) -> Process:
            nonlocal left
            yield from process
            left -= 1
            if not left:
                self.fire(ended)

        if not processes:
            self.fire(ended)
        for process in processes:
            self.start(life, counted(process))
        return ended


@dataclass
class Line:
    """What a wire is like; how often what goes wrong, until all is healed."""

    delay_s: float = 0.01
    bytes_per_s: float = 1e8
    object_s: float = 0.0  # that whoever takes them needs for each object
    lost: float = 0.0  # of requests, and of answers
    repeated: float = 0.0  # of requests
    late: float = 0.0  # of requests: they take a hundred times as long


class Wire:
    """The way from one node to another: calls overtake each other, get lost, arrive twice."""

    def __init__(self, world: World, name: str, line: Line, lives: Callable[[], Life]) -> None:
        """lives: tells which life of the node at the other end it is."""
        self.name = name
        self.line = line
        self.is_cut = False
        self.failed = 0  # calls
        self.repeated = 0
        self.tried_in_vain = 0  # calls since the last one that arrived
        self.down_s = 0.0  # when the first of these was made
        self._world = world
        self._lives = lives

    def heal(self) -> None:
        """From now on nothing goes wrong."""
        self.is_cut = False
        self.line.lost = self.line.repeated = self.line.late = 0.0

    def call(
        self,
        work: Callable[[], Any],
        size_bytes: int = 0,
        objects: int = 0,
        *,
        is_stream: bool = False,
    ) -> Process:
        """Do something at the other end; return (what it returns, None) or (None, why not).

        objects: how many are written; 0 for a question. is_stream: it may take as long as it needs.
        """
        world, line = self._world, self.line
        chance = world.rng.random
        way_s = size_bytes / line.bytes_per_s + objects * line.object_s + chance() * line.delay_s
        if line.late and chance() < line.late:
            way_s += 100 * chance() * line.delay_s
        limit_s = size_bytes / line.bytes_per_s + STALL_S if is_stream else TIMEOUT_S
        outcome, until_s = Signal(), world.now_s + limit_s
        if size_bytes / line.bytes_per_s > limit_s or (line.lost and chance() < line.lost):
            self._give_up(outcome, until_s)  # the caller's end of it ends it
        else:
            if world.now_s + way_s > until_s:
                self._give_up(outcome, until_s)
            world.after(way_s, self._arrive, work, outcome, until_s)
            if objects and line.repeated and chance() < line.repeated:
                self.repeated += 1
                again_s = way_s + chance() * 200 * line.delay_s
                world.after(again_s, self._arrive, work, Signal(), until_s)
        answer, error = yield outcome
        if error is not None:
            self.failed += 1
        return answer, error

    def _arrive(self, work: Callable[[], Any], outcome: Signal, until_s: float) -> None:
        world, line, life = self._world, self.line, self._lives()
        if self.is_cut or life.is_over:
            self._count_in_vain()
            world.fire(outcome, (None, self._broken()))
            return
        self.tried_in_vain = 0
        answer = work()
        if line.lost and world.rng.random() < line.lost:
            self._give_up(outcome, until_s)
        else:
            world.after(world.rng.random() * line.delay_s, self._return, answer, outcome, life)

    def _return(self, answer: Any, outcome: Signal, life: Life) -> None:
        broke = self.is_cut or life.is_over  # then it was done, and nobody heard of it
        self._world.fire(outcome, (None, self._broken()) if broke else (answer, None))

    def _give_up(self, outcome: Signal, until_s: float) -> None:
        error = failure(self.name, FailureKind.TIMEOUT, "no answer")
        delay_s = max(0.0, until_s - self._world.now_s)
        self._world.after(delay_s, self._world.fire, outcome, (None, error))

    def _broken(self) -> RemoteFailed:
        return failure(self.name, FailureKind.UNAVAILABLE, "no way there")

    def _count_in_vain(self) -> None:
        """A peer that is away is not asked all the time."""
        world = self._world
        if not self.tried_in_vain:
            self.down_s = world.now_s
        self.tried_in_vain += 1
        if self.tried_in_vain > 60 + (world.now_s - self.down_s):
            world.wrong(f"{self.name} was tried {self.tried_in_vain} times in vain")
