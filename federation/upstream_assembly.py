"""From the configuration's upstreams to a store and a finder that pull, as a recipe."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from federation.clock import Clock
from federation.config import Config
from federation.config_upstreams import Upstream as Settings
from federation.remote import Remote, RemoteIndex, RemoteSettings, RemoteStore
from federation.services.closure import ClosureChecker
from federation.services.federated_finder import FederatedFinder
from federation.services.prefetch import Prefetcher
from federation.status import Metrics
from federation.storage import Storage
from federation.upstream.answers import Answers
from federation.upstream.facts import facts_of
from federation.upstream.probe import Prober
from federation.upstream.source import Upstream
from federation.upstream.store import Federation


@dataclass(frozen=True, slots=True)
class Pulling:
    """What a node with upstreams has in addition."""

    shared: Federation
    finder: FederatedFinder
    start: Callable[[], None]
    describe: Callable[[], list[dict[str, Any]]]
    closers: list[Callable[[], Awaitable[None]]]


def make_pulling(
    config: Config, storage: Storage, closures: ClosureChecker, metrics: Metrics, clock: Clock
) -> Pulling:
    """Connect to nothing yet; each upstream is connected when it is first asked."""
    jitter = random.Random()  # noqa: S311 - it spreads retries, it guards nothing
    remotes = [
        Remote(remote_settings(each), metrics, clock, jitter, node_id=storage.node_id)
        for each in config.upstreams
    ]
    upstreams = [
        make_upstream(config, each, remote, metrics, clock, jitter)
        for each, remote in zip(config.upstreams, remotes, strict=True)
    ]
    shared = Federation(
        storage.node_id,
        storage,
        upstreams,
        clock,
        pulls_max=config.pull.blobs_at_once,
        presence_budget_s=config.pull.find_missing_time,
    )

    def follow_switch(is_on: bool) -> None:
        shared.offline = config.offline or is_on

    storage.offline_switch.watch(follow_switch)
    prefetcher = Prefetcher(shared, config.limits, config.pull.prefetch, metrics)
    finder = FederatedFinder(
        storage,
        closures,
        shared,
        prefetcher,
        config.limits,
        clock,
        lease_s=config.storage.lease,
        index_ttl_s=config.pull.index_ttl,
    )
    prober = Prober(upstreams, clock, lambda: not shared.offline)

    def describe() -> list[dict[str, Any]]:
        return [
            facts_of(upstream, remote) for upstream, remote in zip(upstreams, remotes, strict=True)
        ]

    closers = [prober.close, prefetcher.close, finder.close, shared.close]
    return Pulling(
        shared, finder, prober.start, describe, [*closers, *(each.close for each in remotes)]
    )


def make_upstream(
    config: Config,
    settings: Settings,
    remote: Remote,
    metrics: Metrics,
    clock: Clock,
    jitter: random.Random,
) -> Upstream:
    """Give one remote its place in the order of upstreams."""
    store = RemoteStore(remote)
    return Upstream(
        settings.name,
        store,
        clock,
        jitter,
        metrics,
        Answers(present_s=config.pull.present_for, absent_s=config.pull.absent_for),
        index=RemoteIndex(remote),
        uri_globs=tuple(settings.assets),
        serves_blobs=settings.type in {"all", "storage"},
        serves_index=settings.type in {"all", "index"},
        trusts_action_results=settings.trust_action_results,
        hedge_delay_s=settings.hedge_delay,
        on_wrong_bytes=store.sent_wrong_bytes,
    )


def remote_settings(settings: Settings) -> RemoteSettings:
    """Return what the client for one upstream needs to know."""
    auth, connection = settings.auth, settings.connection_config
    return RemoteSettings(
        name=settings.name,
        url=settings.url,
        instance_name=settings.instance_name,
        server_cert=auth.server_cert,
        client_cert=auth.client_cert,
        client_key=auth.client_key,
        access_token=auth.access_token,
        keepalive_time_s=connection.keepalive_time,
        retry_limit=connection.retry_limit,
        retry_delay_s=connection.retry_delay / 1000,
        request_timeout_s=connection.request_timeout,
        stall_s=connection.stall,
        concurrency=connection.concurrency,
        bandwidth_bytes_s=connection.bandwidth,
    )
