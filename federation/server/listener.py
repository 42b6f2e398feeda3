"""One gRPC listener: its options, its addresses, its TLS, its end.

Addresses are resolved here and bound one by one: gRPC itself is content when some of those that a
name stands for can be bound, which leaves a node that some clients cannot reach.

gRPC verifies a client's certificate with the lists as its trust roots. That lets in what a listed
certificate signed, and clients that connected while listed; so each call's certificate is compared
with the lists as they are at that moment, by access/authenticator.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import grpc

from federation.config import model
from federation.config.types import Address, parse_address
from federation.core.errors import CannotStart
from federation.server.addresses import listen, resolve
from federation.server.connection_guard import allowed_by_grpc
from federation.server.listening_exchange import Exchange
from federation.server.passed_sockets import PassedSockets

if TYPE_CHECKING:
    from federation.access.live_tls import LiveTls
    from federation.access.tls import KeyPair

_HANDSHAKE_MS = 15_000  # for TLS and for the HTTP/2 preface; then the connection is closed
_PING_MIN_MS = 5_000  # clients ping every 10 to 60 s, also without calls; closer is a flood
_KEEPALIVE_MS = 60_000  # a dead client is noticed after both of these
_KEEPALIVE_TIMEOUT_MS = 20_000
# gRPC pings and sets windows anew while bytes come, and the answers wait behind what is under way:
# on a link of 256 kbit/s 9 MiB in this time. TCP notices before that when a machine is gone.
_ANSWER_MS = 5 * 60_000
_WINDOW_MIN, _WINDOW_MAX = 2**16, 2**20
_IDLE_MS = 30 * 60_000  # a connection without a call for this long is closed gracefully


def options(limits: model.LimitsConfig, *, alone: bool = True) -> list[tuple[str, int]]:
    """Return gRPC's channel arguments for a server with these limits.

    alone False: other processes of this node answer on the same port. Otherwise a port that
    another program has is an error, not shared.
    """
    return [
        # gRPC's default would share the port with a node that was started there by mistake.
        ("grpc.so_reuseport", int(not alone)),
        ("grpc.max_receive_message_length", limits.message),
        # Answers are bounded by what they are about and by buffer-memory, not by gRPC.
        ("grpc.max_send_message_length", -1),
        ("grpc.max_concurrent_streams", limits.streams_per_connection),
        ("grpc.max_allowed_incoming_connections", allowed_by_grpc(limits)),
        # With probes, gRPC would set windows by the speed of a connection: see window_bytes.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", window_bytes(limits)),
        ("grpc.max_connection_idle_ms", _IDLE_MS),
        ("grpc.server_handshake_timeout_ms", _HANDSHAKE_MS),
        ("grpc.http2.min_ping_interval_without_data_ms", _PING_MIN_MS),
        # Clients that wait for a build keep their connection alive; without this gRPC counts that
        # as abuse.
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
        ("grpc.http2.ping_timeout_ms", _ANSWER_MS),
        ("grpc.http2.settings_timeout", _ANSWER_MS),
    ]


def window_bytes(limits: model.LimitsConfig) -> int:
    """Return what gRPC may receive of each stream before it is read.

    gRPC itself would let this grow with the speed of a connection, which senders decide, and for
    each stream. What is read may be as large as the message in any case.
    """
    return min(max(limits.buffer_memory // limits.streams, _WINDOW_MIN), _WINDOW_MAX)


class GrpcServer:
    """Serves these handlers on one listener: bind, start, stop, each once and in this order."""

    bounds_connections = False

    def __init__(
        self,
        listener: model.ListenerConfig,
        limits: model.LimitsConfig,
        handlers: Sequence[grpc.GenericRpcHandler[bytes, bytes]],
        interceptors: Sequence[Any] = (),
        *,
        port: int | None = None,
        alone: bool = True,
        tls: LiveTls | None = None,
    ) -> None:
        """Take what to serve.

        port: instead of the configured one, which may be 0. alone: see options. tls: None: none.
        """
        self._tls = tls
        self.listener = listener
        address = parse_address(listener.address)
        # After bind, with the real port.
        self.address = address if port is None else address._replace(port=port)
        self.server: grpc.aio.Server = grpc.aio.server(
            options=options(limits, alone=alone),  # calls are counted by services/running.py
            interceptors=tuple(interceptors),
        )
        self._started = False
        self._exchanges: list[Exchange] = []
        self.server.add_generic_rpc_handlers(tuple(handlers))

    def __repr__(self) -> str:
        return f"<GrpcServer {self.address} push={self.listener.push}>"

    async def bind(self, passed: PassedSockets | None = None) -> None:
        """Take every address that the listener's host stands for; all or CannotStart.

        passed: the service manager's sockets; those on this port are taken instead.
        """
        sockets = passed.take(self.address) if passed is not None else []
        for each in sockets:
            # gRPC opens a socket that nobody reaches, and the passed one takes its place: see
            # Exchange.
            port = self._listen(Address("127.0.0.1", 0))
            self._exchanges.append(Exchange(each, port))
        if sockets:
            return
        for host in await resolve(self.address):
            # Port 0 is now a real one: the next addresses of the host get the same.
            port = self._listen(Address(host, self.address.port))
            self.address = self.address._replace(port=port)

    def _listen(self, wanted: Address) -> int:
        try:
            if self._tls is None:
                return self.server.add_insecure_port(str(wanted))
            # Separate credentials for each address: gRPC passes a changed pair to one only.
            return self.server.add_secure_port(str(wanted), credentials(self._tls))
        except RuntimeError:
            raise CannotStart(_why_not(wanted)) from None

    async def start(self) -> None:
        """Begin to answer calls."""
        self._started = True
        await self.server.start()

    async def stop(self, grace_s: float) -> None:
        """Take no new calls; let running ones go on for grace_s at most, then cancel them.

        May be called instead of start, too: then the ports are free again.
        """
        if not self._started:  # gRPC releases the ports only of a server that ran
            await self.start()
            grace_s = 0
        while self._exchanges:
            # Before gRPC ends: it shuts its sockets down, which would reach the service manager's.
            self._exchanges.pop().undo()
        await self.server.stop(grace_s)


def _why_not(wanted: Address) -> str:
    """Return the system's reason for not binding: gRPC writes it to its own log only."""
    try:
        listen(wanted).close()
    except CannotStart as error:
        return str(error)
    return f"cannot listen on {wanted}: another program had it a moment ago"


def credentials(live: LiveTls) -> grpc.ServerCredentials:
    """Return credentials for one address; each new connection is met with the current files."""
    shown = live.pair

    def changed() -> grpc.ServerCertificateConfiguration | None:
        nonlocal shown
        pair = live.pair
        if pair is shown:
            return None
        shown = pair
        return _configuration(pair)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(shown),
        changed,  # type: ignore[arg-type]  # grpc documents None for "no change"
        # Whether a certificate is asked for is fixed here; a reload changes whose are accepted.
        shown.roots_pem is not None,
    )


def _configuration(pair: KeyPair) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(pair.key, pair.certificate)], pair.roots_pem)
