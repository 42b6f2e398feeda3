"""The keys about limits: what clients can make the node hold, and for how long."""

from __future__ import annotations

from pydantic import field_validator

from federation.config.section import Section, key
from federation.config.types import Count, Duration, Size

_BATCH_MAX_BYTES = 2**22  # clients refuse messages above 4 MiB
_FRAMING_BYTES = 2**16  # room in a message for what surrounds a batch's blob bytes


class LimitsConfig(Section):
    """Bounds on what clients can make the node hold."""

    message: Size = key(
        live=False,
        default=8 * 2**20,
        ge=_BATCH_MAX_BYTES + _FRAMING_BYTES,
        le=2**30,
        description="largest message received",
    )
    batch_total: Size = key(
        live=False,
        default=4 * 2**20 - 2**16,
        ge=2**16,
        le=_BATCH_MAX_BYTES,
        description="most blob bytes in one batch call, as Capabilities report it",
    )
    streams: Count = key(
        live=True,
        default=1000,
        ge=1,
        le=2**31 - 1,
        description="calls answered at once on each listener",
    )
    streams_per_caller: Count = key(
        live=True,
        default=0,
        ge=0,
        description="calls of one caller at once; 0: as many as it leaves for others",
    )
    first_message: Duration = key(
        live=True,
        default=120.0,
        gt=0,
        description="a call whose first message takes longer is ended",
    )
    streams_per_connection: Count = key(
        live=False,
        default=500,
        ge=1,
        le=2**31 - 1,
        description="calls open at once on one connection",
    )
    connections: Count = key(
        live=False,
        default=2000,
        ge=1,
        le=2**31 - 1,
        description="connections open at once on each listener",
    )
    connections_per_address: Count = key(
        live=True,
        default=0,
        ge=0,
        description="connections from one address; 0: as many as it leaves for others",
    )
    uploads: Count = key(live=True, default=2000, ge=1, description="uploads begun and not ended")
    upload_idle: Duration = key(
        live=True,
        default=600.0,
        gt=0,
        description="an upload without a byte for this long is dropped",
    )
    stall: Duration = key(
        live=True,
        default=120.0,
        gt=0,
        description="a stream without progress for this long is ended",
    )
    uploads_per_caller: Count = key(
        live=True,
        default=0,
        ge=0,
        description="writing calls of one caller at once; more wait; 0: no limit",
    )
    upload_bytes_per_caller: Size = key(
        live=True,
        default=8 * 2**30,
        description="received bytes of one caller's unfinished uploads at once, at most a quarter "
        "of the quota; younger uploads wait; 0: no limit",
    )
    instances_per_caller: Count = key(
        live=False,
        default=1000,
        ge=0,
        description="instance names that one caller writes to, since the start; 0: no limit",
    )
    bandwidth_per_caller: Size = key(
        live=True, default=0, description="bytes a second from and to one caller; 0: no limit"
    )
    buffer_memory: Size = key(
        live=True, default=256 * 2**20, ge=2**23, description="blob bytes held in memory at once"
    )
    threads: Count = key(
        live=False,
        default=8,
        ge=1,
        le=256,
        description="threads for look-ups and hashing, as many for reading, and for writing files",
    )
    request_time: Duration = key(
        live=True, default=60.0, gt=0, description="longest a call without a stream may take"
    )
    tree_directories: Count = key(
        live=True,
        default=1_000_000,
        ge=1,
        description="most directories of one tree that are walked",
    )
    closure_blobs: Count = key(
        live=True,
        default=2_000_000,
        ge=1,
        description="most blobs that one action result or asset may name",
    )
    drain: Duration = key(
        live=True, default=30.0, description="how long running calls may go on after SIGTERM"
    )

    @field_validator("bandwidth_per_caller")
    @classmethod
    def _usable(cls, bandwidth: int) -> int:
        if 0 < bandwidth < 2**16:
            raise ValueError("bandwidth-per-caller must be 0 (no limit) or at least 64K")
        return bandwidth


class LiveLimits(LimitsConfig, frozen=False):
    """Limits that a reload changes while services hold them; read at each use."""

    def take(self, limits: LimitsConfig) -> None:
        """Take over these values."""
        for name in LimitsConfig.model_fields:
            setattr(self, name, getattr(limits, name))
