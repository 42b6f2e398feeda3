"""From the settings of an upstream to the client for it and the upstream behind that."""

from __future__ import annotations

import random
from typing import NamedTuple

from federation.config.model import Config
from federation.config.upstreams import UpstreamConfig as Settings
from federation.core.clock import Clock
from federation.observability.metrics import Metrics
from federation.remote.client import Remote
from federation.remote.index import RemoteIndex
from federation.remote.settings import RemoteSettings
from federation.remote.store import RemoteStore
from federation.upstream.answers import Answers
from federation.upstream.upstream import Upstream


class ConnectedUpstream(NamedTuple):
    """One upstream, its client, and the settings that both were made from."""

    settings: Settings
    remote: Remote
    upstream: Upstream


def connect(
    config: Config,
    settings: Settings,
    metrics: Metrics,
    clock: Clock,
    jitter: random.Random,
    *,
    node_id: str,
) -> ConnectedUpstream:
    """Make the client and the upstream; the connection is made by the first call.

    node_id: of this node, which each call names. Raises ConfigError.
    """
    remote = Remote(
        RemoteSettings.of(settings, settings.instance_name),
        metrics,
        clock,
        jitter,
        node_id=node_id,
    )
    store = RemoteStore(remote)
    upstream = Upstream(
        settings.name,
        store,
        clock,
        jitter,
        metrics,
        # Of its own: what one upstream has says nothing about the others.
        Answers(present_s=config.pull.present_for, absent_s=config.pull.absent_for),
        index=RemoteIndex(remote),
        uri_globs=tuple(settings.assets),
        serves_blobs=settings.type in {"all", "storage"},
        serves_index=settings.type in {"all", "index"},
        trusts_action_results=settings.trust_action_results,
        hedge_delay_s=settings.hedge_delay,
        on_wrong_bytes=store.sent_wrong_bytes,
        # Calls wait here because the remote takes no more: it is not slow then.
        is_crowded=lambda: remote.calls.slots.queued > 0,
    )
    return ConnectedUpstream(settings, remote, upstream)
