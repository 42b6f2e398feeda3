"""The uploads that are open: which stream feeds each, and which wait for one to go on.

An upload is known by its whole resource name, since clients use one uuid for many blobs. One
stream at a time owns it; a newcomer takes over, and the older stream ends with ABORTED before the
newcomer touches anything. What a broken stream leaves is parked until it is idle for too long, or
until the room is needed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import structlog

from federation.config.model import LimitsConfig
from federation.core.errors import TooBusy, UploadSuperseded
from federation.core.memory_budget import MemoryBudget
from federation.core.provenance import Provenance
from federation.core.store import Ingest, LocalStore
from federation.observability.metrics import Metrics
from federation.observability.rate_limits import LimitHits
from federation.services.cpu_pool import Compute
from federation.services.receiver import UploadReceiver
from federation.services.request_stream import RequestStream
from federation.services.under_way import UnderWay
from federation.wire.resource_name import UploadName
from federation.wire.upload import Upload
from federation.wire.zstd import Decoder

_log = structlog.get_logger(__name__)

_TURN_S = 2.0  # so long without a byte, a stream that took over may be taken over itself
_QUOTA_PARTS = 4  # one caller's unfinished uploads get at most this fraction of the quota


class _Claim:
    """One stream's hold on an upload."""

    def __init__(self, requests: RequestStream) -> None:
        self.requests = requests
        self.entered = False
        self.released: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class OpenUpload:
    """One upload. Only the stream that owns it changes it."""

    def __init__(self, name: UploadName) -> None:
        self.name = name
        self.rules = Upload(name.digest.size_bytes, name.compressed)
        self.receiver: UploadReceiver | None = None
        self.resumable = True
        self.taken_over = False  # whether its owner had to wait for an older stream to end
        self.owner: _Claim | None = None
        self.idle_timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        state = "owned" if self.owner else "parked"
        return f"<OpenUpload {self.name.digest} {state} at {self.rules.received_bytes}>"

    async def park(self) -> None:
        """Write buffered bytes for a later stream; drop all if none can resume, or on failure."""
        kept = False
        try:
            kept = self.resumable and self.receiver is not None and await self.receiver.park()
        finally:
            if not kept:
                await self.reset()

    async def reset(self) -> None:
        """Drop all received bytes."""
        receiver, self.receiver = self.receiver, None
        self.rules = Upload(self.name.digest.size_bytes, self.name.compressed)
        self.resumable = True
        if receiver is not None:
            await receiver.abort()


class Uploads:
    """All open uploads of a node."""

    def __init__(
        self,
        store: LocalStore,
        limits: LimitsConfig,
        metrics: Metrics,
        budget: MemoryBudget,
        compute: Compute,
        quota_bytes: Callable[[], int] | None = None,
        hits: LimitHits | None = None,
    ) -> None:
        """Take the parts.

        quota_bytes: the most that the store may hold; None: not known.
        hits: records reached limits.
        """
        self._hits = hits
        self._store = store
        self._quota_bytes = quota_bytes
        self._under_way = UnderWay(self._most_bytes, self._note_wait)
        self._held_back = metrics.held_back.labels(by="upload_bytes")
        self._limits = limits
        self._open_gauge = metrics.uploads_open
        self._budget = budget
        self._compute = compute
        self._by_name: dict[UploadName, OpenUpload] = {}
        self._parked: dict[UploadName, OpenUpload] = {}  # the longest parked first
        self._ending: set[asyncio.Task[None]] = set()
        self._once = 0  # uploads that no other stream can resume

    def __repr__(self) -> str:
        return f"<Uploads {self.count} open, {len(self._parked)} of them parked>"

    @property
    def count(self) -> int:
        """How many are open."""
        return len(self._by_name) + self._once

    def is_open(self, name: UploadName) -> bool:
        """Whether a stream feeds this upload, or it waits for one."""
        return name in self._by_name

    def resumable_bytes(self, name: UploadName) -> int:
        """Return the offset at which a stream may resume; 0 for an unknown upload."""
        upload = self._by_name.get(name)
        return upload.rules.resumable_bytes if upload is not None else 0

    @asynccontextmanager
    async def claim(self, name: UploadName, requests: RequestStream) -> AsyncIterator[OpenUpload]:
        """Own the upload; afterwards it is parked, or dropped if no stream can resume it.

        Raises TooBusy, and UploadSuperseded when another stream came while this one waited.
        """
        has_waited = await self._wait_for_turn(name)
        upload = self._by_name.get(name) or self._add(name)
        claim, previous = _Claim(requests), upload.owner
        # Before any await, so that of several newcomers the last one owns it.
        upload.owner = claim
        upload.taken_over = has_waited or previous is not None
        self._unpark(upload)
        try:
            if previous is not None:
                previous.requests.interrupt(
                    UploadSuperseded("another stream took over this upload")
                )
                # Shielded: others wait for the same future.
                await asyncio.shield(previous.released)
            # Somebody newer came while this stream waited.
            if upload.owner is not claim:
                raise UploadSuperseded("another stream took over this upload")
            claim.entered = True
            yield upload
        finally:
            # Not awaited: what is written for a later stream is no business of this one's caller.
            self._start_ending(self._release(upload, claim, previous))

    async def _wait_for_turn(self, name: UploadName) -> bool:
        """Wait while the upload's stream receives bytes, if it took the upload over from another.

        Return whether there was such a stream. Two jobs of BuildStream push the same blob under
        one name, and each begins again as soon as the other has taken over. Without turns they
        would do so until one gives up.
        """
        upload = self._by_name.get(name)
        if upload is None or upload.owner is None or not upload.taken_over:
            return False
        released, came_bytes = upload.owner.released, -1
        while not released.done() and upload.rules.received_bytes != came_bytes:
            came_bytes = upload.rules.received_bytes
            await asyncio.wait({released}, timeout=_TURN_S)
        return True

    @asynccontextmanager
    async def once(self, begin: Callable[[], Ingest], caller: str) -> AsyncIterator[UploadReceiver]:
        """Receive an upload that no other stream can resume; what is not finished is dropped.

        Raises BlobTooLarge, StorageFull, StorageFailed, TooBusy.
        """
        self._check_room()
        self._once += 1
        try:
            receiver = await self._receiver(begin, caller, None)
            try:
                yield receiver
            finally:
                await asyncio.shield(self._start_ending(receiver.abort()))
        finally:
            self._once -= 1

    async def begin(
        self, upload: OpenUpload, provenance: Provenance, caller: str
    ) -> UploadReceiver:
        """Return the receiver of this upload, a new one at its first bytes.

        Raises BlobTooLarge, StorageFull, StorageFailed, TooBusy.
        """
        if upload.receiver is not None:
            upload.receiver.go_on()
            return upload.receiver
        digest = upload.name.digest
        upload.receiver = await self._receiver(
            partial(self._store.begin, digest, provenance=provenance),
            caller,
            Decoder(digest.size_bytes) if upload.name.compressed else None,
        )
        return upload.receiver

    async def _receiver(
        self, begin: Callable[[], Ingest], caller: str, decoder: Decoder | None
    ) -> UploadReceiver:
        while True:
            try:
                ingest = begin()
            except TooBusy:
                if not await self._make_room():
                    raise
                continue
            return UploadReceiver(
                ingest,
                decoder,
                self._budget,
                self._compute,
                self._under_way.begin(caller),
                self._make_room,
            )

    async def _make_room(self) -> bool:
        """Drop the upload that has been parked for longest; False: there is none."""
        if not self._parked:
            return False
        await self._drop(next(iter(self._parked.values())))
        return True

    def _most_bytes(self) -> int:
        """Return a caller's most unfinished bytes: the limit, or a part of a small quota."""
        most = self._limits.upload_bytes_per_caller
        if most and self._quota_bytes is not None:
            most = max(1, min(most, self._quota_bytes() // _QUOTA_PARTS))
        return most

    def _note_wait(self, caller: str) -> None:
        self._held_back.inc()
        if self._hits is not None:
            self._hits.hit("upload-bytes-per-caller", caller, most_bytes=self._most_bytes())

    async def drop_parked(self, name: UploadName) -> None:
        """Drop an upload that no stream owns, if there is one of this name."""
        if (upload := self._parked.get(name)) is not None:
            await self._drop(upload)

    async def start_over(self, upload: OpenUpload) -> None:
        """Drop what an owned upload has received."""
        await asyncio.shield(self._start_ending(upload.reset()))

    async def close(self) -> None:
        """Drop all uploads; the streams have ended."""
        while self._ending:
            await asyncio.wait(self._ending)
        while self._parked:
            await self._drop(next(iter(self._parked.values())))

    def _add(self, name: UploadName) -> OpenUpload:
        self._check_room()
        upload = self._by_name[name] = OpenUpload(name)
        self._open_gauge.set(len(self._by_name))
        return upload

    def _check_room(self) -> None:
        """Drop a parked upload if as many are open as are allowed. Raises TooBusy: none is."""
        if self.count >= self._limits.uploads:
            if not self._parked:
                raise TooBusy(f"{self._limits.uploads} uploads are open, as many as are allowed")
            self._expire(next(iter(self._parked.values())))

    async def _release(self, upload: OpenUpload, claim: _Claim, previous: _Claim | None) -> None:
        """Let the next stream in once the bytes of this one and earlier ones are written."""
        try:
            if previous is not None:
                await previous.released
            if claim.entered:
                await upload.park()
        finally:
            claim.released.set_result(None)
            if upload.owner is claim:
                upload.owner = None
                self._park(upload)

    def _park(self, upload: OpenUpload) -> None:
        if upload.rules.resumable_bytes == 0:  # nothing to resume
            self._expire(upload)
            return
        self._parked[upload.name] = upload
        loop = asyncio.get_running_loop()
        upload.idle_timer = loop.call_later(self._limits.upload_idle, self._expire, upload)

    def _unpark(self, upload: OpenUpload) -> None:
        self._parked.pop(upload.name, None)
        if upload.idle_timer is not None:
            upload.idle_timer.cancel()
            upload.idle_timer = None

    def _forget(self, upload: OpenUpload) -> None:
        self._unpark(upload)
        del self._by_name[upload.name]
        self._open_gauge.set(len(self._by_name))

    def _expire(self, upload: OpenUpload) -> None:
        self._forget(upload)
        if upload.receiver is not None:
            self._start_ending(upload.reset())

    async def _drop(self, upload: OpenUpload) -> None:
        self._forget(upload)
        await asyncio.shield(self._start_ending(upload.reset()))

    def _start_ending(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run to the end, whatever happens to the stream that started it."""
        task = asyncio.get_running_loop().create_task(work, name="upload ending")
        self._ending.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._ending.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("upload_ending_failed", exc_info=error)
