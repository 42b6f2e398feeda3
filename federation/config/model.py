"""The model of the configuration file: every key, its type, default and bounds.

Names are a contract with operators. file.py reads YAML into this model and turns its complaints
into messages with file and line.
"""

import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, cast

from pydantic import ValidationInfo, field_validator

from federation.config.http import HttpConfig
from federation.config.instances import InstanceConfig, check_sources
from federation.config.limits import LimitsConfig
from federation.config.listeners import ListenerConfig, TlsConfig
from federation.config.mesh import MeshConfig, is_member_name
from federation.config.namespaces import NamespaceConfig
from federation.config.peers import PeerConfig
from federation.config.section import Section, key, section
from federation.config.storage import ScrubConfig, StorageConfig
from federation.config.traces import TracesConfig
from federation.config.types import Count, FilePath, Flag, Name, parse_address
from federation.config.upstreams import PullConfig, UpstreamConfig
from federation.core.errors import ConfigError

__all__ = [
    "Config",
    "HttpConfig",
    "LimitsConfig",
    "ListenerConfig",
    "LogConfig",
    "ScrubConfig",
    "StorageConfig",
    "TlsConfig",
    "default_data_dir",
]


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


class LogConfig(Section):
    """What is logged to standard error, and how."""

    level: Literal["debug", "info", "warning", "error"] = key(
        live=True,
        default="info",
        description="events of this level and above are logged; debug: each request",
    )
    format: Literal["auto", "console", "json"] = key(
        live=False, default="auto", description="auto: console on a terminal, JSON otherwise"
    )
    audit: Flag = key(
        live=False,
        default=True,
        description="whether each accepted push is logged: who, what, from where",
    )


class Config(Section):
    """The whole file."""

    node_name: Name = key(
        live=False,
        default_factory=socket.gethostname,
        description="name of this node in logs and pages; default: the host name",
    )
    data_dir: FilePath = key(
        live=False,
        default_factory=default_data_dir,
        description="the data directory; default: federation/ in the XDG data directory",
    )
    workers: Count = key(
        live=False,
        default=1,
        ge=1,
        le=64,
        description="number of processes that serve the listeners' ports",
    )
    transport: Literal["grpcio", "http2"] = key(
        live=False,
        default="grpcio",
        description="what carries the calls of all gRPC listeners: gRPC's own server, or the "
        "node's, which needs the extra `http2`",
    )
    listeners: list[ListenerConfig] = key(
        live=False,
        default=cast("list[ListenerConfig]", [{"address": "127.0.0.1:8980", "push": True}]),
        min_length=1,
        max_length=64,
        description="the addresses that clients are served on",
    )
    namespaces: list[NamespaceConfig] = key(
        live=True,
        default=[],
        max_length=1000,
        description="rules for keyed entries, which HTTP listeners serve; the first rule that "
        "matches a namespace decides",
    )
    instances: list[InstanceConfig] = key(
        live=True,
        default=[],
        max_length=1000,
        description="rules for instances; the first rule that matches an instance decides",
    )
    storage: StorageConfig = section("how much is stored, and how")
    offline: Flag = key(live=True, default=False, description="true: upstreams are never asked")
    upstreams: list[UpstreamConfig] = key(
        live=True,
        default=[],
        max_length=64,
        description="caches that are asked, in this order, for objects that are not here",
    )
    pull: PullConfig = section("how upstreams are asked")
    peers: list[PeerConfig] = key(
        live=True,
        default=[],
        max_length=64,
        description="caches that this node replicates new objects to",
    )
    mesh: MeshConfig = section("nodes that replicate to each other, and join by invitation")
    limits: LimitsConfig = section("bounds on the resources that clients can use")
    http: HttpConfig = section("metrics, health and the dashboard over HTTP")
    log: LogConfig = section("what is logged to standard error")
    traces: TracesConfig = section("which calls are traced, and the collector that is told")

    @field_validator("listeners")
    @classmethod
    def _different_addresses(cls, listeners: list[ListenerConfig]) -> list[ListenerConfig]:
        # Each port 0 becomes another port.
        fixed = [x.address for x in listeners if parse_address(x.address).port]
        for address in fixed:
            if fixed.count(address) > 1:
                raise ValueError(f"two listeners have the address {address}")
        return listeners

    @field_validator("instances")
    @classmethod
    def _no_circle(cls, instances: list[InstanceConfig]) -> list[InstanceConfig]:
        check_sources(instances)
        return instances

    @field_validator("upstreams")
    @classmethod
    def _different_upstreams(cls, upstreams: list[UpstreamConfig]) -> list[UpstreamConfig]:
        _check_different("upstreams", [upstream.name for upstream in upstreams])
        return upstreams

    @field_validator("peers")
    @classmethod
    def _different_peers(cls, peers: list[PeerConfig]) -> list[PeerConfig]:
        _check_different("peers", [peer.name for peer in peers])
        return peers

    @field_validator("peers")
    @classmethod
    def _there_for_acknowledge(
        cls, peers: list[PeerConfig], info: ValidationInfo
    ) -> list[PeerConfig]:
        for listener in info.data.get("listeners", []):
            if listener.acknowledge != "local" and not peers:
                raise ValueError(
                    f"the listener {listener.address} has acknowledge: {listener.acknowledge}, "
                    "and there are no peers"
                )
        return peers

    @field_validator("mesh")
    @classmethod
    def _has_member_name(cls, mesh: MeshConfig, info: ValidationInfo) -> MeshConfig:
        name = info.data.get("node_name", "")
        if mesh.url is not None and not is_member_name(name):
            raise ValueError(
                f"node-name is {name!r}; in a mesh it has at most 64 letters, digits, dots, dashes "
                "and underscores"
            )
        return mesh

    @field_validator("http")
    @classmethod
    def _not_a_listener(cls, http: HttpConfig, info: ValidationInfo) -> HttpConfig:
        taken = [x.address for x in info.data.get("listeners", [])]
        if http.address and http.address in taken and parse_address(http.address).port:
            raise ValueError(f"a listener has the address {http.address} already")
        return http


def _check_different(what: str, names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two {what} have the name {name}")
