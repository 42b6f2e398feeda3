"""Uploads to a remote by ByteStream.Write: resumed after a break, as zstd where that works."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from federation.core.digest import Digest
from federation.remote import codec
from federation.remote.calls import Calls
from federation.remote.capabilities import Capabilities
from federation.remote.client import Remote
from federation.remote.compression import ZSTD_AT_FAULT, Zstd
from federation.remote.failures import FailureKind, NotFound, RemoteFailed, failure
from federation.remote.methods import QUERY_WRITE, WRITE
from federation.remote.replay import Replay, ZstdReplay
from federation.wire.resource_name import upload_name

_ANY_SIZE = -1  # REAPI: committed_size of a compressed upload that was not needed

# Breaks behind which the remote may still have what was sent. After a stall the connection is as
# good as dead, and after a timeout the remote is overloaded: going on at once would help neither.
_CAN_GO_ON = frozenset(
    {
        FailureKind.UNAVAILABLE,
        FailureKind.INTERNAL,
        FailureKind.CANCELLED,
        FailureKind.CROWDED,
    }
)


class BlobUpload:
    """One upload; run() is called once."""

    def __init__(
        self, calls: Calls, remote: str, instance: str, digest: Digest, *, zstd: bool, number: int
    ) -> None:
        self._calls = calls
        self._remote = remote
        self._digest = digest
        self._zstd = zstd
        # REAPI: the name of an upload has a UUID in it. The same number gives the same name again.
        unique = str(uuid.UUID(int=number, version=4))
        self._name = upload_name(digest, unique, instance, compressed=zstd)

    async def run(self, source: Replay) -> bool:
        """Send the blob. False: the remote held it already and did not want the rest.

        Raises RemoteFailed, and what the source raises.
        """
        try:
            return await self._send(source, 0)
        except RemoteFailed as error:
            if error.kind not in _CAN_GO_ON:
                raise
            try:
                offset, complete = await self._standing()
            # The first failure says why the upload broke; a second question that fails says less.
            except RemoteFailed:
                raise error from None
            # The break came behind the last byte, and the answer was lost.
            if complete:
                return True
            if not await source.rewind(offset):
                raise
            return await self._send(source, offset)

    async def go_on(self, source: Replay) -> bool:
        """Send the rest of an earlier upload of this number.

        Raises RemoteFailed, and what the source raises.
        """
        offset, complete = await self._standing()
        if complete:
            return True
        return await self._send(source, offset if await source.rewind(offset) else 0)

    async def _standing(self) -> tuple[int, bool]:
        """Return the committed offset (0: unknown), and whether the remote has the whole blob."""
        try:
            data = await self._calls.unary(QUERY_WRITE, codec.query_request(self._name))
        except NotFound:
            return 0, False
        except RemoteFailed as error:
            if error.kind in {FailureKind.UNSUPPORTED, FailureKind.REFUSED}:
                return 0, False
            raise
        offset, complete = codec.write_status(self._remote, data)
        if self._zstd or not 0 <= offset <= self._digest.size_bytes:
            offset = 0  # only plain uploads count the blob's own bytes
        return offset, complete

    async def _send(self, source: Replay, offset: int) -> bool:
        sent = offset
        async with self._calls.outgoing(WRITE) as stream:
            last = False
            # REAPI: a server answers early when it has the blob already.
            while not last and not stream.is_answered:
                data, last = await source.next()
                message = codec.write_request(self._name, sent, data, finish=last)
                if not await stream.send(message):
                    last = False
                    break
                sent += len(data)
                await asyncio.sleep(0)  # lets the remote's early answer be seen
            try:
                response = await stream.answer()
            except NotFound as error:  # no answer to a Write that means anything
                raise failure(self._remote, FailureKind.INTERNAL, str(error)) from None
            except RemoteFailed as error:
                # Some servers say so instead of an early OK.
                if error.kind is FailureKind.EXISTS:
                    return False
                raise
        self._check(codec.committed(self._remote, response), sent, last)
        return last

    def _check(self, committed: int, sent: int, all_sent: bool) -> None:
        """Check that an OK means the whole blob, in one of the ways that servers count bytes."""
        whole = {self._digest.size_bytes}
        if self._zstd:
            whole.add(_ANY_SIZE)
            # Servers answer with the blob's size, -1 (REAPI) or the count of compressed bytes.
            if all_sent:
                whole.add(sent)
        if committed not in whole:
            detail = f"it took only {committed} bytes of blob {self._digest} and said OK"
            raise failure(self._remote, FailureKind.INTERNAL, detail)


class _Turns:
    """A lock of one blob, and how many use it."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.users = 0


class BlobUploads:
    """The uploads to one remote."""

    def __init__(self, remote: Remote, zstd: Zstd) -> None:
        self._remote = remote
        self._zstd = zstd
        self._writing: dict[Digest, _Turns] = {}

    def __repr__(self) -> str:
        return f"<BlobUploads {len(self._writing)} written by turns>"

    @asynccontextmanager
    async def turn(self, digest: Digest) -> AsyncIterator[None]:
        """Serialize the writers of one blob."""
        turns = self._writing.setdefault(digest, _Turns())
        turns.users += 1
        try:
            async with turns.lock:
                yield
        finally:
            turns.users -= 1
            # Counted, as a lock does not tell whether somebody is about to wait for it.
            if not turns.users:
                del self._writing[digest]

    async def send(
        self, digest: Digest, plain: Replay, number: int | None = None, *, goes_on: bool = False
    ) -> bool:
        """Send a blob that the remote lacks. False: it was there after all.

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
                    # Bytes that are not kept any more cannot be sent again as plain ones.
                    if error.kind not in ZSTD_AT_FAULT or not await plain.rewind(0):
                        raise
                    self._zstd.rest(error.reason)
            return await self._upload(digest, number, zstd=False).run(plain)
        finally:
            await plain.close()

    def _upload(self, digest: Digest, number: int, *, zstd: bool) -> BlobUpload:
        instance = self._remote.settings.instance_name
        calls, name = self._remote.calls, self._remote.name
        return BlobUpload(calls, name, instance, digest, zstd=zstd, number=number)

    def _check_taken(self, digest: Digest, can: Capabilities) -> None:
        name = self._remote.name
        if not can.hashes_with(digest.function):
            detail = f"it does not store under {digest.function.name}"
            raise failure(name, FailureKind.REFUSED, detail)
        if can.blob_max_bytes is not None and digest.size_bytes > can.blob_max_bytes:
            detail = f"blob {digest} is larger than the {can.blob_max_bytes} bytes it takes"
            raise failure(name, FailureKind.REFUSED, detail)
