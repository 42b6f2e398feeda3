"""The contracts between services and whatever keeps blobs.

Store is implemented by local storage, remote servers and pull-through; every implementation passes
tests/contracts/store/. core/index.py has the same for action results and assets.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Protocol, runtime_checkable

from federation.core.digest import Digest, DigestFunction
from federation.core.errors import FederationError
from federation.core.provenance import FROM_CLIENT, Provenance

CHUNK_BYTES = 2 * 1024 * 1024
SMALL_BLOB_BYTES = 4 * 1024 * 1024  # most that read_small and write_small take as one blob

Chunks = AsyncIterator[bytes]
Piece = bytes | memoryview  # a view of a large message saves a copy
NextBytes = Callable[[], int]


class FilePart(NamedTuple):
    """Bytes of a blob in an open file, which stays open as long as its chunks are."""

    fd: int
    offset: int
    size_bytes: int


@runtime_checkable
class InFile(Protocol):
    """Chunks that can also be handed out as parts of a file, for sockets that send those."""

    def next_part(self, most_bytes: int) -> FilePart | None:
        """Return the next bytes, which count as read then; None: they have to be read as a chunk.

        They are in memory, and need no verification. Called after the first chunk at the earliest.
        """
        ...


class Growing(Protocol):
    """Read access to what an ingest has received so far; outlives the ingest's end."""

    async def read(self, offset: int, size_bytes: int) -> bytes:
        """Return bytes that append has taken. Raises SourceUnavailable."""
        ...

    async def close(self) -> None:
        """Let go. Never raises; safe to call twice."""
        ...


class Ingest(Protocol):
    """One blob being received. Nothing of it is visible before commit() returned.

    Exactly one of commit and abort ends it; both are safe after a failure of append.
    """

    provenance: Provenance  # as given to begin(); may be made more precise until commit()

    @property
    def digest(self) -> Digest:
        """What the bytes must turn out to be."""
        ...

    @property
    def received_bytes(self) -> int:
        """How many bytes append has taken."""
        ...

    async def append(self, data: Piece, on_hashed: Callable[[], None] | None = None) -> None:
        """Take the next bytes; returns when they are hashed and handed to the disk or buffered.

        on_hashed, where given, is called on the event loop as soon as they are hashed, before they
        are stored. After the last bytes, verify() can say then what it would say later.

        Raises:
            DigestMismatch: more bytes than the digest's size. Raised before any are written.
            StorageFull: no room. Raised before any are taken: they may be given again.
        """
        ...

    async def open_growing(self) -> Growing:
        """Open what is received for reading while more arrives.

        For blobs too large for the catalogue, after the first append and before commit or abort.
        Raises SourceUnavailable, TooBusy.
        """
        ...

    def verify(self) -> None:
        """Compare what came with the digest; commit() does it too. Raises DigestMismatch."""
        ...

    async def commit(self) -> bool:
        """Verify, make durable, make visible. True: stored; False: it was already there.

        Raises:
            DigestMismatch: too few bytes, or other bytes than the digest names; nothing is kept.
            StorageFull, StorageFailed: nothing is kept.
        """
        ...

    async def abort(self) -> None:
        """Drop what was received. Never raises; safe to call twice and after commit."""
        ...


class Readable(Protocol):
    """The part of Store that changes nothing."""

    async def find_missing(self, digests: Collection[Digest]) -> set[Digest]:
        """Return those that are not held; the others are leased (not evicted for a lease period).

        Raises SourceUnavailable when a remote store does not answer, or the disk of a local one
        does not tell whether a blob's file is there.
        """
        ...

    def open_read(
        self,
        digest: Digest,
        *,
        offset: int = 0,
        limit: int | None = None,
        next_bytes: NextBytes | None = None,
    ) -> AbstractAsyncContextManager[Chunks]:
        """Stream bytes offset..offset+limit of the blob (limit None: to its end).

        Yields non-empty chunks of at most CHUNK_BYTES. next_bytes, where given, is asked on the
        event loop right before each chunk is read for the most bytes that it may have (at least
        1), so that a reader's speed can set the size. At most one chunk is read ahead.

        Entering settles whether the blob is here, so the caller may still try another source.

        Raises on entry:
            BlobNotFound: the store answered and does not hold it.
            SourceUnavailable: the store did not answer; absence is unknown.
            OffsetOutside: not in 0..digest.size_bytes (google.bytestream ReadRequest).
        Raises while iterating: SourceUnavailable, BlobDamaged (before the last chunk),
        BlobNotFound (the blob was purged meanwhile).
        """
        ...

    async def read_small(self, digests: Sequence[Digest]) -> list[bytes | None]:
        """Return each blob's bytes, None where it is not held or found damaged.

        For batches: one hop for all of them. Leases what it returns.
        """
        ...


class Store(Readable, Protocol):
    """Blobs by digest. The empty blob is always held. All methods are safe to call concurrently
    and to cancel: a cancelled write stores all or nothing.
    """

    async def write(
        self, digest: Digest, chunks: AsyncIterable[bytes], *, provenance: Provenance = FROM_CLIENT
    ) -> bool:
        """Store one blob: verified, durable and visible on return. False: it was already there.

        Raises DigestMismatch, BlobTooLarge, StorageFull, StorageFailed, or what chunks raises; in
        each case nothing of this write is kept.
        """
        ...

    async def write_small(
        self,
        blobs: Sequence[tuple[Digest, bytes]],
        *,
        provenance: Provenance = FROM_CLIENT,
    ) -> list[FederationError | None]:
        """Store a batch in one durable step; per blob None (held now) or why it was refused."""
        ...


class DigestCodec(NamedTuple):
    """Turns names into SHA-256 digests: hashes_of gives the raw hashes of several, size_of a size.

    hashes_of may raise for a malformed name; then no name of that call is used.
    """

    hashes_of: Callable[[Sequence[bytes]], list[bytes]]
    size_of: Callable[[bytes], int]

    def digests_of(self, names: Sequence[bytes]) -> list[Digest]:
        """Return their digests, in order."""
        return list(map(Digest, self.hashes_of(names), map(self.size_of, names)))


class LocalStore(Store, Protocol):
    """What services need beyond Store from the node's own storage."""

    def begin(self, digest: Digest, *, provenance: Provenance = FROM_CLIENT) -> Ingest:
        """Start receiving a blob; room is reserved as its bytes come.

        Raises BlobTooLarge, StorageFull (it is larger than all that may be kept), StorageFailed,
        TooBusy.
        """
        ...

    def begin_unsized(
        self,
        function: DigestFunction,
        raw_hash: bytes | None = None,
        *,
        announced_bytes: int = 0,
        provenance: Provenance = FROM_CLIENT,
    ) -> Ingest:
        """Start receiving a blob of unknown size: the ingest's digest is known once it verified.

        raw_hash: what the bytes must hash to; None: the blob is named by whatever they hash to.
        announced_bytes: how many are to come, where that is known: it is refused if too large.
        append raises BlobTooLarge at the first byte too many. Raises as begin() does.
        """
        ...

    async def size_of(self, function: DigestFunction, raw_hash: bytes) -> int | None:
        """Return the size of the blob with this hash that is held here; None: there is none.

        Gives no lease: the blob may be gone when it is read. Raises SourceUnavailable.
        """
        ...

    async def write_one(
        self, digest: Digest, data: bytes, *, provenance: Provenance = FROM_CLIENT
    ) -> bool:
        """Store a small blob whose bytes have all come. False: it was already there.

        Like accept_held and write_small together, in one step. Of a blob that is held, the bytes
        do not matter. Several that write it at the same time may all be told True.

        Raises DigestMismatch, BlobTooLarge, StorageFull, StorageFailed, TooBusy,
        SourceUnavailable; nothing is kept then.
        """
        ...

    async def accept_held(self, digest: Digest, *, provenance: Provenance = FROM_CLIENT) -> bool:
        """Whether a blob is held here, so that none of its bytes are needed; then it is leased.

        What only an upstream gave comes from provenance, too, from then on: it is sent to peers
        that get what was received, but not what was pulled.

        Raises StorageFull and StorageFailed where that cannot be written, SourceUnavailable.
        """
        ...

    async def find_missing_named(self, names: Sequence[bytes], spelling: DigestCodec) -> set[bytes]:
        """Return those of which the blob is not held; the others are leased.

        Thousands are asked about at once, and most were a moment ago: the store remembers their
        names, and has only the others turned into digests.

        names: each differs from the others, and is that of the same SHA-256 digest at all times;
        none is the empty blob's.
        Raises SourceUnavailable as find_missing does, and what spelling.hashes_of raises.
        """
        ...

    def find_missing_at_once(
        self, names: Sequence[bytes], spelling: DigestCodec
    ) -> set[bytes] | None:
        """Do what find_missing_named does; None if that has to wait for a thread or another server.

        Raises what spelling.hashes_of raises.
        """
        ...

    def read_at_once(self, digest: Digest) -> bytes | None:
        """Return a small blob's bytes, leased as by a read; None if that has to wait.

        Raises BlobNotFound where nobody else is asked for it.
        """
        ...

    def commits(self) -> int:
        """A number that changes within a moment after a blob was committed, in any process."""
        ...


class HeldWatch(Protocol):
    """What a store remembers about blobs that one look-up found held: see WatchesHeld."""

    def renew(self, digests: Callable[[], Collection[Digest]] | None) -> bool:
        """Return whether all of them are still held for certain, without a look-up.

        True leases them, or counts as a use, as a look-up of the current task would. False: not
        known; look them up again, with a new watch.

        digests: returns the blobs; called when a lease has to be renewed. None: the caller has
        forgotten them; then the answer is True only until their leases have to be renewed.
        """
        ...


class WatchesHeld(Protocol):
    """The part of a node's own storage that saves looking up the same blobs again."""

    def watch(self) -> HeldWatch:
        """Return a watch over the blobs that look-ups from now on find held, on the loop.

        It must not be used for blobs of which any is missing.
        """
        ...
