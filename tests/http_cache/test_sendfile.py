"""Large values leave by sendfile: whole, past slow readers, and not without the page cache."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from federation.config.model import LimitsConfig, StorageConfig
from federation.core.clock import SystemClock
from federation.core.digest import digest_of
from federation.core.store import FilePart, InFile
from federation.http_cache.sendfile import send_file
from federation.observability.metrics import Metrics
from federation.storage.page_cache import is_cached
from federation.storage.storage import Storage

DATA = os.urandom(5_000_000)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    path = tmp_path / "file"
    path.write_bytes(DATA)
    fd = os.open(path, os.O_RDONLY)
    yield fd
    os.close(fd)


async def test_a_part_comes_whole_past_a_slow_reader_on_a_watched_socket(file: int) -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, ours)
    sending = loop.create_task(
        send_file(transport.get_extra_info("socket"), FilePart(file, 1000, 3_000_000))
    )
    came = bytearray()
    while len(came) < 3_000_000:
        came += await loop.sock_recv(theirs, 10_000)
    await sending
    assert came == DATA[1000:3_001_000]
    transport.close()
    theirs.close()


async def test_a_reader_that_leaves_is_noticed(file: int) -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    loop = asyncio.get_running_loop()
    sending = loop.create_task(send_file(ours, FilePart(file, 0, len(DATA))))
    await asyncio.sleep(0)
    theirs.close()
    with pytest.raises(OSError, match=r"pipe|reset"):
        await sending
    ours.close()


async def test_a_file_that_is_shorter_than_it_was_is_an_error(file: int) -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with pytest.raises(OSError, match="shorter"):
        await send_file(ours, FilePart(file, len(DATA) - 10, 100))
    ours.close()
    theirs.close()


@pytest.mark.disk  # a file system in memory does not say what is cached
def test_what_the_page_cache_has_is_known(file: int) -> None:
    assert is_cached(file, 0, len(DATA))
    assert is_cached(file, 4097, 10)
    assert not is_cached(file, len(DATA) - 10, 5000)  # there is no such page


@pytest.mark.disk
async def test_parts_of_a_blob_follow_its_first_chunk_and_count_as_read(tmp_path: Path) -> None:
    settings = StorageConfig(quota=10**9, reserve=0)
    storage = await Storage.open(
        tmp_path / "data", settings, LimitsConfig(), Metrics(), SystemClock()
    )
    digest = digest_of(DATA)
    ingest = storage.begin(digest)
    await ingest.append(DATA)
    await ingest.commit()
    found = bytearray()
    async with storage.open_read(digest, offset=5, next_bytes=lambda: 70_000) as chunks:
        assert isinstance(chunks, InFile)
        found += await anext(chunks)
        parts = 0
        while (part := chunks.next_part(1_000_000)) is not None:
            found += os.pread(part.fd, part.size_bytes, part.offset)
            parts += 1
            if parts == 2:
                found += await anext(chunks)
        async for data in chunks:
            found += data
    assert parts > 3
    assert found == DATA[5:]
    await storage.close()
