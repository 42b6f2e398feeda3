"""The keys about storage: how much is stored, for how long, and how it is maintained."""

from typing import Annotated, Any, Literal, Self
from urllib.parse import parse_qs, urlsplit

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from federation.config.section import Section, key, section
from federation.config.types import (
    Count,
    Duration,
    FilePath,
    Fraction,
    InstanceName,
    ShareText,
    Size,
    format_size,
)


class ScrubConfig(Section):
    """The background re-read of stored blobs."""

    rate: Size = key(live=True, default=20 * 2**20, description="bytes read a second; 0: no scrub")


def _check_endpoint(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username:
        raise ValueError("an endpoint is http or https, then ://host:port")
    return url


def _check_catalogue(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in {"postgresql", "postgres"}:
        raise ValueError("a catalogue is postgresql://user@host/database")
    # URLs of databases get into logs and messages of the driver.
    if parts.password or "password" in parse_qs(parts.query):
        raise ValueError(
            "the password does not belong here: name a file with ?passfile=, or set PGPASSWORD"
        )
    return url


def _check_prefix(prefix: str) -> str:
    if prefix and (not prefix.endswith("/") or prefix.startswith("/") or "//" in prefix):
        raise ValueError("a prefix ends with / and does not start with it, e.g. site-1/")
    return prefix


class ObjectsConfig(Section):
    """The bucket of the shared engine, which has the blobs above inline-max."""

    bucket: str = key(
        live=False, pattern="[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]", description="its name"
    )
    prefix: Annotated[str, AfterValidator(_check_prefix)] = key(
        live=False,
        default="",
        max_length=200,
        description="what the names of all objects begin with; each site needs its own",
    )
    endpoint: Annotated[str, AfterValidator(_check_endpoint)] | None = key(
        live=False, default=None, description="URL of the S3 server; default: that of AWS"
    )
    region: str = key(live=False, default="us-east-1", description="its region")
    credentials: FilePath | None = key(
        live=False,
        default=None,
        description="file with aws_access_key_id, aws_secret_access_key and perhaps "
        "aws_session_token in its section [default], as AWS's tools have it; default: what the "
        "environment says (AWS_ACCESS_KEY_ID, a role ...)",
    )


class StorageConfig(Section):
    """How much is stored, and how."""

    engine: Literal["embedded", "shared"] = key(
        live=False,
        default="embedded",
        description="embedded: all in the data directory; shared: in PostgreSQL and a bucket, for "
        "any number of nodes, which needs the extra `shared`",
    )
    catalogue: Annotated[str, AfterValidator(_check_catalogue)] | None = key(
        live=False,
        default=None,
        description="the PostgreSQL database of the shared engine: postgresql://user@host/name; a "
        "password comes from ?passfile= or PGPASSWORD",
    )
    objects: ObjectsConfig | None = Field(
        default=None, description="the bucket of the shared engine"
    )
    cache: Size | None = key(
        live=True,
        default=None,
        gt=0,
        description="most bytes in the data directory of a node of the shared engine; it is a "
        "cache; default: the disk minus its reserve",
    )
    connections: int = key(
        live=False,
        default=8,
        ge=2,
        le=100,
        description="most connections of a node of the shared engine to its database, whose "
        "max_connections has to allow for those of all nodes",
    )

    quota: Size | None = key(
        live=True,
        default=None,
        gt=0,
        description="most bytes stored; default: the disk minus its reserve",
    )
    reserve: Size | None = key(
        live=True,
        default=None,
        description="disk space that is left free; default: 2G, at most 5 % of a small disk",
    )
    reserve_max: Size | None = key(
        live=True,
        default=None,
        description="disk space that eviction frees once little more than reserve is left; "
        "default: as the watermarks say",
    )
    high_watermark: Fraction = key(
        live=True, default=0.95, description="share of the quota at which eviction starts"
    )
    when_full: Literal["evict", "refuse"] = key(
        live=True,
        default="evict",
        description=(
            "what happens when objects that peers have not acknowledged fill the quota. evict: "
            "eviction goes on, and the peer that lags most needs a resync; refuse: writes fail"
        ),
    )
    low_watermark: Fraction = key(
        live=True, default=0.90, description="share of the quota at which eviction stops"
    )
    inline_max: Size = key(
        live=True,
        default=64 * 2**10,
        le=2**18,
        description="largest blob stored in the catalogue",
    )
    max_blob: Size = key(live=False, default=64 * 2**30, description="largest blob accepted")
    lease: Duration = key(
        live=False,
        default=3 * 3600.0,
        gt=0,
        description="how long an object stays after a client was told that it is here; Bazel "
        "relies on outputs for 3 hours",
    )
    clock_drift: Duration = key(
        live=False,
        default=300.0,
        gt=0,
        le=366 * 86400,
        description="how far a replicated entry's date may be ahead of this machine's clock; later "
        "ones are refused until the clocks agree",
    )
    verify_after: Duration = key(
        live=True,
        default=86400.0,
        description="time after which a blob is verified again when it is read",
    )
    log_max_rows: Count = key(
        live=True, default=5_000_000, ge=1000, description="most rows of the change log"
    )
    purge_keep: Duration = key(
        live=True,
        default=90 * 86400.0,
        gt=0,
        description="how long it is remembered what was purged, from the last time that it kept "
        "something out, and until every peer was told; an old copy that comes later is taken",
    )
    pins_max: ShareText = key(
        live=True,
        default="25%",
        description="most bytes that pins keep from eviction, as a share of the quota (25%) or a "
        "size; what would exceed it is not pinned",
    )
    expire_after: dict[InstanceName, Duration] = key(
        live=True,
        default={},
        max_length=1000,
        description="instance names, each with the time after which its entries are removed that "
        "were neither written nor used for so long, as {pr: 30d}; pinned ones stay",
    )
    scrub: ScrubConfig = section("verification of stored blobs in the background")

    @model_validator(mode="after")
    def _whole_engine(self) -> Self:
        only_shared = {"catalogue": self.catalogue, "objects": self.objects, "cache": self.cache}
        if self.engine == "shared":
            # The cache has a default. The quota has none: a bucket has no size to take it from.
            needed: dict[str, Any] = {**only_shared, "cache": True, "quota": self.quota}
            if missing := [name for name, value in needed.items() if value is None]:
                raise ValueError(f"engine: shared needs {' and '.join(missing)}")
        elif given := [name for name, value in only_shared.items() if value is not None]:
            raise ValueError(f"{' and '.join(given)} need engine: shared")
        return self

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

    @field_validator("expire_after")
    @classmethod
    def _after_the_lease(cls, ages: dict[str, float], info: ValidationInfo) -> dict[str, float]:
        for name, age_s in ages.items():
            # A client was promised them for that long.
            if age_s < info.data.get("lease", 0.0):
                raise ValueError(f"entries of {name!r} would be removed within their lease")
        return ages

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
