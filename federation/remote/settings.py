"""Settings of a remote: its address, credentials and limits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self
from urllib.parse import urlsplit

from federation.config.peers import PeerConfig
from federation.config.upstreams import UpstreamConfig
from federation.core.errors import ConfigError

_TLS = {"http": False, "grpc": False, "https": True, "grpcs": True}
_DEFAULT_PORT = {False: 80, True: 443}


class Endpoint(NamedTuple):
    """Where to connect."""

    authority: str  # host:port, an IPv6 address in brackets
    tls: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteSettings:
    """One upstream or peer.

    Without server_cert a certificate is checked against the public roots that come with gRPC (the
    environment's GRPC_DEFAULT_SSL_ROOTS_FILE_PATH names others). Access tokens and credential
    helpers need TLS. Files are read again when they change.
    """

    name: str  # for people, logs and metrics
    url: str  # http, grpc: plain text; https, grpcs: TLS
    instance_name: str = ""
    server_cert: Path | None = None
    client_cert: Path | None = None
    client_key: Path | None = None
    access_token: Path | None = None
    credential_helper: Path | None = None
    keepalive_time_s: float = 60.0  # a silent connection is probed after this; 0: never
    retry_limit: int = 4  # tries of a unary call after the first
    retry_delay_s: float = 1.0  # before the first retry; doubles with each
    request_timeout_s: float = 120.0  # a unary call with its retries
    stall_s: float = 10.0  # a stream without progress for this long is given up
    concurrency: int = 64  # calls at once
    queue_max: int = 1024  # calls that wait for one to end; beyond, they fail at once
    bandwidth_bytes_s: int = 0  # both directions together; 0: no limit
    compression: bool = True  # use zstd where the remote can

    @classmethod
    def of(cls, config: UpstreamConfig | PeerConfig, instance_name: str) -> Self:
        """Return the settings of the client for one configured upstream or peer."""
        auth, connection = config.auth, config.connection_config
        return cls(
            name=config.name,
            url=config.url,
            instance_name=instance_name,
            server_cert=auth.server_cert,
            client_cert=auth.client_cert,
            client_key=auth.client_key,
            access_token=auth.access_token,
            credential_helper=auth.credential_helper,
            keepalive_time_s=connection.keepalive_time,
            retry_limit=connection.retry_limit,
            retry_delay_s=connection.retry_delay / 1000,
            request_timeout_s=connection.request_timeout,
            stall_s=connection.stall,
            concurrency=connection.concurrency,
            bandwidth_bytes_s=connection.bandwidth,
        )

    def target(self) -> Endpoint:
        """Return where to connect.

        Raises ConfigError for a URL that is none of this protocol's, and for keys that do not go
        together.
        """
        where = f"remote {self.name}"
        target = _parse(self.url, where)
        # Rather than ignored: the operator believes that the connection is private.
        if not target.tls and any((self.server_cert, self.client_cert, self.client_key)):
            raise ConfigError(f"{where}: certificates need an https or grpcs url, not {self.url}")
        for key, given in (
            ("access-token", self.access_token),
            ("credential-helper", self.credential_helper),
        ):
            if not target.tls and given is not None:
                raise ConfigError(f"{where}: {key} needs TLS; use an https or grpcs url")
        if (self.client_cert is None) != (self.client_key is None):
            raise ConfigError(f"{where}: client-cert and client-key go together")
        return target


def _parse(url: str, where: str) -> Endpoint:
    try:
        parts = urlsplit(url)
        tls, host, port = _TLS[parts.scheme], parts.hostname, parts.port
    except (ValueError, KeyError):
        raise ConfigError(f"{where}: url {_shown(url)!r}: {_HELP}") from None
    if not host or parts.username is not None or parts.query or parts.fragment:
        raise ConfigError(f"{where}: url {_shown(url)!r}: {_HELP}")
    # gRPC has no paths, so it is most likely meant as an instance name.
    if parts.path not in {"", "/"}:
        raise ConfigError(
            f"{where}: url {_shown(url)!r} has a path; say instance-name: {parts.path[1:]}"
        )
    shown = f"[{host}]" if ":" in host else host
    return Endpoint(f"{shown}:{port or _DEFAULT_PORT[tls]}", tls)


_HELP = "a url is http, https, grpc or grpcs, then ://host:port, e.g. https://cache.example.com:443"


def _shown(url: str) -> str:
    """Return the URL without what may be a password in it."""
    scheme, colon, rest = url.partition("://")
    return f"{scheme}{colon}{rest.rpartition('@')[2]}"
