"""The keys about limits: the memory, calls and time that clients can use."""

from typing import Self

from pydantic import field_validator

from federation.config.section import Section, key
from federation.config.types import Count, Duration, Size

_BATCH_MAX_BYTES = 2**22  # clients refuse messages above 4 MiB
_FRAMING_BYTES = 2**16  # room in a message for what surrounds a batch's blob bytes


class LimitsConfig(Section):
    """Bounds on the resources that clients can use."""

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
        description="most calls served at once on each listener",
    )
    streams_per_caller: Count = key(
        live=True,
        default=0,
        ge=0,
        description="most calls of one caller at once; 0: as many as are left for others",
    )
    first_message: Duration = key(
        live=True,
        default=120.0,
        gt=0,
        description="longest time for the first message of a call; then the call is ended",
    )
    streams_per_connection: Count = key(
        live=False,
        default=500,
        ge=1,
        le=2**31 - 1,
        description="most calls open at once on one connection",
    )
    connections: Count = key(
        live=False,
        default=2000,
        ge=1,
        le=2**31 - 1,
        description="most connections open at once on each listener",
    )
    connections_per_address: Count = key(
        live=True,
        default=0,
        ge=0,
        description="most connections from one address; 0: as many as are left for others",
    )
    uploads: Count = key(live=True, default=2000, ge=1, description="most unfinished uploads")
    upload_idle: Duration = key(
        live=True,
        default=600.0,
        gt=0,
        description="time without a byte after which an upload is dropped",
    )
    stall: Duration = key(
        live=True,
        default=120.0,
        gt=0,
        description="time without progress after which a stream is ended",
    )
    uploads_per_caller: Count = key(
        live=True,
        default=0,
        ge=0,
        description="most writing calls of one caller at once; others wait; 0: no limit",
    )
    upload_bytes_per_caller: Size = key(
        live=True,
        default=8 * 2**30,
        description="most received bytes of one caller's unfinished uploads, at most a quarter of "
        "the quota; newer uploads wait; 0: no limit",
    )
    instances_per_caller: Count = key(
        live=False,
        default=1000,
        ge=0,
        description="most instance names that one caller writes to between restarts; 0: no limit",
    )
    bandwidth_per_caller: Size = key(
        live=True, default=0, description="most bytes a second from and to one caller; 0: no limit"
    )
    buffer_memory: Size = key(
        live=True, default=256 * 2**20, ge=2**23, description="most blob bytes in memory at once"
    )
    threads: Count = key(
        live=False,
        default=8,
        ge=1,
        le=256,
        description="threads for look-ups and hashing; as many each for reading and writing files",
    )
    request_time: Duration = key(
        live=True, default=60.0, gt=0, description="longest time for a call without a stream"
    )
    tree_directories: Count = key(
        live=True,
        default=1_000_000,
        ge=1,
        description="most directories of one tree",
    )
    closure_blobs: Count = key(
        live=True,
        default=2_000_000,
        ge=1,
        description="most blobs that one action result or asset may name",
    )
    drain: Duration = key(
        live=True, default=30.0, description="time for running calls to complete after SIGTERM"
    )

    @field_validator("bandwidth_per_caller")
    @classmethod
    def _usable(cls, bandwidth: int) -> int:
        if 0 < bandwidth < 2**16:
            raise ValueError("bandwidth-per-caller must be 0 (no limit) or at least 64K")
        return bandwidth


class LiveLimits(LimitsConfig, frozen=False):
    """Limits that a reload changes while services hold them; read at each use."""

    @classmethod
    def of(cls, limits: LimitsConfig) -> Self:
        """Return live limits with these values, which have been validated."""
        return cls.model_construct(**dict(limits))

    def apply_config(self, limits: LimitsConfig) -> None:
        """Take over these values."""
        for name in LimitsConfig.model_fields:
            setattr(self, name, getattr(limits, name))
