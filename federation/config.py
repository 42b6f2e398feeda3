"""The model of the configuration file: every key, its type, default and bounds.

Names are a contract with operators. config_file.py reads YAML into this model and turns its
complaints into messages with file and line.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from federation.config_auth import ListenerAuth
from federation.config_peers import Peer
from federation.config_section import Section
from federation.config_upstreams import Pull, Upstream
from federation.config_values import (
    AddressText,
    Count,
    Duration,
    FilePath,
    Flag,
    Name,
    Share,
    Size,
    format_size,
    parse_address,
)
from federation.errors import ConfigError

FRAMING_BYTES = 2**16  # room in a message for what surrounds a batch's blob bytes


def default_data_dir() -> Path:
    """Return the folder of the XDG base directory specification for this program's data.

    Raises ConfigError where there is no home folder.
    """
    home = Path(os.environ.get("XDG_DATA_HOME", ""))
    if home.is_absolute():  # the specification says to ignore a relative one
        return home / "federation"
    try:
        return Path.home() / ".local" / "share" / "federation"
    except RuntimeError:
        raise ConfigError("this user has no home folder: say where to store (data-dir)") from None


class Tls(Section):
    """What a listener shows its clients, and what they have to show."""

    server_cert: FilePath = Field(description="PEM file: the server's certificate, then its chain")
    server_key: FilePath = Field(description="PEM file: the certificate's private key")
    client_certs: FilePath | None = Field(
        default=None,
        description="PEM file: the certificates of the clients let in, no others; "
        "default: everybody",
    )
    peer_certs: FilePath | None = Field(
        default=None,
        description="PEM file: the certificates of nodes that are let in as peers; default: none",
    )
    client_ca: FilePath | None = Field(
        default=None,
        description="PEM file: authorities; whoever has a certificate that they signed is let in; "
        "default: none",
    )

    @property
    def asks_clients(self) -> bool:
        """Whether only clients with a certificate are let in."""
        return any((self.client_certs, self.peer_certs, self.client_ca))


class Listener(Section):
    """One address that gRPC is served on."""

    address: AddressText = Field(description="host:port; port 0 picks a free one")
    push: Flag = Field(default=False, description="whether callers may write")
    type: Literal["all", "index"] = Field(
        default="all",
        description="index: action results, assets and references, for callers who have their "
        "blobs elsewhere: an entry is served whatever is here of what it names",
    )
    acknowledge: Literal["local", "one-peer", "all-peers"] = Field(
        default="local",
        description="what has to hold a write before its caller gets its OK",
    )
    acknowledge_within: Duration = Field(
        default=5.0, gt=0, description="how long peers are waited for; then the OK is given anyway"
    )
    tls: Tls | None = Field(default=None, description="without it the listener is plain text")
    auth: ListenerAuth | None = Field(
        default=None,
        description="tokens, and what whom is allowed; default: whoever connects may read, and "
        "write with `push: true`",
    )

    @field_validator("auth")
    @classmethod
    def _fits(cls, auth: ListenerAuth | None, info: ValidationInfo) -> ListenerAuth | None:
        if auth is None or not {"tls", "push", "address"} <= info.data.keys():
            return auth
        if reason := _misfit(auth, info.data["tls"], info.data["push"], info.data["address"]):
            raise ValueError(reason)
        return auth


def _misfit(auth: ListenerAuth, tls: Tls | None, push: bool, address: str) -> str | None:
    """Return why this cannot be what the operator means, and how to mend it."""
    by_certificate = tls is not None and tls.asks_clients
    if auth.takes_tokens and tls is None and not parse_address(address).is_loopback:
        return (
            "tokens would travel as plain text, for everybody on the way to read: add tls to this "
            "listener, or let it listen on 127.0.0.1"
        )
    listed = tls is not None and bool(tls.client_certs or tls.client_ca)
    if auth.clients and not listed and auth.proxy is None:
        return "clients are rules about certificates: set tls.client-ca or tls.client-certs, too"
    if not auth.takes_tokens and not by_certificate and auth.proxy is None:
        return "nobody could show anything: add tokens or jwt here, or client certificates in tls"
    if auth.anonymous != "none" and by_certificate:
        return (
            "anonymous: every caller of this listener shows a certificate; leave it out, or have a "
            "listener of its own for callers without"
        )
    if auth.anonymous == "push" and not push:
        return "anonymous: push, but the listener takes no writes: say `push: true`, too"
    return None


class Scrub(Section):
    """The background re-read of stored blobs."""

    rate: Size = Field(default=20 * 2**20, description="bytes read a second; 0 turns it off")


class Storage(Section):
    """How much is kept, and how."""

    quota: Size | None = Field(
        default=None, gt=0, description="most bytes kept; default: the disk less its reserve"
    )
    reserve: Size | None = Field(
        default=None,
        description="free disk left to others; default: 2G, at most 5 % of a small disk",
    )
    reserve_max: Size | None = Field(
        default=None,
        description="free disk that eviction reaches once little more than reserve is left; "
        "default: the watermarks say",
    )
    high_watermark: Share = Field(
        default=0.95, description="share of the quota at which eviction starts"
    )
    when_full: Literal["evict", "refuse"] = Field(
        default="evict",
        description=(
            "when what peers have not acknowledged yet fills the quota. evict: the peer that lags "
            "most needs a resync, and eviction goes on; refuse: writes are refused"
        ),
    )
    low_watermark: Share = Field(
        default=0.90, description="share of the quota at which eviction stops"
    )
    inline_max: Size = Field(
        default=16 * 2**10, le=2**18, description="largest blob kept inside the catalogue"
    )
    max_blob: Size = Field(default=64 * 2**30, description="largest blob accepted")
    lease: Duration = Field(
        default=3600.0, gt=0, description="how long what a client was told is here stays here"
    )
    verify_after: Duration = Field(
        default=86400.0, description="a blob not verified for this long is verified when read"
    )
    log_max_rows: Count = Field(
        default=5_000_000, ge=1000, description="most rows of the change log"
    )
    scrub: Scrub = Field(default=Scrub(), description="re-reading of stored blobs")

    @field_validator("reserve_max")
    @classmethod
    def _above_reserve(cls, most: int | None, info: ValidationInfo) -> int | None:
        if most is not None and most < (info.data.get("reserve") or 0):
            raise ValueError("reserve-max must be at least reserve")
        return most

    @field_validator("low_watermark")
    @classmethod
    def _below_high(cls, low: float, info: ValidationInfo) -> float:
        high = info.data.get("high_watermark")
        if high is not None and low >= high:
            raise ValueError(f"low-watermark ({low}) must be below high-watermark ({high})")
        return low

    @field_validator("max_blob")
    @classmethod
    def _at_least_inline(cls, max_blob: int, info: ValidationInfo) -> int:
        inline_max = info.data.get("inline_max")
        if inline_max is not None and max_blob < inline_max:
            raise ValueError(
                f"max-blob ({format_size(max_blob)}) must be at least inline-max "
                f"({format_size(inline_max)})"
            )
        return max_blob


class Limits(Section):
    """Bounds on what clients can make the node hold."""

    message: Size = Field(
        default=8 * 2**20,
        ge=2**22 + 2**16,
        le=2**30,
        description="largest message received",
    )
    batch_total: Size = Field(
        default=4 * 2**20 - 2**16,
        ge=2**16,
        le=2**22,  # clients refuse messages above 4 MiB
        description="most blob bytes in one batch call, as Capabilities report it",
    )
    streams: Count = Field(
        default=1000, ge=1, le=2**31 - 1, description="calls answered at once on each listener"
    )
    streams_per_connection: Count = Field(
        default=500, ge=1, le=2**31 - 1, description="calls open at once on one connection"
    )
    connections: Count = Field(
        default=2000, ge=1, le=2**31 - 1, description="connections open at once on each listener"
    )
    uploads: Count = Field(default=2000, ge=1, description="uploads begun and not ended")
    upload_idle: Duration = Field(
        default=600.0, gt=0, description="an upload without a byte for this long is dropped"
    )
    stall: Duration = Field(
        default=120.0, gt=0, description="a stream without progress for this long is ended"
    )
    uploads_per_caller: Count = Field(
        default=0, ge=0, description="writing calls of one caller at once; more wait; 0: no limit"
    )
    bandwidth_per_caller: Size = Field(
        default=0, description="bytes a second from and to one caller; 0: no limit"
    )
    buffer_memory: Size = Field(
        default=256 * 2**20, ge=2**23, description="blob bytes held in memory at once"
    )
    threads: Count = Field(default=8, ge=1, le=256, description="threads for disk and hashing")
    request_time: Duration = Field(
        default=60.0, gt=0, description="longest a call without a stream may take"
    )
    tree_directories: Count = Field(
        default=1_000_000, ge=1, description="most directories of one tree that are walked"
    )
    closure_blobs: Count = Field(
        default=2_000_000, ge=1, description="most blobs that one action result or asset may name"
    )
    drain: Duration = Field(
        default=30.0, description="how long running calls may go on after SIGTERM"
    )

    @field_validator("bandwidth_per_caller")
    @classmethod
    def _usable(cls, bandwidth: int) -> int:
        if 0 < bandwidth < 2**16:
            raise ValueError("bandwidth-per-caller must be 0 (no limit) or at least 64K")
        return bandwidth

    @field_validator("batch_total")
    @classmethod
    def _fits_in_a_message(cls, batch_total: int, info: ValidationInfo) -> int:
        message = info.data.get("message")
        if message is not None and batch_total + FRAMING_BYTES > message:
            raise ValueError(
                f"batch-total ({format_size(batch_total)}) must be at least "
                f"{format_size(FRAMING_BYTES)} below message ({format_size(message)})"
            )
        return batch_total


class Http(Section):
    """The HTTP listener: metrics and health."""

    address: AddressText | None = Field(
        default="127.0.0.1:8981", description="host:port; null: none"
    )


class Log(Section):
    """What is written to standard error, and how."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="least severe events written; debug: one line per request"
    )
    format: Literal["auto", "console", "json"] = Field(
        default="auto", description="auto: console on a terminal, JSON otherwise"
    )
    audit: Flag = Field(
        default=True, description="whether each accepted push is logged: who, what, from where"
    )


class Config(Section):
    """The whole file."""

    node_name: Name = Field(
        default_factory=socket.gethostname,
        description="what people call this node; default: the host name",
    )
    data_dir: FilePath = Field(
        default_factory=default_data_dir,
        description="where everything is stored; default: federation/ in the XDG data directory",
    )
    workers: Count = Field(
        default=1, ge=1, le=64, description="processes that serve the listeners' ports together"
    )
    listeners: list[Listener] = Field(
        default=[Listener(address="127.0.0.1:8980", push=True)],
        min_length=1,
        max_length=64,
        description="the addresses that gRPC is served on",
    )
    storage: Storage = Field(default=Storage(), description="how much is kept, and how")
    offline: Flag = Field(default=False, description="true: upstreams are never asked")
    upstreams: list[Upstream] = Field(
        default=[],
        max_length=64,
        description="caches that are asked, in this order, for what is missed here",
    )
    pull: Pull = Field(default=Pull(), description="how upstreams are asked")
    peers: list[Peer] = Field(
        default=[], max_length=64, description="caches that get what this node newly receives"
    )
    limits: Limits = Field(default=Limits(), description="bounds on what clients can use up")
    http: Http = Field(default=Http(), description="metrics and health over HTTP")
    log: Log = Field(default=Log(), description="what is written to standard error")

    @field_validator("listeners")
    @classmethod
    def _different_addresses(cls, listeners: list[Listener]) -> list[Listener]:
        fixed = [x.address for x in listeners if parse_address(x.address).port]
        for address in fixed:
            if fixed.count(address) > 1:
                raise ValueError(f"two listeners have the address {address}")
        return listeners

    @field_validator("upstreams")
    @classmethod
    def _different_upstreams(cls, upstreams: list[Upstream]) -> list[Upstream]:
        _check_different("upstreams", [upstream.name for upstream in upstreams])
        return upstreams

    @field_validator("peers")
    @classmethod
    def _different_peers(cls, peers: list[Peer]) -> list[Peer]:
        _check_different("peers", [peer.name for peer in peers])
        return peers

    @field_validator("peers")
    @classmethod
    def _there_for_acknowledge(cls, peers: list[Peer], info: ValidationInfo) -> list[Peer]:
        for listener in info.data.get("listeners", []):
            if listener.acknowledge != "local" and not peers:
                raise ValueError(
                    f"the listener {listener.address} has acknowledge: {listener.acknowledge}, "
                    "and there are no peers"
                )
        return peers

    @field_validator("http")
    @classmethod
    def _not_a_listener(cls, http: Http, info: ValidationInfo) -> Http:
        taken = [x.address for x in info.data.get("listeners", [])]
        if http.address and http.address in taken and parse_address(http.address).port:
            raise ValueError(f"a listener has the address {http.address} already")
        return http


def _check_different(what: str, names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two {what} have the name {name}")
