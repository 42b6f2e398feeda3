"""All workers: started together, replaced when one dies, ended together."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from federation.core.clock import Clock
from federation.core.tasks import Background, sleep_unless
from federation.server.workers.worker import Worker

_FIRST_S = 0.5
_LONGEST_S = 30.0
_RAN_WELL_S = 60.0


@dataclass(slots=True)
class RestartBackoff:
    """The delays before restarts of a worker: doubling, and reset by one that ran well."""

    _next_s: float = _FIRST_S

    def next_delay_s(self, ran_s: float) -> float:
        """Return how long to wait, after a worker that ran for ran_s."""
        if ran_s >= _RAN_WELL_S:
            self._next_s = _FIRST_S
        delay_s = self._next_s
        self._next_s = min(2 * delay_s, _LONGEST_S)
        return delay_s


_log = structlog.get_logger(__name__)
_TOLD_TO_END = 128 + signal.SIGTERM
_HUNG_S = 20.0  # a worker is killed so long after the time that it announced for its end

MakeOrders = Callable[[int, bool], bytes]  # (worker's number, whether it replaces one that died)
Ended = Callable[[Worker], None]


class Supervisor:
    """Owns the workers. Use it from one event loop."""

    def __init__(
        self,
        count: int,
        make_orders: MakeOrders,
        descriptors: list[int],
        clock: Clock,
        ended: Ended,
    ) -> None:
        """Take what workers are given; ended: called with each that ended while it served."""
        self.workers = [Worker(number + 1, clock) for number in range(count)]
        self.restarts = 0
        self._make_orders = make_orders
        self._descriptors = descriptors
        self._clock = clock
        self._ended = ended
        self._stopped = asyncio.Event()
        self._tasks = Background()
        self._running: list[asyncio.Task[int]] = []
        self._failed: asyncio.Future[int] | None = None  # the status of one that never served

    def __repr__(self) -> str:
        return f"<Supervisor {self.serving} of {len(self.workers)} serve>"

    @property
    def serving(self) -> int:
        """How many answer."""
        return sum(worker.serving.is_set() for worker in self.workers)

    def is_alive(self, within_s: float) -> bool:
        """Whether some serve, and each of them has sent a keep-alive within this time.

        One that died is being replaced; one that hangs is not.
        """
        since_s = self._clock.monotonic_s() - within_s
        heard = [worker.lives_s for worker in self.workers if worker.serving.is_set()]
        return bool(heard) and all(at_s is not None and at_s >= since_s for at_s in heard)

    async def start(self) -> int:
        """Start all; return 0 once all serve, or the status of one that could not.

        Then the others are being ended already; wait for that with stop().
        """
        self._failed = asyncio.get_running_loop().create_future()
        for place in range(len(self.workers)):
            self._running.append(self._tasks.start(self._keep(place), f"worker {place + 1}"))
        ready = self._tasks.start(self._all_serve(), "all workers serve")
        await asyncio.wait({ready, self._failed}, return_when=asyncio.FIRST_COMPLETED)
        if self._failed.done():
            self._stopped.set()
            self.signal(signal.SIGTERM)
            return self._failed.result()
        return 0

    async def _all_serve(self) -> int:
        for worker in self.workers:
            await worker.serving.wait()
        return 0

    async def _keep(self, place: int) -> int:
        """Run one worker after another in this place until all are to end."""
        backoff = RestartBackoff()
        again = False
        status = 0
        while not self._stopped.is_set():
            worker = self.workers[place]
            began_s = self._clock.monotonic_s()
            orders = self._make_orders(worker.number, again)
            status = await worker.run(orders, self._descriptors)
            if self._stopped.is_set():
                if status == _TOLD_TO_END and not worker.serving.is_set():
                    status = 0  # it had not come to where it listens for signals
                break
            # At the start, a worker that fails ends the node with its mistake. Later the others go
            # on serving, and it is started again.
            if not worker.serving.is_set() and not again:
                self._give_up(worker, status)
                return status
            self._ended(worker)
            self.workers[place] = Worker(worker.number, self._clock)
            delay_s = backoff.next_delay_s(self._clock.monotonic_s() - began_s)
            _log.error(
                "worker_ended", worker=worker.number, status=status, started_again_in_s=delay_s
            )
            # A stop must not wait for the delay of a restart.
            await sleep_unless(self._stopped, delay_s, self._clock)
            self.restarts += not self._stopped.is_set()
            again = True
        return status

    def _give_up(self, worker: Worker, status: int) -> None:
        assert self._failed is not None
        _log.error("worker_did_not_start", worker=worker.number, status=status)
        if not self._failed.done():
            self._failed.set_result(status or 1)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to every worker."""
        for worker in self.workers:
            worker.signal(number)

    async def stop(self, limit_s: float) -> int:
        """End all with SIGTERM and wait for them; return the highest of their statuses.

        limit_s: how long that may take unless a worker announced otherwise; one that takes much
        longer is killed.
        """
        self._stopped.set()
        self.signal(signal.SIGTERM)
        waiting = set(self._running)
        waited_s = 0.0
        while waiting:
            _, waiting = await asyncio.wait(waiting, timeout=1.0)
            waited_s += 1.0
            announced = [w.ending_within_s for w in self.workers if w.ending_within_s is not None]
            # Workers end themselves within that time, but for one that hangs in a call to a disk.
            if waited_s > max([limit_s, *announced]) + _HUNG_S:
                _log.error("worker_killed", text="it did not end within the time that it announced")
                self.signal(signal.SIGKILL)
        await self._tasks.close()
        return max((task.result() for task in self._running), default=0)
