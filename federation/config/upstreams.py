"""The keys about upstreams: which caches are asked for objects that are not here, and how."""

from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, field_validator, model_validator

from federation.config.section import Section, key, section
from federation.config.types import (
    RATE_MIN_BYTES_S,
    Count,
    Duration,
    FilePath,
    Flag,
    Name,
    Size,
    WindowText,
)
from federation.core.wanted import parse_wanted

_SCHEMES = ("http", "grpc", "https", "grpcs")


def _check_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        # .port also raises ValueError for what is no number.
        fine = parts.scheme in _SCHEMES and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fine = False
    if not fine or parts.username or parts.query or parts.path not in {"", "/"}:
        raise ValueError("a url is http, https, grpc or grpcs, then ://host:port")
    return url


Url = Annotated[str, AfterValidator(_check_url)]


class AuthConfig(Section):
    """Certificates and token for another cache; names as in BuildStream's configuration."""

    server_cert: FilePath | None = Field(
        default=None, description="PEM file: the authorities that its certificate must be signed by"
    )
    client_cert: FilePath | None = Field(
        default=None, description="PEM file: the client certificate of this node"
    )
    client_key: FilePath | None = Field(
        default=None, description="PEM file: that certificate's private key"
    )
    access_token: FilePath | None = Field(
        default=None, description="file with a token that is sent with each call, over TLS only"
    )
    credential_helper: FilePath | None = Field(
        default=None,
        description="program that prints the headers to send with each call, as for Bazel's "
        "--credential_helper, over TLS only; it is run again when they expire",
    )

    @model_validator(mode="after")
    def _pairs(self) -> Self:
        if (self.client_cert is None) != (self.client_key is None):
            raise ValueError("client-cert and client-key go together")
        return self


class ConnectionConfig(Section):
    """Timeouts and limits for another cache; names as in BuildStream's configuration."""

    keepalive_time: Duration = Field(
        default=60.0,
        description="time without traffic after which a connection is probed; 0: never",
    )
    retry_limit: Count = Field(
        default=2, ge=0, le=20, description="how often a failed call is retried"
    )
    retry_delay: Count = Field(
        default=100,
        ge=1,
        le=60_000,
        description="milliseconds before the first retry; doubles each time",
    )
    request_timeout: Duration = Field(
        default=20.0, gt=0, description="longest time for a call without a stream"
    )
    stall: Duration = Field(
        default=10.0, gt=0, description="time without a byte after which a stream is given up"
    )
    concurrency: Count = Field(default=64, ge=1, le=1000, description="most calls at once")
    bandwidth: Size = Field(default=0, description="most bytes a second; 0: no limit")


class UpstreamConfig(Section):
    """A cache that is asked for objects that are not here."""

    name: Name = Field(description="its name in logs, metrics and commands")
    url: Url = Field(description="http, grpc (plain) or https, grpcs (TLS), ://host:port")
    instance_name: str = Field(default="", max_length=1000, description="its REAPI instance name")
    type: Literal["all", "storage", "index"] = Field(
        default="all",
        description="storage: blobs; index: action results and assets; all: both",
    )
    auth: AuthConfig = section("certificates and token")
    connection_config: ConnectionConfig = section("timeouts, retries and limits")
    trust_action_results: Flag = Field(
        default=True, description="whether it is asked for action results"
    )
    assets: list[str] = Field(
        default=[],
        max_length=1000,
        description="patterns (*, ?, [...]) of the asset URIs that it is asked for; empty: all",
    )
    hedge_delay: Duration = Field(
        default=2.0,
        gt=0,
        description="time without an answer after which the next upstream is asked as well",
    )

    @model_validator(mode="after")
    def _secrets_need_tls(self) -> Self:
        # Refused and not ignored: the operator believes that the connection is private.
        if self.url.startswith(("http:", "grpc:")) and self.auth != AuthConfig():
            raise ValueError("auth needs TLS: an https or grpcs url")
        return self


class ScheduledPull(Section):
    """What is pulled every day before anybody asks for it."""

    name: Name = Field(description="its name in logs, metrics and commands")
    window: WindowText = Field(
        description="local time in which it is pulled: it begins when the window opens, and pauses "
        "from its end to its next beginning"
    )
    names: list[str] = Field(
        default=[],
        max_length=10_000,
        description="URIs of assets, digests of blobs (HASH/SIZE), or `action HASH/SIZE`",
    )
    from_list: FilePath | None = Field(
        default=None, description="a file with more names, one a line, read at each beginning"
    )
    instance: str = Field(
        default="", max_length=1000, description="the instance name of the assets and actions"
    )
    limit_rate: Size = Field(
        default=0, description="most bytes a second on average; 0: no limit, else at least 64K"
    )

    @field_validator("names")
    @classmethod
    def _can_be_fetched(cls, names: list[str]) -> list[str]:
        for name in names:
            parse_wanted(name)
        return names

    @field_validator("limit_rate")
    @classmethod
    def _usable(cls, rate: int) -> int:
        # Slower than that, a blob would take so long that it seems to stall.
        if 0 < rate < RATE_MIN_BYTES_S:
            raise ValueError("limit-rate must be 0 (no limit) or at least 64K")
        return rate

    @model_validator(mode="after")
    def _names_something(self) -> Self:
        if not self.names and self.from_list is None:
            raise ValueError("a scheduled pull needs names, from-list or both")
        return self


class PullConfig(Section):
    """How upstreams are asked."""

    index_ttl: Duration = key(
        live=True,
        default=300.0,
        description="time after which a pulled action result or asset is checked upstream again",
    )
    prefetch: Literal["all", "metadata", "none"] = key(
        live=True,
        default="all",
        description="which blobs of a pulled asset or action result are fetched in advance",
    )
    find_missing_time: Duration = key(
        live=True, default=0.5, gt=0, description="how long FindMissing waits for upstreams"
    )
    present_for: Duration = key(
        live=True,
        default=30.0,
        description="how long an upstream's answer that it has a blob is remembered",
    )
    absent_for: Duration = key(
        live=True, default=5.0, description="how long its answer that it lacks a blob is remembered"
    )
    blobs_at_once: Count = key(
        live=True, default=256, ge=1, le=10_000, description="most large blobs pulled at once"
    )
    schedule: list[ScheduledPull] = key(
        live=True,
        default=[],
        max_length=100,
        description="what is pulled every day before anybody asks for it",
    )

    @field_validator("schedule")
    @classmethod
    def _different_names(cls, schedule: list[ScheduledPull]) -> list[ScheduledPull]:
        names = [each.name for each in schedule]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two scheduled pulls have the name {name}")
        return schedule
