"""GET and PUT of blobs by their hashes, and of many keys by several connections."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from itertools import count, repeat

from benchmarks import payloads
from benchmarks.base import CallRow, RowSpec
from benchmarks.crowd import CLIENTS
from benchmarks.http.link import HttpLink
from benchmarks.http.servers import NodeOverGrpc
from benchmarks.link import expect
from benchmarks.payloads import KIB, MIB
from benchmarks.process import Server
from benchmarks.rows.read import Read
from benchmarks.rows.write import Write, end_of_large

_STAMP_BYTES = 16
_BLOBS = 16  # different ones, read in turn; a large one is alone
_ALL = ("federation", "federation-grpc", "nginx")
_OVER_HTTP = ("federation", "nginx")


class HttpRow(CallRow):
    """A row over one HTTP connection."""

    def prepare(self) -> None:
        """See Row."""
        self.server.start()
        self.http = HttpLink(self.server.address)
        self.set_up()

    def close(self) -> None:
        """See Row."""
        if hasattr(self, "http"):
            self.http.close()
        super().close()


class Get(HttpRow):
    """Reads blobs of one size in turn."""

    def __init__(self, server: Server, size_bytes: int) -> None:
        super().__init__(server)
        self._size_bytes = size_bytes

    def set_up(self) -> None:
        """See CallRow."""
        if self._size_bytes > MIB:
            blobs = [payloads.large_blob(self._size_bytes)]
        else:
            blobs = [payloads.blob(f"get/{i}", self._size_bytes) for i in range(_BLOBS)]
        self._paths = [_path_of(data) for data in blobs]
        for path, data in zip(self._paths, blobs, strict=True):
            self.http.put(path, data)
            expect(self.http.get_bytes(path) == data, "other bytes were read")

    def calls(self) -> Iterator[Callable[[], object]]:
        """See CallRow."""
        while True:
            for path in self._paths:
                yield partial(self._read, path)

    def _read(self, path: str) -> None:
        came_bytes = self.http.get(path)
        expect(came_bytes == self._size_bytes, f"only {came_bytes} bytes came")


class Put(HttpRow):
    """Writes blobs of one size, each a new one."""

    def __init__(self, server: Server, size_bytes: int) -> None:
        super().__init__(server)
        self._size_bytes = size_bytes
        self._numbers = count()

    def set_up(self) -> None:
        """See CallRow."""
        data = self._next_blob()
        self.http.put(_path_of(data), data)
        expect(self.http.get_bytes(_path_of(data)) == data, "other bytes were read")

    def calls(self) -> Iterator[Callable[[], object]]:
        """See CallRow."""
        while True:
            data = self._next_blob()
            yield partial(self.http.put, _path_of(data), data)

    def _next_blob(self) -> bytes:
        stamp = next(self._numbers).to_bytes(_STAMP_BYTES, "big")
        return stamp + end_of_large(self._size_bytes)


class Keys(HttpRow):
    """Several connections at once that write, or read, so many small keyed values together."""

    def __init__(self, server: Server, keys: int, *, writes: bool) -> None:
        super().__init__(server)
        self._each = keys // CLIENTS
        self._writes = writes
        self._value = payloads.blob("value", KIB)
        self._turns = count()

    def set_up(self) -> None:
        """See CallRow."""
        self._links = [HttpLink(self.server.address) for _ in range(CLIENTS)]
        self._threads = ThreadPoolExecutor(CLIENTS)
        self._run(self._put_all, "read")
        first = _keys("read", 0, 1)[0]
        expect(self.http.get_bytes(first) == self._value, "another value was read")

    def calls(self) -> Iterator[Callable[[], object]]:
        """See CallRow."""
        if not self._writes:
            return repeat(partial(self._run, self._get_all, "read"))
        return (partial(self._run, self._put_all, f"written-{turn}") for turn in self._turns)

    def close(self) -> None:
        """See Row."""
        if hasattr(self, "_links"):
            self._threads.shutdown()
            for link in self._links:
                link.close()
        super().close()

    def _run(self, work: Callable[[HttpLink, Sequence[str]], None], label: str) -> None:
        running = [
            self._threads.submit(work, link, _keys(label, at * self._each, self._each))
            for at, link in enumerate(self._links)
        ]
        wait(running)
        for ended in running:
            ended.result()

    def _put_all(self, link: HttpLink, paths: Sequence[str]) -> None:
        for path in paths:
            link.put(path, self._value)

    def _get_all(self, link: HttpLink, paths: Sequence[str]) -> None:
        for path in paths:
            expect(link.get(path) == KIB, "a value has another size")


def _keys(label: str, first: int, keys: int) -> list[str]:
    return [f"/kv/bench/{label}/{number:08x}" for number in range(first, first + keys)]


def _path_of(data: bytes) -> str:
    return f"/cas/{hashlib.sha256(data).hexdigest()}"


def _get(server: Server, size_bytes: int) -> CallRow:
    if isinstance(server, NodeOverGrpc):
        return Read(server, size_bytes, cold=False)
    return Get(server, size_bytes)


def _put(server: Server, size_bytes: int) -> CallRow:
    if isinstance(server, NodeOverGrpc):
        return Write(server, size_bytes, new=True)
    return Put(server, size_bytes)


def all_rows(*, quick: bool) -> dict[str, RowSpec]:
    """Return every row by name; quick makes the heavy ones small."""
    large, keys = (16 * MIB, 80) if quick else (256 * MIB, 1000)
    sizes = [("1KiB", KIB), ("1MiB", MIB), ("256MiB", large)]
    rows = [
        *(
            RowSpec(
                f"http-get-{size}",
                f"GET {size}, hot",
                partial(_get, size_bytes=size_bytes),
                items=size_bytes,
                item="B",
                servers=_ALL,
            )
            for size, size_bytes in sizes
        ),
        *(
            RowSpec(
                f"http-put-{size}",
                f"PUT {size}, new",
                partial(_put, size_bytes=size_bytes),
                items=size_bytes,
                item="B",
                stores=True,
                servers=_ALL,
            )
            for size, size_bytes in sizes
        ),
        *(
            RowSpec(
                f"http-{method.lower()}-keys",
                f"{method} {keys:,} keys of 1 KiB, {CLIENTS} clients",
                partial(Keys, keys=keys, writes=method == "PUT"),
                items=keys,
                item="key",
                stores=method == "PUT",
                servers=_OVER_HTTP,
            )
            for method in ("GET", "PUT")
        ),
    ]
    return {row.name: row for row in rows}
