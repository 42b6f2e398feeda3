"""Sends the parts of one upload to the bucket while its bytes still come into the spool.

Parts are read back from the spool one by one, so that memory is bounded by the parts under way and
not by the number of uploads.
"""

from __future__ import annotations

import asyncio
import os

from federation.core.digest import Digest
from federation.core.errors import SourceUnavailable
from federation.core.store import Growing, Ingest
from federation.storage.shared.catalogue.rows import BlobObject
from federation.storage.shared.naming import (
    PART_BYTES,
    part_bytes,
    part_count,
    part_name,
    part_names,
)
from federation.storage.shared.site_context import SiteContext

ATTEMPT_BYTES = 8
_SENDERS = 4  # parts of one upload at once
_BEHIND_PARTS = 16  # the client waits while more than this are not sent


class PartSender:
    """The parts of one upload, each sent once. Exactly one of finish() and drop() ends it."""

    def __init__(self, core: SiteContext, digest: Digest, spool: Ingest) -> None:
        self.upload = BlobObject(digest, os.urandom(ATTEMPT_BYTES))
        self._core = core
        self._spool = spool
        self._growing: Growing | None = None
        self._parts = part_count(digest.size_bytes)
        self._ready = 0  # parts that are whole in the spool
        self._begun = 0
        self._sent = 0
        self._moved = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: Exception | None = None

    def __repr__(self) -> str:
        return f"<PartSender {self.upload.digest} {self._sent} of {self._parts}>"

    async def came(self, received_bytes: int) -> None:
        """Send what is whole now; waits while the bucket is far behind the client.

        Raises SourceUnavailable as soon as a part could not be sent.
        """
        is_last = received_bytes == self.upload.digest.size_bytes
        self._ready = self._parts if is_last else received_bytes // PART_BYTES
        await self._open()
        self._start()
        async with self._moved:
            await self._moved.wait_for(
                lambda: self._failure is not None or self._ready - self._sent <= _BEHIND_PARTS
            )
        if self._failure is not None:
            raise self._failure

    async def finish(self) -> None:
        """Send the rest. Raises SourceUnavailable."""
        self._ready = self._parts
        await self._open()
        self._start()
        while self._tasks and self._failure is None:
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        if self._failure is not None:
            raise self._failure
        await self._let_go()

    async def drop(self) -> None:
        """Stop, and delete what was sent; what cannot be deleted is swept later."""
        self._failure = self._failure or SourceUnavailable("upload", "it was given up")
        async with self._moved:
            self._moved.notify_all()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._let_go()
        if self._begun:
            try:
                await self._core.bucket.delete(part_names(self.upload)[: self._begun])
            except SourceUnavailable:
                return

    async def _open(self) -> None:
        if self._growing is None and self._ready:
            self._growing = await self._spool.open_growing()

    def _start(self) -> None:
        while self._failure is None and self._begun < self._ready and len(self._tasks) < _SENDERS:
            part, self._begun = self._begun, self._begun + 1
            name = f"send {self.upload.digest} part {part}"
            task = self._core.background.start(self._send(part), name)
            self._tasks.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._start()

    async def _send(self, part: int) -> None:
        """Send one part. A failure is kept for who waits: nobody looks at this task."""
        try:
            await self._core.marker.check_or_fail()
            async with self._core.sending:
                data = await self._read(part)
                await self._core.bucket.put(part_name(self.upload, part), data)
        except Exception as error:  # noqa: BLE001 - raised by came() or finish()
            self._failure = self._failure or error
        async with self._moved:
            self._sent += 1
            self._moved.notify_all()

    async def _read(self, part: int) -> bytes:
        assert self._growing is not None
        size_bytes = part_bytes(self.upload.digest.size_bytes, part)
        data = await self._growing.read(part * PART_BYTES, size_bytes)
        if len(data) != size_bytes:
            raise SourceUnavailable("spool", f"{len(data)} bytes instead of {size_bytes}")
        return data

    async def _let_go(self) -> None:
        if self._growing is not None:
            await self._growing.close()
