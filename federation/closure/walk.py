"""Walks over everything an index entry names, to find out whether all of it is held.

The walk is breadth-first and iterative. Leaves are looked up in batches; each structure is read
once. The calls that find something also lease it. Memory is bounded: leaves are forgotten once
checked, few walks hold batches of structures at once, and only one walk over a large closure runs
at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, nullcontext

from federation.closure.names import SLICE, Names, Shape, Structure, names_of_structure
from federation.config.model import LimitsConfig
from federation.core.digest import Digest, DigestFunction
from federation.core.errors import BlobDamaged, BlobNotFound, FederationError, InvalidRequest
from federation.core.store import SMALL_BLOB_BYTES, Readable
from federation.wire.protobuf import Buffer

STRUCTURE_MAX_BYTES = 64 * 2**20  # largest structure read; a directory of 600,000 files fits
_LEAVES = 2000  # blobs in one find_missing
_READ_STRUCTURES = 256  # in one read_small
_READ_BYTES = SMALL_BLOB_BYTES  # in one read_small, unless its first structure is larger
_REMEMBERED_LEAVES = 20_000  # not looked up again; more would slow garbage collection down
_MALFORMED_MAX = 10_000  # about 2 MB
_REMEMBERED_BYTES = 16 * 2**10  # a smaller structure can be read again as quickly
_LARGE_WALK_STRUCTURES = 50_000
_UNCOUNTED_BYTES = 256 * 2**10  # a batch of structures up to this size needs no permit


class TooLarge(FederationError):
    """The closure is beyond the limits of this node."""


class _Hole(Exception):
    """Something that the entry names is missing."""


class WalkContext:
    """Shared by all walks of one kind: how many run at once, and which structures are malformed.

    A walk that holds a permit to read never waits for the lock of large walks.
    """

    def __init__(self) -> None:
        # A walk over a million structures takes more than a hundred megabytes: one at a time.
        self.large = asyncio.Lock()
        # Each holds up to SMALL_BLOB_BYTES of structures, besides the one large one.
        self.reads = asyncio.Semaphore(8)
        self.malformed: dict[bytes, str] = {}  # packed structures, and why

    def add_malformed(self, packed: bytes, reason: str) -> None:
        """Remember a structure that can never be read: its digest is the hash of its bytes."""
        if len(self.malformed) >= _MALFORMED_MAX:
            del self.malformed[next(iter(self.malformed))]
        self.malformed[packed] = reason


class Walk:
    """One walk over one entry. Use once."""

    def __init__(self, store: Readable, limits: LimitsConfig, context: WalkContext) -> None:
        self._store = store
        self._limits = limits
        self._context = context
        self._large = AsyncExitStack()  # holds the lock of large walks
        self._is_large = False
        self._leaves: set[Digest] = set()
        self._checked: set[Digest] = set()
        self._level: list[bytes] = []  # packed like _seen: there may be a million
        # A directory is read once, however often it is named: thirty levels that each name their
        # child twice are a tree of a billion.
        self._seen: set[bytes] = set()
        self._blobs = self._directories = self._work = 0

    @property
    def visited(self) -> int:
        """How many blobs and structures the walk has come across."""
        return self._blobs + len(self._seen)

    def found(self, most: int) -> set[Digest] | None:
        """Return what a complete walk found held, without empty blobs; None if that is too much."""
        if self.visited > most:
            return None
        structures = {_unpacked(packed)[1] for packed in self._seen}
        return {digest for digest in self._checked | structures if digest.size_bytes}

    async def complete(self, entry_names: Callable[[], Iterator[Names]]) -> bool:
        """Return whether everything is held.

        entry_names: yields what the entry itself names.

        Raises:
            InvalidRequest: the entry or a structure is malformed.
            TooLarge: the closure is beyond the limits.
            SourceUnavailable: the store cannot answer.
        """
        async with self._large:
            try:
                await self._take_all(entry_names())
                while self._level:
                    level, self._level = self._level, []
                    await self._open_level(level)
                await self._check_leaves()
            except _Hole:
                return False
            return True

    async def _take_all(self, parts: Iterator[Names]) -> None:
        for names in parts:
            await self._take(names)

    async def _take(self, names: Names) -> None:
        self._blobs += len(names.blobs)
        self._directories += names.directories_held
        self._leaves.update(names.blobs)
        for structure in names.structures:
            self._meet(structure)
        self._check_limits()
        if len(self._leaves) >= _LEAVES:
            await self._check_leaves()
        self._work += 1 + len(names.blobs) + len(names.structures)
        if self._work >= SLICE:
            self._work = 0
            await asyncio.sleep(0)  # lets the event loop run; a cancelled walk ends here

    def _meet(self, structure: Structure) -> None:
        packed = _packed(structure)
        # Entries of one build share it: none of them has to read it again to fail.
        if (reason := self._context.malformed.get(packed)) is not None:
            raise InvalidRequest(reason)
        if packed not in self._seen:
            self._seen.add(packed)
            self._level.append(packed)

    def _check_limits(self) -> None:
        if self._blobs > self._limits.closure_blobs:
            raise TooLarge(f"it names more than {self._limits.closure_blobs} blobs")
        if self._directories + len(self._seen) > self._limits.tree_directories:
            raise TooLarge(f"it has more than {self._limits.tree_directories} directories")

    async def _check_leaves(self) -> None:
        # Builds name the same file in many directories.
        leaves = self._leaves - self._checked
        self._leaves.clear()
        if leaves and await self._store.find_missing(leaves):
            raise _Hole
        # To ask about a leaf twice is cheaper than to keep a million of them.
        if len(self._checked) > _REMEMBERED_LEAVES:
            self._checked.clear()
        self._checked |= leaves

    async def _open_level(self, level: list[bytes]) -> None:
        # Before any permit to read is held: see WalkContext.
        if len(self._seen) > _LARGE_WALK_STRUCTURES:
            await self._wait_for_large()
        for batch in _batches(level):
            size_bytes = sum(digest.size_bytes for _, digest in batch)
            if size_bytes > SMALL_BLOB_BYTES:
                await self._wait_for_large()
            async with self._context.reads if size_bytes > _UNCOUNTED_BYTES else nullcontext():
                await self._open_batch(batch)

    async def _open_batch(self, batch: list[Structure]) -> None:
        for structure, data in zip(batch, await self._read(batch), strict=True):
            try:
                await self._take_structure(structure, data)
            except InvalidRequest as error:
                # The digest is that of the bytes, so the verdict holds for good.
                if len(data) > _REMEMBERED_BYTES:
                    self._context.add_malformed(_packed(structure), str(error))
                raise

    async def _take_structure(self, structure: Structure, data: Buffer) -> None:
        shape, digest = structure
        if len(data) <= SMALL_BLOB_BYTES:
            await self._take_all(names_of_structure(shape, data, digest.function))
        else:
            await self._take_large(structure, data)

    async def _take_large(self, structure: Structure, data: Buffer) -> None:
        """Read in a thread: hashing the directories of a large Tree would block the event loop."""
        shape, digest = structure
        parts = await asyncio.to_thread(names_of_structure, shape, data, digest.function)
        # Slice by slice: the walk may be cancelled in between, and leaves do not pile up.
        while (names := await asyncio.to_thread(next, parts, None)) is not None:
            await self._take(names)

    async def _read(self, batch: list[Structure]) -> Sequence[Buffer]:
        """Return the bytes of all structures: only small ones, or a single larger one."""
        digests = [digest for _, digest in batch]
        if digests[0].size_bytes > SMALL_BLOB_BYTES:
            return [await self._read_large(digests[0])]
        found = [data for data in await self._store.read_small(digests) if data is not None]
        if len(found) < len(digests):
            raise _Hole
        return found

    async def _read_large(self, digest: Digest) -> bytearray:
        if await self._store.find_missing([digest]):  # leases it, which reading does not
            raise _Hole
        if digest.size_bytes > STRUCTURE_MAX_BYTES:
            raise TooLarge(f"structure {digest} is larger than {STRUCTURE_MAX_BYTES} bytes")
        try:
            async with self._store.open_read(digest) as chunks:
                data = bytearray()  # grows in place; joining chunks would need twice the memory
                async for chunk in chunks:
                    data += chunk
                return data
        except (BlobNotFound, BlobDamaged):
            # It was here a moment ago: a miss and no error, as if it had been looked for later.
            raise _Hole from None

    async def _wait_for_large(self) -> None:
        if not self._is_large:
            await self._large.enter_async_context(self._context.large)
            self._is_large = True


def _packed(structure: Structure) -> bytes:
    shape, digest = structure
    head = bytes((shape, digest.function))
    return head + digest.size_bytes.to_bytes(8, "big") + digest.hash


def _unpacked(packed: bytes) -> Structure:
    size_bytes = int.from_bytes(packed[2:10], "big")
    return Shape(packed[0]), Digest(packed[10:], size_bytes, DigestFunction(packed[1]))


def _batches(level: list[bytes]) -> Iterator[list[Structure]]:
    """Cut a level into batches for read_small; a larger structure is a batch of its own."""
    batch: list[Structure] = []
    room_bytes = _READ_BYTES
    for packed in level:
        structure = _unpacked(packed)
        size_bytes = structure[1].size_bytes
        if batch and (size_bytes > room_bytes or len(batch) == _READ_STRUCTURES):
            yield batch
            batch, room_bytes = [], _READ_BYTES
        batch.append(structure)
        room_bytes -= size_bytes
    if batch:
        yield batch
