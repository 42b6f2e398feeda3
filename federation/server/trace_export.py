"""Sends the spans of a node's calls to a collector, beside everything else.

A collector that is slow or away costs the spans that do not fit into the queue, and no time: the
node stays ready.
"""

from __future__ import annotations

import os
import random
from collections.abc import Mapping

import structlog

from federation import __version__
from federation.config.model import Config
from federation.core.clock import Clock
from federation.core.errors import InvalidRequest
from federation.core.tasks import Background, FailingWork
from federation.observability.metrics import Metrics
from federation.observability.rate_limits import Complaints
from federation.observability.tracing import otlp
from federation.observability.tracing.tracer import Tracer
from federation.remote.client import Remote
from federation.remote.failures import NotFound, RemoteFailed, RequestRefused
from federation.remote.methods import Method
from federation.remote.settings import RemoteSettings

_NAME = "(traces)"  # which no upstream and no peer has in metrics
_EXPORT = Method(otlp.SERVICE, otlp.METHOD)
_EVERY_S = 1.0
_AGAIN_MAX_S = 30.0  # while the collector does not answer
_ANSWER_S = 10.0
_LAST_S = 1.0  # for what is left when the node ends
_BATCH_SPANS = 512

_log = structlog.get_logger(__name__)


class TraceExport:
    """One task that sends what the tracer keeps."""

    def __init__(
        self,
        tracer: Tracer,
        collector: Remote,
        resource: Mapping[str, str | int],
        metrics: Metrics,
        clock: Clock,
    ) -> None:
        """resource: what is told of the process with each batch."""
        self._tracer = tracer
        self._collector = collector
        self._resource = resource
        self._spans = metrics.trace_spans
        self._clock = clock
        self._complaints = Complaints(_log, clock)
        self._background = Background()

    def __repr__(self) -> str:
        return f"<TraceExport {self._tracer!r} to {self._collector!r}>"

    def start(self, failing: FailingWork) -> None:
        """Begin to send."""
        self._background.keep(self._run, "traces", self._clock, failing)

    async def close(self) -> None:
        """Send what is left, for a second at most, and end."""
        await self._background.close()
        await self._send_all(_LAST_S)
        await self._collector.close()

    async def _run(self) -> None:
        wait_s = _EVERY_S
        while True:
            await self._clock.sleep(wait_s)
            is_answered = await self._send_all(_ANSWER_S)
            wait_s = _EVERY_S if is_answered else min(2 * wait_s, _AGAIN_MAX_S)

    async def _send_all(self, limit_s: float) -> bool:
        """Send what waits now; return False, with the rest still waiting, if there is no answer."""
        until_s = self._clock.monotonic_s() + limit_s
        # As many as wait now: spans that come meanwhile would keep this from ending.
        for _ in range(0, len(self._tracer), _BATCH_SPANS):
            left_s = until_s - self._clock.monotonic_s()
            if left_s <= 0 or not await self._send_batch(left_s):
                return False
        return True

    async def _send_batch(self, limit_s: float) -> bool:
        batch = self._tracer.oldest(_BATCH_SPANS)
        request = otlp.export_request(batch, self._resource, __version__)
        try:
            answer, _ = await self._collector.calls.unary_once(_EXPORT, request, limit_s)
            rejected = min(otlp.rejected(answer), len(batch))
        except RequestRefused as error:
            self._complaints.warn("traces_not_sent", error)
            rejected = len(batch)  # it will not take them later either
        except (RemoteFailed, NotFound, InvalidRequest) as error:
            self._complaints.warn("traces_not_sent", error)
            return False
        # Only now: without an answer they are sent again.
        self._tracer.forget_oldest(len(batch))
        self._spans.labels(result="sent").inc(len(batch) - rejected)
        self._spans.labels(result="rejected").inc(rejected)
        return True


def make_traces(config: Config, metrics: Metrics, clock: Clock, node_id: str) -> TraceExport:
    """Have all calls of this process traced from now on. Raises ConfigError.

    To be called before anything that calls or is called is made: it looks at metrics.tracer once.
    """
    traces = config.traces
    assert traces.endpoint is not None
    chance = random.Random()  # noqa: S311 - ids of spans guard nothing
    # The client of upstreams makes the call: TLS, proxies and limits are the same.
    settings = RemoteSettings(
        name=_NAME,
        url=traces.endpoint,
        server_cert=traces.server_cert,
        access_token=traces.access_token,
        concurrency=1,
    )
    collector = Remote(settings, metrics, clock, chance, node_id=node_id, is_traced=False)
    metrics.tracer = Tracer(traces.sample, clock, chance, metrics.trace_spans)
    resource: dict[str, str | int] = {
        "service.name": "federation",
        "service.version": __version__,
        "service.instance.id": config.node_name,
        "process.pid": os.getpid(),
    }
    return TraceExport(metrics.tracer, collector, resource, metrics, clock)
