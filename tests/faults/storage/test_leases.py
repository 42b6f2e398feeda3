"""Promises under eviction pressure: S22, S29, S30, S37. What was called present can be read."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path

import grpc
import pytest

from federation.core.clock import SystemClock
from federation.core.digest import Digest, digest_of
from tests.faults.storage.clean import assert_clean
from tests.faults.storage.conftest import file_blob, small_blob
from tests.support.polling import pass_time, wait_until
from tests.support.process import Node, serve
from tests.support.process_client import Client, action_result, code_of, outcome

OK = grpc.StatusCode.OK
_LEASE_S = 2.0
_SHORT_LEASE_S = 0.3
_ROUNDS_MAX = 20  # on a machine too busy to keep the times, rounds pass without a lease to test
# Eviction frees one such gap each time it runs, so a wide one makes it strip all it may.
WIDE = {"high-watermark": 0.7, "low-watermark": 0.2}
_SETTINGS = {"storage": {"quota": "12M", "lease": f"{_LEASE_S}s", **WIDE}}
_clock = SystemClock()


@pytest.fixture
def pressed(data_dir: Path) -> Iterator[Node]:
    with serve(data_dir, _SETTINGS) as node:
        yield node
    assert "Traceback" not in node.log, node.log_tail


def patiently(call: Callable[[], object], timeout_s: float = 60) -> float:
    """Repeat a call that is refused while all is leased; returns when the last one began."""
    until_s = (began_s := _clock.monotonic_s()) + timeout_s
    while (code := outcome(call)) is not OK:
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED, code
        assert _clock.monotonic_s() < until_s, f"no room for {timeout_s} s, and leases are short"
        pass_time(0.1)
        began_s = _clock.monotonic_s()
    return began_s


def read_leased(client: Client, data: bytes, since_s: float, lease_s: float) -> bool:
    """Read what was promised since then, and return whether it was there.

    Only once the lease may be over may it be gone: a busy machine may take so long.
    """
    got: list[bytes] = []
    code = outcome(lambda: got.append(client.read(digest_of(data))))
    if code is grpc.StatusCode.NOT_FOUND:
        late_s = _clock.monotonic_s() - since_s
        assert late_s > lease_s, f"promised, and not found {late_s:.3f} s later"
        return False
    assert got == [data], code
    return True


@contextmanager
def storm(node: Node, *, writers: int = 2) -> Iterator[None]:
    """Write new blobs without end, so that eviction must run all the time.

    The pauses leave the processor to the node: ten times what its lease lets it keep still comes.
    """
    stop = threading.Event()

    def write() -> None:
        with Client(node.address) as client:
            while not stop.is_set():
                try:
                    client.write(file_blob(200_000))
                    stop.wait(0.02)
                except grpc.RpcError as error:
                    if code_of(error) is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                        raise
                    stop.wait(0.1)  # all is leased: eviction has to wait, and so do we

    threads = [threading.Thread(target=write) for _ in range(writers)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)


def _evicted(node: Node) -> float:
    return node.metrics().value("federation_evicted_total")


def _wait_for_evictions(node: Node, more: int) -> None:
    before = _evicted(node)
    wait_until(lambda: _evicted(node) >= before + more, "evictions", timeout_s=40)


def test_s29_what_find_missing_called_present_is_read_within_the_lease(pressed: Node) -> None:
    blobs = {digest_of(b): b for b in (file_blob(100_000), small_blob(), small_blob(10_000))}
    with Client(pressed.address) as client, storm(pressed):
        for data in blobs.values():
            patiently(partial(client.write, data))
        _wait_for_evictions(pressed, 20)
        present = 0
        for rounds in count(1):
            if rounds > 3 and present > 4:
                break
            assert rounds <= _ROUNDS_MAX, f"present {present} times: nothing was tested"
            pass_time(_LEASE_S * 0.7)
            since_s = _clock.monotonic_s()
            missing = client.find_missing(blobs)
            pass_time(_LEASE_S * 0.8)  # beyond every older lease: only this answer's holds them now
            for digest in blobs.keys() - missing:
                present += read_leased(client, blobs[digest], since_s, _LEASE_S)
            for digest in missing:  # evicted between two rounds, which breaks no promise
                patiently(partial(client.write, blobs[digest]))
    assert_clean(pressed.data_dir)


def _push(client: Client, action: Digest, blobs: list[bytes]) -> None:
    for data in blobs:
        patiently(partial(client.write, data))
    names = [(str(n), digest_of(data)) for n, data in enumerate(blobs)]
    patiently(lambda: client.update_action_result(action, action_result(names)))


def test_s30_what_an_action_result_names_is_read_after_it_was_served(pressed: Node) -> None:
    outputs = {
        digest_of(b"action %d" % number): [file_blob(100_000), small_blob(), small_blob(12_000)]
        for number in range(4)
    }
    with Client(pressed.address) as client, storm(pressed):
        served = 0
        for rounds in count(1):
            if rounds > 2 and served > 10 and _evicted(pressed) > 20:
                break
            assert rounds <= _ROUNDS_MAX, f"{served} outputs were read: too little was tested"
            for action in (a for a in outputs if client.get_action_result(a) is None):
                _push(client, action, outputs[action])  # evicted between two rounds
            pass_time(_LEASE_S * 0.7)
            since_s = _clock.monotonic_s()
            held = [a for a in outputs if client.get_action_result(a) is not None]
            pass_time(_LEASE_S * 0.8)  # beyond all older leases: only the answers' hold now
            for data in (data for action in held for data in outputs[action]):
                served += read_leased(client, data, since_s, _LEASE_S)
    assert_clean(pressed.data_dir)


def _tasks(node: Node, number: int, work: Callable[[Client, random.Random], None]) -> list[str]:
    """Run work in so many threads and return what went wrong."""
    faults: list[str] = []

    def run(seed: int) -> None:
        with Client(node.address) as client:
            try:
                work(client, random.Random(seed))
            except (AssertionError, grpc.RpcError) as error:
                faults.append(repr(error))

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
        assert not thread.is_alive(), "a task hangs: deadlock"
    return faults


def test_s22_put_read_and_evict_the_same_few_blobs(data_dir: Path) -> None:
    """20 blobs of which 10 fit. An OK on a write is a lease: the read after it succeeds."""
    blobs = [file_blob(100_000) for _ in range(20)]
    digests = [digest_of(data) for data in blobs]

    def work(client: Client, rng: random.Random) -> None:
        for _ in range(5):
            data, digest = blobs[n := rng.randrange(20)], digests[n]
            since_s = patiently(lambda: client.write(data, digest))  # noqa: B023
            read_leased(client, data, since_s, _SHORT_LEASE_S)

    settings = {"storage": {"quota": 10 * 100_000 + 50_000, "lease": f"{_SHORT_LEASE_S}s", **WIDE}}
    with serve(data_dir, settings) as node:
        faults = _tasks(node, 64, work)
        assert not faults, f"{len(faults)}: {faults[:3]}"
        assert _evicted(node) > 0, "nothing was ever evicted"
        assert node.metrics().value("federation_stored_bytes") <= 10 * 100_000 + 50_000
        assert "Traceback" not in node.log, node.log_tail
        assert_clean(data_dir)


def test_s37_a_late_removal_cannot_hit_the_file_of_a_new_upload(data_dir: Path) -> None:
    """One blob is evicted and uploaded again, over and over, while clients race to upload it."""
    data = file_blob(1_500_000)
    digest = digest_of(data)
    settings = {"storage": {"quota": "6M", "lease": f"{_SHORT_LEASE_S}s", **WIDE}}
    with serve(data_dir, settings) as node, storm(node):
        returns = [0]

        def work(client: Client, rng: random.Random) -> None:
            for _ in range(6):
                since_s = patiently(lambda: client.write(data, digest))
                read_leased(client, data, since_s, _SHORT_LEASE_S)
                pass_time(rng.uniform(0.2, 1.6))
                returns[0] += bool(client.find_missing([digest]))

        faults = _tasks(node, 2, work)
        assert not faults, faults[:3]
        assert returns[0] > 0, "the blob was never evicted in between"
        assert_clean(data_dir)


def test_p5_nothing_is_evicted_for_a_lease_period_after_a_crash(data_dir: Path) -> None:
    """Leases that a killed process gave from memory are unknown to the next one."""
    settings = {"storage": {"quota": "12M", "lease": "4s", **WIDE}}
    with serve(data_dir, settings) as node:
        held = [file_blob(300_000) for _ in range(10)]
        with Client(node.address) as client:
            for data in held:
                client.write(data)
            pass_time(4.5)
            assert client.find_missing(map(digest_of, held)) == set()
            node.kill()
        since_s = _clock.monotonic_s()
        node.start()
        with Client(node.address) as client, storm(node):
            while _clock.monotonic_s() < since_s + 3.5:
                for data in held:
                    read_leased(client, data, since_s, 4.0)
                pass_time(0.3)
        assert_clean(data_dir)
