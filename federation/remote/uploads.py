"""Blobs on their way to a remote: each sent once, as zstd where that works, never what is wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from federation.core.digest import Digest
from federation.remote.capabilities import Capabilities
from federation.remote.client import Remote
from federation.remote.compression import ZSTD_AT_FAULT, Zstd
from federation.remote.failures import FailureKind, RemoteFailed, failure
from federation.remote.replay import Replay, ZstdReplay
from federation.remote.writing import Upload


class _Turns:
    """Who writes one blob, and who waits for that."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.users = 0


class Uploads:
    """What is being sent to one remote."""

    def __init__(self, remote: Remote, zstd: Zstd) -> None:
        self._remote = remote
        self._zstd = zstd
        self._writing: dict[Digest, _Turns] = {}

    def __repr__(self) -> str:
        return f"<Uploads {len(self._writing)} written by turns>"

    @asynccontextmanager
    async def turn(self, digest: Digest) -> AsyncIterator[None]:
        """Let those who write one blob do so one after the other."""
        turns = self._writing.setdefault(digest, _Turns())
        turns.users += 1
        try:
            async with turns.lock:
                yield
        finally:
            turns.users -= 1
            if not turns.users:
                del self._writing[digest]

    async def send(
        self, digest: Digest, plain: Replay, number: int | None = None, *, goes_on: bool = False
    ) -> bool:
        """Send a blob that the remote misses. False: it was there after all.

        number: names the upload, so that a later one may go on with it. goes_on: this is a later
        one; its bytes are plain, since remotes take compressed ones only from the start.

        Raises RemoteFailed, and what plain raises.
        """
        can = await self._remote.capabilities()
        self._check_taken(digest, can)
        if number is None:
            number = self._remote.random.getrandbits(128)
        try:
            if goes_on:
                return await self._upload(digest, number, zstd=False).go_on(plain)
            if self._zstd.suits(can, digest):
                try:
                    return await self._upload(digest, number, zstd=True).run(ZstdReplay(plain))
                except RemoteFailed as error:
                    if error.kind not in ZSTD_AT_FAULT or not await plain.rewind(0):
                        raise
                    self._zstd.rest(error.reason)
            return await self._upload(digest, number, zstd=False).run(plain)
        finally:
            await plain.close()

    def _upload(self, digest: Digest, number: int, *, zstd: bool) -> Upload:
        instance = self._remote.settings.instance_name
        calls, name = self._remote.calls, self._remote.name
        return Upload(calls, name, instance, digest, zstd=zstd, number=number)

    def _check_taken(self, digest: Digest, can: Capabilities) -> None:
        name = self._remote.name
        if not can.hashes_with(digest.function):
            detail = f"it does not store under {digest.function.name}"
            raise failure(name, FailureKind.REFUSED, detail)
        if can.blob_max_bytes is not None and digest.size_bytes > can.blob_max_bytes:
            detail = f"blob {digest} is larger than the {can.blob_max_bytes} bytes it takes"
            raise failure(name, FailureKind.REFUSED, detail)
