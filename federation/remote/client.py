"""One remote: its connection, made when first needed, and what is known about it."""

from __future__ import annotations

import random
from typing import Any

import structlog

from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from federation.core import hops
from federation.core.clock import Clock
from federation.core.tasks import Background
from federation.observability.metrics import Metrics
from federation.remote.calls import Calls, Metadata
from federation.remote.capabilities import ASK_S, Capabilities, CapabilitiesMemory
from federation.remote.connection import Connection
from federation.remote.credential_helper import CredentialHelper
from federation.remote.credentials import SecretFiles
from federation.remote.failures import FailureKind, RemoteFailed, failure
from federation.remote.measures import Measures
from federation.remote.methods import CAPABILITIES
from federation.remote.settings import RemoteSettings
from federation.wire import node_identity
from federation.wire.node_identity import LogPosition

_log = structlog.get_logger(__name__)
_OLD_CONNECTION_S = 600.0  # for running streams of a connection with old certificates


class Remote:
    """Another server. It connects when first used and reconnects until it is closed."""

    def __init__(
        self,
        settings: RemoteSettings,
        metrics: Metrics,
        clock: Clock,
        rng: random.Random,
        *,
        node_id: str,
        shares_bandwidth_of: Remote | None = None,
        is_traced: bool = True,
    ) -> None:
        """Prepare a client; nothing is connected yet.

        shares_bandwidth_of: a second connection to the same server, under one limit with the first.
        is_traced: whether its calls are spans of traces, where there are traces.
        Raises ConfigError.
        """
        self.settings = settings
        self.random = rng
        self.clock = clock
        self.measures = Measures(metrics, settings.name, is_traced=is_traced)
        self._target = settings.target()
        self._node_id = node_id
        self._secrets = SecretFiles(settings, clock)
        self._helper: CredentialHelper | None = None
        if settings.credential_helper is not None:
            # Helpers compare texts, and a URL leaves the default port out.
            uri = f"https://{self._target.authority.removesuffix(':443')}"
            self._helper = CredentialHelper(settings.name, settings.credential_helper, uri, clock)
        self._connection: Connection | None = None
        self._closed = False
        self._background = Background()
        self._announced = node_identity.UNKNOWN
        self._last_failure: tuple[RemoteFailed, float] | None = None
        shared = shares_bandwidth_of.calls.bandwidth if shares_bandwidth_of is not None else None
        self.calls: Calls = Calls(
            settings, self.measures, clock, rng, self._connect, self._failed, shared
        )
        self._capabilities = CapabilitiesMemory(self._ask, clock, self._background)

    def __repr__(self) -> str:
        state = "closed" if self._closed else self._state()
        return f"<Remote {self.settings.name} {state} {self.calls.slots!r}>"

    @property
    def name(self) -> str:
        """The name in the configuration."""
        return self.settings.name

    @property
    def node_id(self) -> str:
        """The node id that the server announced last.

        Empty: it is not a node of this project, or does not give this node the peer role.
        """
        return self._announced.node_id

    @property
    def log_seen(self) -> LogPosition | None:
        """The end of its change log, as announced with its capabilities."""
        return self._announced.log

    async def capabilities(self) -> Capabilities:
        """Return what it can do, or the defaults. Never raises RemoteFailed."""
        # Another program may listen there when it is back, such as an older version.
        if self._connection is not None and not self._connection.is_ready:
            self._capabilities.connection_lost()
        return await self._capabilities.get()

    async def greet(self) -> None:
        """Ask for its id and capabilities now. Raises RemoteFailed."""
        await self._capabilities.learn_now()

    @property
    def known(self) -> Capabilities:
        """The last known capabilities; makes no call."""
        return self._capabilities.known

    def describe(self) -> dict[str, Any]:
        """Return what `status` shows of it."""
        known = self.known
        functions = known.functions
        shown: dict[str, Any] = {
            "name": self.settings.name,
            "url": self.settings.url,
            "connection": "closed" if self._closed else self._state(),
            "node_id": self.node_id,
            "running": self.calls.slots.running,
            "queued": self.calls.slots.queued,
            "capabilities": {
                "stated": known.stated,
                "batch_bytes": known.batch_bytes,
                "digest_functions": None
                if functions is None
                else sorted(f.name for f in functions),
                "zstd": known.zstd,
                "takes_action_results": known.takes_results,
            },
            "unsupported": self.calls.unsupported,
            "last_failure": None,
        }
        if self._last_failure is not None:
            error, at_s = self._last_failure
            shown["last_failure"] = {
                "kind": str(error.kind),
                "reason": error.reason,
                "at": at_s,
                "stubborn": error.needs_operator,
            }
        return shown

    async def close(self) -> None:
        """Cancel every call and close the connection; later calls fail."""
        self._closed = True
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()
        if self._helper is not None:
            await self._helper.close()
        await self._background.close()

    def _state(self) -> str:
        return "idle" if self._connection is None else self._connection.state

    async def _connect(self) -> tuple[Connection, Metadata]:
        """Return the connection and the metadata of a call. Raises RemoteFailed."""
        if self._closed:
            raise failure(self.name, FailureKind.CLOSED, "the client is closed")
        # First: a request that may go no further costs neither secrets nor a connection.
        metadata = self._hops()
        secrets = await self._secrets.current()
        if self._helper is not None:
            metadata += await self._helper.headers()
        # Again: the awaits above may have taken long.
        if self._closed:
            raise failure(self.name, FailureKind.CLOSED, "the client is closed")
        # Never without TLS. A helper's own authorization wins, as it knows this server.
        if secrets.token is not None and self._target.tls and not _has_authorization(metadata):
            metadata.append(("authorization", f"Bearer {secrets.token}"))
        old = self._connection
        # gRPC cannot exchange the certificates of a channel, so there is a new one.
        if old is None or old.certificates != secrets.certificates:
            self._connection = Connection(self.settings, self._target, secrets.certificates)
            self._capabilities.connection_lost()
            if old is not None:
                _log.info("remote_certificates_changed", remote=self.name)
                self._background.start(old.retire(_OLD_CONNECTION_S), "closing a connection")
        assert self._connection is not None
        return self._connection, metadata

    def _hops(self) -> Metadata:
        passed = hops.current()
        if passed.is_at_its_end:
            detail = f"the request has passed {len(passed.via)} nodes"
            raise failure(self.name, FailureKind.HOPS, detail)
        return hops.headers(passed.after(self._node_id))

    def _failed(self, error: RemoteFailed) -> None:
        # A limit of this node, or a blob that exists already, says nothing bad about the remote.
        if error.is_local_limit or error.kind is FailureKind.EXISTS:
            return
        self._last_failure = (error, self.clock.wall_s())
        if error.kind is FailureKind.UNAVAILABLE:
            self._capabilities.connection_lost()
            # It may come back as a newer version.
            self.calls.forget_unsupported()
        if error.needs_operator:
            # The operator may have renewed them; with these files the next call would fail again.
            self._secrets.look_soon()
            if self._helper is not None:
                self._helper.look_soon()

    async def _ask(self) -> bytes:
        request = reapi.GetCapabilitiesRequest(instance_name=self.settings.instance_name)
        # On behalf of this node, not of the request that waits for it.
        with hops.serving(hops.NOWHERE):
            response, headers = await self.calls.unary_once(
                CAPABILITIES, request.SerializeToString(), ASK_S
            )
        self._announced = node_identity.parse(headers)
        return response


def _has_authorization(metadata: Metadata) -> bool:
    return any(name == "authorization" for name, _ in metadata)
