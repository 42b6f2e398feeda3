"""GetTree: the directories below a root, each once, breadth first.

The whole tree is sent in the one stream, in pages of at most page_size directories and about
1 MiB. No page carries a next_page_token, since there never is more to ask for: nothing has to be
remembered between calls, and a token that a client sends is one that this node never gave.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator

from google.protobuf.message import DecodeError

from federation.config.model import LimitsConfig
from federation.core.digest import Digest
from federation.core.errors import BlobNotFound, InvalidRequest, TooBusy
from federation.core.store import SMALL_BLOB_BYTES, Store
from federation.services.call import Call
from federation.services.cpu_pool import Compute
from federation.wire.cas_codec import decode_get_tree, encode_tree_page, subdirectories

PAGE_BYTES = 2**20
DIRECTORY_MAX_BYTES = SMALL_BLOB_BYTES - 2**16  # clients accept messages of up to 4 MiB
_READ_AT_ONCE = 1000


class TreeCalls:
    """GetTree over a store."""

    def __init__(self, store: Store, limits: LimitsConfig, compute: Compute) -> None:
        self._store = store
        self._compute = compute
        self._limits = limits

    async def get(self, request: bytes, call: Call) -> AsyncGenerator[bytes, None]:
        """Send the tree; directories that are not held are left out, but for the root."""
        asked = decode_get_tree(request)
        call.check_pull(asked.instance)
        if asked.page_token:
            raise InvalidRequest("page_token is not one that this node gave")
        walk = _Walk(asked.root, self._limits.tree_directories)
        page = _Page(asked.page_size or _READ_AT_ONCE)
        while batch := walk.next_batch():
            async for blob in self._read(batch, walk):
                # Sent before it grows beyond a message, and while the next directories are read.
                if page.is_full_with(blob):
                    yield page.take()
                page.add(blob)
        if page:
            yield page.take()

    async def _read(self, batch: list[Digest], walk: _Walk) -> AsyncGenerator[bytes, None]:
        """Yield those of the batch that are directories held here, and queue their children."""
        await self._check_sizes(batch, walk)
        readable = [digest for digest in batch if digest.size_bytes <= DIRECTORY_MAX_BYTES]
        blobs = await self._store.read_small(readable)
        for digest, blob in zip(readable, blobs, strict=True):
            # REAPI, GetTree: what is missing is left out, and the rest is answered; the root is
            # NOT_FOUND.
            if blob is not None:
                children = await self._children(digest, blob, walk)
                if children is not None:
                    walk.queue(children)
                    yield blob
            elif digest == walk.root:
                raise BlobNotFound(digest)

    async def _check_sizes(self, batch: list[Digest], walk: _Walk) -> None:
        """Refuse directories that are held but do not fit into a message."""
        large = [digest for digest in batch if digest.size_bytes > DIRECTORY_MAX_BYTES]
        # One that is held must not be left out as if it were missing.
        if large and (held := set(large) - await self._store.find_missing(large)):
            raise TooBusy(f"directory {held.pop()} does not fit into a message")
        if walk.root in large:
            raise BlobNotFound(walk.root)

    async def _children(self, digest: Digest, blob: bytes, walk: _Walk) -> list[Digest] | None:
        """Return the subdirectories; None for what is not a Directory and not the root."""
        try:
            return await self._compute.run(len(blob), subdirectories, blob, digest.function)
        except (DecodeError, InvalidRequest) as error:
            if digest == walk.root:
                raise InvalidRequest(f"blob {digest} is not a Directory: {error}") from None
            return None


class _Walk:
    """Which directories come next; iterative, since clients choose a tree's depth."""

    def __init__(self, root: Digest, directories_max: int) -> None:
        self.root = root
        self._directories_max = directories_max
        self._seen = {root}
        self._queue = deque([root])

    def next_batch(self) -> list[Digest]:
        """Return the next directories to read: about a page of them, none when all were read."""
        batch: list[Digest] = []
        left_bytes = PAGE_BYTES
        while self._queue and left_bytes > 0 and len(batch) < _READ_AT_ONCE:
            batch.append(self._queue.popleft())
            left_bytes -= batch[-1].size_bytes
        return batch

    def queue(self, children: list[Digest]) -> None:
        """Remember what was not seen yet. Raises TooBusy."""
        for child in children:
            if child not in self._seen:
                self._seen.add(child)
                self._queue.append(child)
        # Counted as they are named: a tree that is refused costs no reads of its last level.
        if len(self._seen) > self._directories_max:
            raise TooBusy(f"the tree has more than {self._directories_max} directories")


class _Page:
    """The directories of the next response."""

    def __init__(self, items_max: int) -> None:
        self._items_max = items_max
        self._blobs: list[bytes] = []
        self._size_bytes = 0

    def __bool__(self) -> bool:
        return bool(self._blobs)

    def is_full_with(self, blob: bytes) -> bool:
        """Whether the page has to be sent before this directory is added."""
        if not self._blobs:
            return False
        # A directory above a page's size goes alone.
        return len(self._blobs) >= self._items_max or self._size_bytes + len(blob) > PAGE_BYTES

    def add(self, blob: bytes) -> None:
        """Add a directory as it is stored."""
        self._blobs.append(blob)
        self._size_bytes += len(blob)

    def take(self) -> bytes:
        """Return the response and begin the next page."""
        response = encode_tree_page(self._blobs)
        self._blobs, self._size_bytes = [], 0
        return response
