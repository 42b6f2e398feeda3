"""The load: honest clients, and clients that break off, are refused, are slow, or flood."""

from __future__ import annotations

import random
import re
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

import grpc

from federation._proto.google.bytestream import bytestream_pb2 as bs
from federation.core.digest import Digest, digest_of
from tests.attacks.raw import RawConnection, framed
from tests.attacks.test_http2 import FLOODS, begun, flood
from tests.support.process_client import Client, code_of, outcome

MIB = 2**20
LARGE_BYTES = 8 * MIB
_BLOBS = 5000  # of each size
_CALLS_OF_A_CLIENT = 300  # then it connects anew
_NUMBER = re.compile(r"[0-9a-f]{3,}|[0-9]+")  # in the texts of errors
_READ = "google.bytestream.ByteStream/Read"
_WRITE = "google.bytestream.ByteStream/Write"
_MISSING = Digest(bytes(32), 5)


class Work(NamedTuple):
    """What one client does next."""

    client: Client
    address: str
    chance: random.Random
    large: Digest

    def data(self, most_bytes: int) -> bytes:
        """Return one of so many blobs: what a node keeps of each in memory fills, and stays."""
        made = random.Random(self.chance.randrange(_BLOBS))
        return made.randbytes(16) * (1 + made.randrange(most_bytes) // 16)


class WrongAnswer(Exception):
    """An honest client got something else than it asked for."""


# Honest clients


def _small(work: Work) -> None:
    data = work.data(2**14)
    digest = digest_of(data)
    work.client.write(data)
    work.client.find_missing([digest, _MISSING])
    _same(work.client.read(digest), data)
    work.client.capabilities()


def _batch(work: Work) -> None:
    blobs = [work.data(4000) for _ in range(50)]
    _same(set(work.client.batch_update(blobs)), {grpc.StatusCode.OK})
    digests = [digest_of(each) for each in blobs]
    _same(len(work.client.batch_read(digests)), len(set(digests)))


def _large(work: Work) -> None:
    data = work.data(LARGE_BYTES)
    work.client.write(data, chunk_bytes=work.chance.choice([2**14, 2**18, MIB]))
    _same(work.client.read(digest_of(data)), data)


def _index(work: Work) -> None:
    action = digest_of(work.data(100))
    _same(work.client.get_action_result(action), None)
    _same(work.client.fetch_blob(f"urn:{action.hash_hex}"), None)


def _same(found: object, wanted: object) -> None:
    if found != wanted:
        raise WrongAnswer


# Others


def _cancels(work: Work) -> None:
    call = work.client.bytestream.Read(
        bs.ReadRequest(resource_name=f"blobs/{work.large.hash_hex}/{work.large.size_bytes}")
    )
    with suppress(grpc.RpcError):
        next(iter(call))
    call.cancel()
    asked = work.client.actions.GetActionResult.future
    asked(_action(), timeout=0.001 * work.chance.randrange(1, 20)).cancel()


def _action() -> object:
    from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi

    return reapi.GetActionResultRequest(
        action_digest=reapi.Digest(hash=_MISSING.hash_hex, size_bytes=5)
    )


def _refused(work: Work) -> None:
    data = work.data(2**16)
    outcome(lambda: work.client.write(data, digest_of(b"something else")))
    outcome(lambda: work.client.write_status("no/such/name"))
    outcome(lambda: work.client.read(_MISSING))
    unknown = work.client.channel.unary_unary(
        "/no.such/Method",
        request_serializer=bytes,
        response_deserializer=bytes,
    )
    outcome(lambda: unknown(bytes(2**17), timeout=30))


def _breaks_off(work: Work) -> None:
    with RawConnection(work.address) as raw:
        data = work.data(2**18)
        name = work.client.upload_name(digest_of(data))
        first = bs.WriteRequest(resource_name=name, data=data[:1000]).SerializeToString()
        streams = [raw.call(_WRITE) for _ in range(10)]
        for stream in streams:
            raw.send(stream, framed(first) + framed(data)[: work.chance.randrange(2**14)])
        for stream in streams[::2]:
            if stream not in raw.statuses:
                raw.reset(stream)
        raw.receive(0.05)


def _reads_slowly(work: Work) -> None:
    with RawConnection(work.address, window_bytes=2**14) as raw:
        name = f"blobs/{work.large.hash_hex}/{work.large.size_bytes}"
        for _ in range(10):
            raw.unary(_READ, bs.ReadRequest(resource_name=name).SerializeToString())
        raw.flush()
        for _ in range(20):
            raw.receive(0.1)


def _floods(work: Work) -> None:
    flood(work.address, FLOODS[work.chance.choice(sorted(FLOODS))])


def _hangs(work: Work) -> None:
    with begun(work.address) as one:
        one.settimeout(0.5)
        with suppress(OSError):
            one.recv(4096)


HONEST: dict[Callable[[Work], None], int] = {_small: 40, _batch: 8, _large: 4, _index: 20}
OTHERS: dict[Callable[[Work], None], int] = {
    _cancels: 20,
    _refused: 20,
    _breaks_off: 4,
    _reads_slowly: 2,
    _floods: 2,
    _hangs: 2,
}


class Load:
    """Clients in threads, until end()."""

    def __init__(self, address: str, clients: int, seed: int) -> None:
        self.counts: Counter[str] = Counter()
        self.troubles: Counter[str] = Counter()  # of honest clients
        self._address = address
        self._over = threading.Event()
        large = random.Random(seed).randbytes(MIB) * (LARGE_BYTES // MIB)
        with Client(address) as client:
            client.write(large)
        self._large = digest_of(large)
        self._threads = [
            threading.Thread(target=self._run, args=(random.Random(seed + at),), daemon=True)
            for at in range(clients)
        ]
        for each in self._threads:
            each.start()

    def _run(self, chance: random.Random) -> None:
        kinds = {**HONEST, **OTHERS}
        while not self._over.is_set():
            with Client(self._address) as client:
                work = Work(client, self._address, chance, self._large)
                for _ in range(_CALLS_OF_A_CLIENT):
                    if self._over.is_set():
                        return
                    (kind,) = chance.choices(list(kinds), list(kinds.values()))
                    self._do(kind, work)

    def _do(self, kind: Callable[[Work], None], work: Work) -> None:
        name = kind.__name__.strip("_")
        self.counts[name] += 1
        try:
            kind(work)
        except grpc.RpcError as error:
            if kind in HONEST:
                text = getattr(error, "details", str)() or ""
                self.troubles[f"{name}: {code_of(error).name} ({_NUMBER.sub('N', text)})"] += 1
        except AssertionError as error:
            self.troubles[f"{name}: {error}"] += 1
        except WrongAnswer:
            self.troubles[f"{name}: a wrong answer"] += 1
        except OSError as error:
            self.counts[f"{name}: {type(error).__name__}"] += 1

    def end(self) -> None:
        """Let all clients end what they do."""
        self._over.set()
        for each in self._threads:
            each.join(120)
