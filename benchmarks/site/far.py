"""Reads of large blobs that another node of the site has stored."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from functools import partial

from benchmarks import payloads
from benchmarks.base import CallRow
from benchmarks.link import BYTE_STREAM, Link, expect
from benchmarks.rows.write import Write
from benchmarks.site.servers import NodeOfSite, expect_once
from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as re_pb2
from federation._proto.google.bytestream import bytestream_pb2


class ReadUncached(CallRow):
    """Each call reads a blob that the node reads for the first time."""

    server: NodeOfSite

    def __init__(self, server: NodeOfSite, size_bytes: int) -> None:
        super().__init__(server)
        self._size_bytes = size_bytes

    def set_up(self) -> None:
        """See CallRow: proves that the right bytes come, and each part once."""
        self._writer = self.server.another()
        self._writer.start()
        self._blobs = Write(self._writer, self._size_bytes, new=True)
        self._blobs.link = Link(self._writer.address)
        self._read = self.link.stream(BYTE_STREAM, "Read")
        digest = self._store()
        before = self.server.moved("in")
        hasher = hashlib.sha256()
        for message in self._read(payloads.read(digest)):
            hasher.update(bytestream_pb2.ReadResponse.FromString(message).data)
        expect(hasher.hexdigest() == digest.hash, "other bytes were read")
        expect_once(self.server.moved("in") - before, self._size_bytes)

    def calls(self) -> Iterator[Callable[[], object]]:
        """See CallRow."""
        while True:
            yield partial(self._drain, payloads.read(self._store()))

    def _store(self) -> re_pb2.Digest:
        digest, messages = self._blobs.next_write()
        self._blobs.link.write(messages)
        os.sync()  # what the other node and the servers still write is not this read's
        return digest

    def _drain(self, request: bytes) -> None:
        received_bytes = sum(len(message) for message in self._read(request))
        expect(received_bytes >= self._size_bytes, f"only {received_bytes} bytes came")

    def close(self) -> None:
        """See Row."""
        if hasattr(self, "_blobs"):
            self._blobs.link.close()
        if hasattr(self, "_writer"):
            self._writer.stop()
        super().close()
