"""The pages of a node with workers: what each of them answers, put together by the parent.

    /metrics   merged values (federation.server.workers.metrics), and how many workers there are
    /          facts of each worker
    /readyz    ready for calls: 503 while no worker answers, or one is not ready
    /healthz   whether the parent is alive

A worker that does not answer within a second is left out, and shown as silent.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from federation.core.clock import Clock
from federation.observability.exposition import exposition, parse
from federation.observability.families import Families, Family
from federation.observability.metrics import Metrics
from federation.server.http.asking import Asker, CannotAsk
from federation.server.http.router import Router
from federation.server.workers.metrics import merged, only_growing
from federation.server.workers.supervisor import Supervisor
from federation.server.workers.worker import Worker

_ANSWER_S = 1.0
_METRICS_BYTES_MAX = 16 * 2**20
_LOOK_EVERY_S = 5.0


class AggregatedPages(Router):
    """Answers for all workers. run() keeps their counts, for the time after their ends.

    Close it: it keeps a connection to each.
    """

    def __init__(
        self, supervisor: Supervisor, facts: Mapping[str, Any], metrics: Metrics, clock: Clock
    ) -> None:
        """metrics: of the parent, which serves HTTP for all."""
        self._supervisor = supervisor
        self._facts = facts
        self._metrics = metrics
        self._clock = clock
        self._last: dict[int, Families] = {}  # by worker
        self._ended: Families = {}  # sums of workers that have ended
        self._gauges = metrics.declared.gauges
        self._askers: dict[int, Asker] = {}  # by worker

    def __repr__(self) -> str:
        return f"<AggregatedPages {self._supervisor!r}>"

    async def run(self) -> None:
        """Look at the workers' counts now and then, until cancelled."""
        while True:
            await self._look()
            await self._clock.sleep(_LOOK_EVERY_S)

    async def close(self) -> None:
        """Ask nobody any more."""
        for asker in self._askers.values():
            await asker.aclose()

    def ended(self, worker: Worker) -> None:
        """Keep what a worker had counted when it was last looked at."""
        # Its gauges go with it; what it counted since the last look is lost.
        last = self._last.pop(worker.number, {})
        self._ended = merged([self._ended, only_growing(last)], self._gauges)

    async def facts(self) -> Mapping[str, Any]:
        """See Router."""
        workers = await asyncio.gather(*map(self._about, self._supervisor.workers))
        shown = {name: _shown_by(workers, name) for name in ("peers", "upstreams")}
        return {**self._facts, **_verdict(workers), **shown, "workers": workers}

    async def exposition(self) -> bytes:
        """See Router."""
        await self._look()
        # One that does not answer counts with what it showed last: a sum must not fall.
        parts = [self._ended, *self._last.values(), _without_zeros(self._metrics)]
        return exposition([*merged(parts, self._gauges).values(), *_own(self._supervisor)])

    async def readiness(self) -> Mapping[str, Any]:
        """See Router."""
        answers = await asyncio.gather(*(self._get(w, "/readyz") for w in self._supervisor.workers))
        states = [
            {"worker": worker.number, **(json.loads(answer[1]) if answer else _SILENT)}
            for worker, answer in zip(self._supervisor.workers, answers, strict=True)
        ]
        return {**_verdict(states), "workers": states}

    async def _look(self) -> None:
        async def look(worker: Worker) -> None:
            answer = await self._get(worker, "/metrics")
            # It may have ended while it answered; its counts are among the ended ones then.
            if answer is not None and worker in self._supervisor.workers:
                self._last[worker.number] = parse(answer[1])

        await asyncio.gather(*map(look, self._supervisor.workers))

    async def _about(self, worker: Worker) -> dict[str, Any]:
        answer = await self._get(worker, "/")
        facts = json.loads(answer[1]) if answer else dict(_SILENT)
        facts.pop("links", None)
        return {"worker": worker.number, "pid": worker.pid, **facts}

    async def _get(self, worker: Worker, path: str) -> tuple[int, str] | None:
        """Return status and body; None from one that does not answer."""
        if worker.http is None:
            return None
        asker = self._askers.get(worker.number)
        # A worker that took another's place has another socket.
        if asker is None or asker.place != worker.http:
            self._askers[worker.number], before = Asker(worker.http), asker
            if before is not None:
                await before.aclose()
            asker = self._askers[worker.number]
        try:
            return await asker.ask(path, _ANSWER_S, _METRICS_BYTES_MAX)
        except CannotAsk:
            return None


def _shown_by(workers: Sequence[Mapping[str, Any]], name: str) -> list[Any]:
    """Return what one worker reports for all: the one that replicates, or the first."""
    found = [each for each in workers if each.get(name)]
    found.sort(key=lambda each: not each.get("replicates-here", False))
    return list(found[0][name]) if found else []


_SILENT: Mapping[str, str] = {"status": "silent"}


def _verdict(workers: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Merge the workers' states. One that is restarting is ignored: no connection reaches it."""
    answering = [each for each in workers if each["status"] != "silent"]
    unfit = next((each for each in answering if each["status"] != "serving"), None)
    if unfit is not None:
        return {
            "status": str(unfit["status"]),
            "reason": f"worker {unfit['worker']}: {_why(unfit)}",
        }
    if not answering:
        return {"status": "unavailable", "reason": "no worker answers"}
    return {"status": "serving"}


def _why(unfit: Mapping[str, Any]) -> str:
    return str(unfit.get("reason", "no reason given"))


def _without_zeros(metrics: Metrics) -> Families:
    """Return what the parent itself counts, such as refused HTTP connections.

    The parent has every metric, and most are 0, as only workers serve. A 0 would win where the
    least value of all processes counts (Merge.LEAST).
    """
    # As text and back, like those of workers: the labels of a sample are then in the same order.
    found = parse(exposition(metrics.declared.families()).decode())
    for family in found.values():
        family.values = {key: value for key, value in family.values.items() if value}
    return found


def _own(supervisor: Supervisor) -> Iterable[Family]:
    """Yield the parent's own metrics."""
    workers = Family("federation_workers", "gauge", "Processes that serve, by state")
    workers.add(supervisor.serving, labels={"state": "serving"})
    workers.add(len(supervisor.workers) - supervisor.serving, labels={"state": "starting"})
    yield workers
    restarts = Family("federation_worker_restarts", "counter", "Workers started again")
    restarts.add(supervisor.restarts, suffix="_total", labels={})
    yield restarts
