"""The bucket: whole objects in and out, each request within a time limit and behind a breaker.

While the bucket is away, requests fail at once, except for one probe at a time. An object is absent
only if the site's marker is there: otherwise it is the bucket that is away, or another one.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import obstore
from obstore import exceptions
from obstore.store import S3Store

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import S3Config

from federation.config.storage import ObjectsConfig
from federation.core.breaker import Breaker
from federation.core.clock import Clock
from federation.core.errors import SourceUnavailable
from federation.observability.bucket_metrics import BucketMetrics
from federation.storage.shared.credentials import BucketKey

MARKER = "site.json"  # says whose bucket this is: site_marker.py
SOURCE = "bucket"

_T = TypeVar("_T")
_RETRIES = 2  # of one request, within a second or two; the breaker decides about the next ones
_DELETED_AT_ONCE = 1000  # what one request of S3's DeleteObjects takes
_LISTED_AT_ONCE = 1000
_MARKER_BYTES = 64 * 1024
# The server answered, and will say the same again: no reason to stop asking it for other objects.
_REFUSALS = (
    exceptions.AlreadyExistsError,
    exceptions.PreconditionError,
    exceptions.NotModifiedError,
    exceptions.NotSupportedError,
    exceptions.InvalidPathError,
)
_NEEDS_OPERATOR = (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError)
_REASON_CHARS = 300


class BucketLimits(NamedTuple):
    """How long the bucket may take, in seconds."""

    connect_s: float = 3.0
    call_s: float = 20.0  # a request without a blob's bytes
    part_s: float = 60.0  # a part: slower than 140 KB/s is as good as away


USUAL_LIMITS = BucketLimits()


class Listed(NamedTuple):
    """An object in the bucket."""

    name: str  # without the prefix of the site
    size_bytes: int
    modified_s: float  # wall clock of the bucket


class ObjectBucket:
    """The objects of one site. Used from the event loop; every method may raise SourceUnavailable.

    A request that is cancelled may still be carried out.
    """

    def __init__(
        self,
        settings: ObjectsConfig,
        key: BucketKey | None,
        clock: Clock,
        metrics: BucketMetrics,
        jitter: random.Random,
        limits: BucketLimits = USUAL_LIMITS,
    ) -> None:
        """key: None: what the environment says (obstore reads it)."""
        self._limits = limits
        self._store = open_store(settings, key, limits, _RETRIES)
        self._open_once = partial(open_store, settings, key, limits, 0)
        self._name = f"{settings.bucket}/{settings.prefix}"
        self._clock = clock
        self._metrics = metrics
        self._jitter = jitter
        self.breaker = Breaker(failures_max=3)
        metrics.up.set_function(lambda: int(self.breaker.allows()))

    def __repr__(self) -> str:
        return f"<ObjectBucket {self._name} {self.breaker.state.value}>"

    async def put(self, name: str, data: bytes) -> None:
        """Store an object; durable as the bucket is on return."""
        put = obstore.put_async
        await self._request(
            "put", self._limits.part_s, lambda: put(self._store, name, data, use_multipart=False)
        )
        self._metrics.bytes.labels("out").inc(len(data))

    async def get(self, name: str, size_bytes: int, *, in_one: bool = False) -> memoryview | None:
        """Return an object's bytes; None: it is absent, and the bucket is the right one.

        They are those that the client received: a copy of each part would cost as much as its
        hash. Of an object that has another size than it should have, no bytes are returned.

        in_one: all of one answer. Otherwise what a broken connection leaves out is asked for as a
        range, and some servers give other bytes for those.
        """
        data = await self._get(name, size_bytes, self._open_once() if in_one else self._store)
        if data is None and await self.get_marker() is None:
            raise SourceUnavailable(SOURCE, f"{self._name}{MARKER} is gone: is it another bucket?")
        return data

    async def get_marker(self) -> bytes | None:
        """Return what MARKER says; None: there is none."""
        found = await self._get(MARKER, None, self._store)
        return None if found is None else bytes(found)

    async def size_of(self, name: str) -> int | None:
        """Return an object's size; None: it is absent."""
        found = await self._head(name)
        return None if found is None else found["size"]

    async def now_s(self) -> float:
        """Return about what the bucket's clock says: when the marker was written last."""
        found = await self._head(MARKER)
        if found is None:
            raise SourceUnavailable(SOURCE, f"{self._name}{MARKER} is gone: is it another bucket?")
        return found["last_modified"].timestamp()

    async def delete(self, names: Sequence[str]) -> None:
        """Delete objects; absent ones are no error."""
        for at in range(0, len(names), _DELETED_AT_ONCE):
            some = names[at : at + _DELETED_AT_ONCE]
            await self._request("delete", self._limits.call_s, partial(self._delete, some))

    async def list(self, below: str) -> AsyncIterator[list[Listed]]:
        """Yield all objects of a folder (`ab`), in pages."""
        pages = aiter(obstore.list(self._store, prefix=below, chunk_size=_LISTED_AT_ONCE))

        async def next_page() -> Sequence[ObjectMeta] | None:
            return await anext(pages, None)

        while True:
            page = await self._request("list", self._limits.call_s, next_page)
            if page is None:
                return
            yield [
                Listed(each["path"], each["size"], each["last_modified"].timestamp())
                for each in page
            ]

    async def _get(self, name: str, size_bytes: int | None, store: S3Store) -> memoryview | None:
        async def fetch() -> memoryview | None:
            try:
                answer = await obstore.get_async(store, name)
                found_bytes = answer.meta["size"]
                if found_bytes != size_bytes and (size_bytes or found_bytes > _MARKER_BYTES):
                    return memoryview(b"")  # not read: it could be of any size
                return memoryview(await answer.bytes_async())
            except FileNotFoundError:
                return None

        data = await self._request("get", self._limits.part_s, fetch)
        self._metrics.bytes.labels("in").inc(len(data or b""))
        return data

    async def _head(self, name: str) -> ObjectMeta | None:
        async def ask() -> ObjectMeta | None:
            try:
                return await obstore.head_async(self._store, name)
            except FileNotFoundError:
                return None

        return await self._request("head", self._limits.call_s, ask)

    async def _delete(self, names: Sequence[str]) -> None:
        try:
            await obstore.delete_async(self._store, list(names))
        except FileNotFoundError:
            return  # some servers say so, and it is what was wanted

    async def _request(
        self, operation: str, limit_s: float, send: Callable[[], Awaitable[_T]]
    ) -> _T:
        now_s = self._clock.monotonic_s()
        if not self.breaker.allows() and not self.breaker.probe_due(now_s):
            self._metrics.requests.labels(operation, "held_back").inc()
            raise SourceUnavailable(SOURCE, self.breaker.last_error)
        try:
            async with asyncio.timeout(limit_s):
                answer = await send()
        except (exceptions.BaseError, OSError, TimeoutError) as error:
            raise self._failed(operation, error) from error
        self.breaker.succeeded()
        took_s = self._clock.monotonic_s() - now_s
        self._metrics.seconds.labels(operation).observe(took_s)
        outcome = "absent" if answer is None and operation in {"get", "head"} else "ok"
        self._metrics.requests.labels(operation, outcome).inc()
        return answer

    def _failed(self, operation: str, error: Exception) -> SourceUnavailable:
        self._metrics.requests.labels(operation, "failed").inc()
        reason = _reason(error)
        if isinstance(error, _REFUSALS):
            self.breaker.succeeded()
        else:
            needs_operator = isinstance(error, _NEEDS_OPERATOR)
            now_s = self._clock.monotonic_s()
            self.breaker.failed(now_s, reason, self._jitter, needs_operator=needs_operator)
        return SourceUnavailable(SOURCE, f"{operation}: {reason}")


def _reason(error: Exception) -> str:
    """Return what went wrong without what differs each time (name, duration) or is not for clients.

    obstore says "Error performing PUT URL in 20ms, after 2 retries - CAUSE", and behind the cause
    the server's answer, and how the types of its libraries are nested.
    """
    if isinstance(error, TimeoutError):
        return "no answer in time"
    first = str(error).partition("\n")[0]
    cause = (first.partition(" - ")[2] or first).partition(": <")[0].strip()
    return f"{type(error).__name__}: {cause[:_REASON_CHARS]}"


def open_store(
    settings: ObjectsConfig, key: BucketKey | None, limits: BucketLimits, retries: int
) -> S3Store:
    """Return a client of the bucket; key: None: what the environment says. Asks nothing."""
    config: S3Config = {"region": settings.region}
    if settings.endpoint is not None:
        config["endpoint"] = settings.endpoint
    if key is not None:
        config["access_key_id"] = key.access_key_id
        config["secret_access_key"] = key.secret_access_key
        if key.session_token:
            config["session_token"] = key.session_token
    return S3Store(
        settings.bucket,
        prefix=settings.prefix or None,
        config=config,
        client_options={
            "allow_http": True,
            "connect_timeout": timedelta(seconds=limits.connect_s),
            "timeout": timedelta(seconds=limits.part_s),
        },
        retry_config={
            "max_retries": retries,
            "retry_timeout": timedelta(seconds=limits.call_s),
            "backoff": {
                "base": 2,
                "init_backoff": timedelta(seconds=0.1),
                "max_backoff": timedelta(seconds=1),
            },
        },
    )
