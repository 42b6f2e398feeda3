"""The model of the configuration file: every key, its type, default and bounds.

Names are a contract with operators. config_file.py reads YAML into this model and turns its
complaints into messages with file and line.
"""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)i?B?", re.IGNORECASE)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?")
_SIZE_UNIT = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_DURATION_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_size(value: Any) -> Any:
    """Turn "10G", "16K" or a number of bytes into bytes (units are powers of 1024)."""
    if isinstance(value, str):
        match = _SIZE.fullmatch(value.strip())
        if match is None:
            raise ValueError("a size is a number with K, M, G or T behind it, e.g. 500G")
        return int(float(match[1]) * _SIZE_UNIT[match[2].upper()])
    return value


def parse_duration(value: Any) -> Any:
    """Turn "90s", "10m", "1h", "200ms" or a number of seconds into seconds."""
    if isinstance(value, str):
        match = _DURATION.fullmatch(value.strip())
        if match is None:
            raise ValueError("a duration is a number with ms, s, m, h or d behind it, e.g. 90s")
        return float(match[1]) * _DURATION_UNIT_S[match[2] or "s"]
    return value


Size = Annotated[int, BeforeValidator(parse_size), Field(ge=0)]
Duration = Annotated[float, BeforeValidator(parse_duration), Field(ge=0)]


class Section(BaseModel):
    """A mapping of the file: unknown keys are errors, names have dashes."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        alias_generator=lambda name: name.replace("_", "-"),
        validate_by_name=True,
        validate_by_alias=True,
    )


def default_data_dir() -> Path:
    """Return the folder of the XDG base directory specification for this program's data."""
    home = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(home) / "federation"


class Tls(Section):
    """What a listener shows its clients."""

    server_cert: Path = Field(description="PEM file: the server's certificate, then its chain")
    server_key: Path = Field(description="PEM file: the certificate's private key")


class Listener(Section):
    """One address that gRPC is served on."""

    address: str = Field(description="host:port; port 0 picks a free one")
    push: bool = Field(default=False, description="whether callers may write")
    tls: Tls | None = Field(default=None, description="without it the listener is plain text")


class Scrub(Section):
    """The background re-read of stored blobs."""

    rate: Size = Field(default=20 * 2**20, description="bytes read a second; 0 turns it off")


class Storage(Section):
    """How much is kept, and how."""

    quota: Size | None = Field(
        default=None, description="most bytes kept; default: the disk less its reserve"
    )
    reserve: Size = Field(
        default=2 * 2**30, description="free disk left to others (at most 5 % of a small disk)"
    )
    high_watermark: float = Field(
        default=0.95, gt=0, le=1, description="share of the quota at which eviction starts"
    )
    low_watermark: float = Field(
        default=0.90, gt=0, le=1, description="share of the quota at which eviction stops"
    )
    inline_max: Size = Field(
        default=16 * 2**10, le=2**20, description="largest blob kept inside the catalogue"
    )
    max_blob: Size = Field(default=64 * 2**30, description="largest blob accepted")
    lease: Duration = Field(
        default=3600.0, gt=0, description="how long what a client was told is here stays here"
    )
    verify_after: Duration = Field(
        default=86400.0, description="a blob not verified for this long is verified when read"
    )
    log_max_rows: int = Field(default=5_000_000, ge=1000, description="most rows of the change log")
    scrub: Scrub = Scrub()


class Limits(Section):
    """Bounds on what clients can make the node hold."""

    message: Size = Field(
        default=8 * 2**20, ge=2**22 + 2**16, description="largest message received"
    )
    batch_total: Size = Field(
        default=4 * 2**20 - 2**16,
        ge=2**16,
        description="most blob bytes in one batch call, as Capabilities report it",
    )
    streams: int = Field(default=1000, ge=1, description="calls answered at once, over all clients")
    streams_per_connection: int = Field(default=500, ge=1, description="calls at once on one")
    connections: int = Field(default=2000, ge=1, description="connections open at once")
    uploads: int = Field(default=2000, ge=1, description="uploads begun and not ended")
    upload_idle: Duration = Field(
        default=600.0, gt=0, description="an upload without a byte for this long is dropped"
    )
    stall: Duration = Field(
        default=120.0, gt=0, description="a stream without progress for this long is ended"
    )
    buffer_memory: Size = Field(
        default=256 * 2**20, ge=2**23, description="blob bytes held in memory at once"
    )
    threads: int = Field(default=8, ge=1, le=256, description="threads for disk and hashing")
    request_time: Duration = Field(
        default=60.0, gt=0, description="longest a call without a stream may take"
    )
    tree_directories: int = Field(
        default=1_000_000, ge=1, description="most directories of one tree that are walked"
    )
    closure_blobs: int = Field(
        default=2_000_000, ge=1, description="most blobs that one action result or asset may name"
    )
    drain: Duration = Field(
        default=30.0, description="how long running calls may go on after SIGTERM"
    )


class Http(Section):
    """The HTTP listener: metrics and health."""

    address: str | None = Field(default="127.0.0.1:8981", description="host:port; null: none")


class Log(Section):
    """What is written to standard error, and how."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "console", "json"] = Field(
        default="auto", description="auto: console on a terminal, JSON otherwise"
    )


class Config(Section):
    """The whole file."""

    node_name: str = Field(default_factory=socket.gethostname, min_length=1, max_length=100)
    data_dir: Path = Field(default_factory=default_data_dir)
    listeners: list[Listener] = Field(
        default=[Listener(address="127.0.0.1:8980", push=True)], min_length=1
    )
    storage: Storage = Storage()
    limits: Limits = Limits()
    http: Http = Http()
    log: Log = Log()
