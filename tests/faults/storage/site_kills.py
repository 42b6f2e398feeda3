"""Kills a node, the database or the S3 server of a loaded site, and loses nothing acknowledged.

Two nodes serve the site. Each round loads the first one for 0 to 400 ms, kills one of the three and
starts it again. Then the second node is asked for everything that the first one ever acknowledged,
and what the last round wrote is read back through it, and hashed.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import grpc

from federation.core.digest import Digest
from tests.faults.storage.load import Load
from tests.support.oracle import Oracle
from tests.support.polling import pass_time, wait_until
from tests.support.process import Node
from tests.support.process_client import Client
from tests.support.sites import TestSite

_T = TypeVar("_T")

LOADED_MAX_S = 0.4
# The bucket or the database is away for seconds: a node says so, and the worker goes on.
_REFUSALS = frozenset({grpc.StatusCode.UNAVAILABLE})
_LARGE_BYTES = 9 * 2**20  # two parts
_ASKED_AT_ONCE = 50_000  # digests; 80 bytes each, and a message has 8 MiB at most
_ENTRIES_A_ROUND = 500  # more than a round makes; all are asked for at the end
_JUDGED_S = 300.0


@dataclass
class SiteKills:
    """What the rounds did."""

    seed: int
    killed: Counter[str] = field(default_factory=Counter)
    blobs: int = 0
    entries: int = 0


def kill_site(
    site: TestSite, folder: Path, rounds: int, seed: int, victims: tuple[str, ...]
) -> SiteKills:
    """Run the rounds. Raises AssertionError at the first loss; the seed is in it."""
    rng = random.Random(seed)
    result = SiteKills(seed)
    settings = {"storage": dict(site.keys())}
    one, other = (Node(folder / name, settings, name=name) for name in ("one", "other"))
    with one, other, Oracle(folder / "acknowledged.jsonl") as oracle:
        one.start()
        other.start()
        kill_and_start = _deaths(site, one)
        verified = 0
        for number in range(rounds):
            victim = rng.choice(victims)
            load = Load(
                one.address,
                oracle,
                f"{seed}:{number}",
                refusals=_REFUSALS,
                large_bytes=_LARGE_BYTES,
            ).start()
            pass_time(rng.uniform(0, LOADED_MAX_S))
            kill, start = kill_and_start[victim]
            kill()
            start()
            done = load.stop()
            assert not done.faults, done.faults[:5]
            result.killed[victim] += 1
            print(f"{number}: {victim} killed, {len(oracle.blobs)} blobs", flush=True)  # noqa: T201
            try:
                verified = _judge(one, other, oracle, verified)
            except AssertionError as error:
                raise AssertionError(f"seed {seed}, round {number}, {victim}: {error}") from error
        result.blobs, result.entries = len(oracle.blobs), len(oracle.actions) + len(oracle.assets)
        with Client(other.address) as client:
            _answered(lambda: oracle.verify(client)).check()
    return result


_Deaths = Mapping[str, tuple[Callable[[], object], Callable[[], object]]]


def _deaths(site: TestSite, node: Node) -> _Deaths:
    """Return how each victim is killed and started again."""
    database, bucket = site.servers.database, site.servers.bucket
    return {
        "node": (node.kill, node.start),
        "database": (database.kill, database.start),
        "bucket": (bucket.kill, bucket.start),
    }


def _judge(one: Node, other: Node, oracle: Oracle, verified: int) -> int:
    """Compare what the second node has with the journal; returns how much of it was read."""
    known: list[Digest] = list(oracle.blobs)
    with Client(one.address) as first, Client(other.address) as client:
        for each in (first, client):
            wait_until(lambda each=each: _answers(each), "the nodes use both servers again")  # type: ignore[misc]
        missing = _answered(lambda: _missing(client, known))
        assert not missing, f"{len(missing)} acknowledged blobs are missing: {missing}"
        fresh = known[verified:]
        _answered(
            lambda: oracle.verify(client, blobs=fresh, newest_entries=_ENTRIES_A_ROUND)
        ).check()
        _answered(lambda: oracle.verify_unacknowledged(client)).check()
    return len(known)


def _missing(client: Client, known: list[Digest]) -> set[Digest]:
    parts = [known[n : n + _ASKED_AT_ONCE] for n in range(0, len(known), _ASKED_AT_ONCE)]
    return set().union(*map(client.find_missing, parts))


def _answered(ask: Callable[[], _T]) -> _T:
    """Ask until the node can answer: on a busy machine a server may take too long for it."""

    def once() -> tuple[_T] | None:
        try:
            return (ask(),)
        except grpc.RpcError as error:
            if error.code() in _REFUSALS:
                return None
            raise

    answer: tuple[_T] = wait_until(once, "the second node answers", timeout_s=_JUDGED_S)
    return answer[0]


def _answers(client: Client) -> bool:
    """Whether a node stores a small and a large blob, so it uses the database and the bucket."""
    data = random.SystemRandom().randbytes(100_000)
    return client.batch_update([data[:100], data]) == [grpc.StatusCode.OK] * 2
