"""One upload into a file: what was hashed is not yet what was written."""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable

import pytest

from federation.core.digest import digest_of
from federation.core.errors import DigestMismatch, StorageFull
from federation.storage import ingest as module
from federation.storage.storage import Storage
from tests.storage.conftest import MIB

DATA = os.urandom(2 * MIB)


async def test_p2_bytes_that_were_hashed_and_not_written_make_no_blob(
    open_storage: Callable[..., Awaitable[Storage]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With readers that follow, hashing is ahead of the disk, which then has no room."""
    storage = await open_storage()
    digest = digest_of(DATA)
    ingest = storage.begin(digest)
    await ingest.append(DATA[:MIB], lambda: None)

    def no_room(_fd: int, _data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    hashed: list[bool] = []
    with monkeypatch.context() as patch:
        patch.setattr(module, "write_whole", no_room)
        with pytest.raises(StorageFull):
            await ingest.append(DATA[MIB:], lambda: hashed.append(True))
    ingest.verify()  # all of it was hashed, and it is right
    assert hashed
    with pytest.raises(DigestMismatch, match="bytes were stored"):
        await ingest.commit()
    assert await storage.find_missing([digest]) == {digest}
