"""One gRPC channel to a remote, with options that detect and replace a broken connection."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from federation.core.http_proxy import proxy_for
from federation.remote.credentials import Certificates
from federation.remote.methods import ALL, MESSAGE_MAX_BYTES, Method
from federation.remote.settings import Endpoint, RemoteSettings

_KEEPALIVE_TIMEOUT_MS = 20_000
_ANSWER_MS = 5 * 60_000  # to pings and settings, which waits behind what is under way
_CONNECT_MS = 5_000  # for one address; then the next one of the name is tried
_BACKOFF_FIRST_MS = 200
_BACKOFF_MAX_MS = 2_000  # a remote is back within seconds of its return; breakers spare it more
_RESOLVE_EVERY_MS = 2_000
_NEVER_MS = 2**31 - 1


def _service_config() -> str:
    """Return gRPC's configuration of methods: how large a message each may be answered with."""
    return json.dumps(
        {
            "methodConfig": [
                {
                    "name": [{"service": method.service, "method": method.name}],
                    "maxResponseMessageBytes": method.answer_max_bytes,
                }
                for method in ALL
            ]
        }
    )


_SERVICE_CONFIG = _service_config()


def options(settings: RemoteSettings) -> list[tuple[str, int | str]]:
    """Return gRPC's channel arguments."""
    keepalive_ms = int(settings.keepalive_time_s * 1000) or _NEVER_MS
    return [
        ("grpc.max_receive_message_length", MESSAGE_MAX_BYTES),
        # What is sent was bounded where it was made.
        ("grpc.max_send_message_length", -1),
        ("grpc.service_config", _SERVICE_CONFIG),
        ("grpc.service_config_disable_resolution", 1),  # no name server changes it
        ("grpc.use_local_subchannel_pool", 1),  # remotes share no connection and no backoff
        ("grpc.enable_retries", 0),  # retrying is decided here
        ("grpc.keepalive_time_ms", min(keepalive_ms, _NEVER_MS)),
        ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
        ("grpc.http2.ping_timeout_ms", _ANSWER_MS),
        ("grpc.http2.settings_timeout", _ANSWER_MS),
        # This is how gRPC spells the time limit of a connection attempt.
        ("grpc.min_reconnect_backoff_ms", _CONNECT_MS),
        ("grpc.initial_reconnect_backoff_ms", _BACKOFF_FIRST_MS),
        ("grpc.max_reconnect_backoff_ms", _BACKOFF_MAX_MS),
        ("grpc.dns_min_time_between_resolutions_ms", _RESOLVE_EVERY_MS),
    ]


def proxy_options(authority: str, *, tls: bool) -> list[tuple[str, int | str]]:
    """Return gRPC's channel arguments for the proxy to this server.

    gRPC by itself reads some spellings of the variables only, and one for both kinds.
    """
    found = proxy_for(authority, tls=tls)
    # Said explicitly, or gRPC would look at the environment itself.
    if found is None:
        return [("grpc.enable_http_proxy", 0)]
    return [("grpc.http_proxy", found)]


class Connection:
    """A channel made with certain certificates. Messages go in and come out as bytes."""

    def __init__(
        self, settings: RemoteSettings, target: Endpoint, certificates: Certificates
    ) -> None:
        self.certificates = certificates
        arguments = [*options(settings), *proxy_options(target.authority, tls=target.tls)]
        if target.tls:
            credentials = grpc.ssl_channel_credentials(
                certificates.roots, certificates.key, certificates.chain
            )
            channel = grpc.aio.secure_channel(target.authority, credentials, arguments)
        else:
            channel = grpc.aio.insecure_channel(target.authority, arguments)
        self._channel: Any = channel  # the stubs want serializers, which raw bytes need not
        self._unary: dict[Method, Any] = {}
        self._calls = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def is_ready(self) -> bool:
        """Whether the channel is connected now."""
        return bool(self._channel.get_state() is grpc.ChannelConnectivity.READY)

    @property
    def state(self) -> str:
        """The state for people."""
        return str(self._channel.get_state().name.lower())

    def unary(self, method: Method) -> Any:
        """Return grpc.aio's callable for one request and one response."""
        callable_ = self._unary.get(method)
        # Kept for unary calls, of which there are many.
        if callable_ is None:
            callable_ = self._unary[method] = self._channel.unary_unary(method.path)
        return callable_

    def server_stream(self, method: Method) -> Any:
        """Return grpc.aio's callable for one request and many responses."""
        return self._channel.unary_stream(method.path)

    def client_stream(self, method: Method) -> Any:
        """Return grpc.aio's callable for many requests and one response."""
        return self._channel.stream_unary(method.path)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Mark the connection as used by a call."""
        self._calls += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._calls -= 1
            if not self._calls:
                self._idle.set()

    async def retire(self, grace_s: float) -> None:
        """Close it when its calls have ended, or after grace_s, or when this is cancelled."""
        # gRPC's own grace does not do: once it has begun, nothing can end it before its time.
        try:
            async with asyncio.timeout(grace_s):
                await self._idle.wait()
        except TimeoutError:
            pass  # what still runs is cancelled
        finally:
            await self.close()

    async def close(self) -> None:
        """Close the channel and cancel running calls."""
        await self._channel.close()
