"""Mixed write load on a node, with everything it acknowledges going into an oracle.

Each worker draws from its own seeded random source, so a round's data can be made again; what the
node's death cuts off is a matter of timing.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import grpc

from federation.core.digest import Digest, digest_of
from tests.support.oracle import Oracle
from tests.support.polling import wait_until
from tests.support.process_client import Client, action_result, code_of

# What a client sees when the node dies under it or refuses to go on; anything else is a fault.
_ENDS = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}


@dataclass
class Done:
    """What the workers got through, and what they heard that they should not have."""

    calls: int = 0
    refused: int = 0
    faults: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)  # what workers heard as the node's end


class Load:
    """Threads that upload until stop() is called or the node is gone."""

    def __init__(
        self,
        address: str,
        oracle: Oracle,
        seed: object,
        *,
        workers: int = 4,
        refusals: frozenset[grpc.StatusCode] = frozenset(),
        large_bytes: int = 3 * 2**20,
        pause_s: float = 0.0,
    ) -> None:
        """Describe the load.

        Args:
            address: the node's.
            oracle: hears of every attempt and acknowledgement.
            seed: makes the data; no two seeds make the same.
            workers: how many upload at once.
            refusals: status codes that the injected fault may cause; the worker goes on.
            large_bytes: the largest blob.
            pause_s: how long each worker waits between its calls.
        """
        self.done = Done()
        self._address = address
        self._oracle = oracle
        self._refusals = refusals
        self._large_bytes = large_bytes
        self._pause_s = pause_s
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._work, args=(f"{seed}:{number}",), daemon=True)
            for number in range(workers)
        ]

    def __enter__(self) -> Load:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> Load:
        """Begin."""
        for thread in self._threads:
            thread.start()
        return self

    def stop(self) -> Done:
        """End, and say what was done."""
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), "a worker hangs in a call that has a deadline"
        return self.done

    def wait_for_calls(self, number: int, timeout_s: float = 30) -> None:
        """Wait until this many calls were acknowledged."""
        wait_until(lambda: self.done.calls >= number, f"{number} calls", timeout_s=timeout_s)

    def _work(self, seed: str) -> None:
        with Client(self._address) as client:
            worker = _Worker(client, self._oracle, random.Random(seed), self._large_bytes)
            while not self._stop.is_set():
                try:
                    worker.step()
                except grpc.RpcError as error:
                    if code_of(error) in _ENDS - self._refusals:
                        with self._lock:
                            self.done.ended.append(str(error))
                        return
                    self._count(error)
                else:
                    with self._lock:
                        self.done.calls += 1
                self._stop.wait(self._pause_s)

    def _count(self, error: grpc.RpcError) -> None:
        with self._lock:
            if code_of(error) in self._refusals:
                self.done.refused += 1
            else:
                self.done.faults.append(str(error))


class _Worker:
    def __init__(
        self, client: Client, oracle: Oracle, rng: random.Random, large_bytes: int
    ) -> None:
        self._client = client
        self._oracle = oracle
        self._rng = rng
        self._large_bytes = large_bytes
        self._held: list[Digest] = []
        self._number = 0

    def step(self) -> None:
        """One call of a kind drawn by weight."""
        kinds: list[Callable[[], None]] = [self._batch, self._write, self._action, self._asset]
        self._rng.choices(kinds, weights=(5, 3, 3, 2))[0]()

    def _batch(self) -> None:
        count = self._rng.randint(1, 20)
        longest = self._rng.choice([8000, 8000, 90_000])  # which is a file, not a row
        blobs = [self._rng.randbytes(self._rng.randint(1, longest)) for _ in range(count)]
        digests = [digest_of(blob) for blob in blobs]
        self._oracle.attempt(digests)
        codes = self._client.batch_update(blobs, digests)
        stored = [d for d, code in zip(digests, codes, strict=True) if code is grpc.StatusCode.OK]
        self._keep(*stored)

    def _write(self) -> None:
        longest = self._large_bytes if self._rng.random() < 0.3 else 200_000
        data = self._rng.randbytes(self._rng.randint(10_000, longest))
        digest = digest_of(data)
        self._oracle.attempt([digest])
        committed = self._client.write(data, digest, chunk_bytes=self._rng.choice([16384, 2**20]))
        assert committed == len(data), f"committed_size {committed} of {len(data)} under an OK"
        self._keep(digest)

    def _action(self) -> None:
        outputs = [(f"out/{n}", digest) for n, digest in enumerate(self._some())]
        action = digest_of(self._rng.randbytes(40))
        result = action_result(outputs, exit_code=self._rng.randint(0, 100))
        self._client.update_action_result(action, result)
        self._oracle.action_acknowledged(action, result)

    def _asset(self) -> None:
        some = self._some()
        if not some:
            return
        self._number += 1
        uri = f"urn:fdc:example:asset:{self._rng.getrandbits(64):016x}:{self._number}"
        self._client.push_blob(uri, some[0], some[1:])
        self._oracle.asset_acknowledged(uri, some[0])

    def _some(self) -> list[Digest]:
        return self._rng.sample(self._held, min(len(self._held), self._rng.randint(1, 4)))

    def _keep(self, *digests: Digest) -> None:
        if digests:
            self._oracle.acknowledged(*digests)
            self._held = [*self._held, *digests][-200:]
