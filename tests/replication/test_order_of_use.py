"""What clients used last goes last, at the receiver as at the sender, between real nodes."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from federation.core.digest import Digest, digest_of
from federation.replication import peer as peer_runner
from federation.replication import reconcile
from federation.replication.peer import TOO_SMALL
from federation.storage.catalogue.blobs import key_of
from federation.storage.storage import Storage
from tests.replication.here import Here, peer, replicating, result_of
from tests.support.process import Node, serve
from tests.support.process_client import Client

DAY_S = 86_400.0


async def age(here: Here, unused_s: Mapping[Digest, float]) -> None:
    """Have these blobs last used so long ago, as if clients had come then."""
    storage = here.storage
    assert isinstance(storage, Storage)
    await storage.flusher.flush()
    now_ms = storage.core.now_ms()
    rows = [(now_ms - int(each * 1000), key_of(digest)) for digest, each in unused_s.items()]
    await storage.core.writer.submit(
        lambda tx: tx.connection.executemany(
            "UPDATE blob SET used = ?, leased = 0 WHERE key = ?", rows
        )
    )


def used_at(data_dir: Path, table: str, column: str) -> dict[bytes, int]:
    with sqlite3.connect(f"file:{data_dir / 'catalogue.sqlite'}?mode=ro", uri=True) as connection:
        return dict(connection.execute(f"SELECT {column}, used FROM {table}"))


def correlation(ours: Mapping[Any, float], theirs: Mapping[Any, float]) -> float:
    """Spearman's, of the ranks of what both have."""
    both = sorted(set(ours) & set(theirs))
    assert len(both) == len(ours)
    ranks = []
    for times in (ours, theirs):
        order = sorted(both, key=lambda each: (times[each], each))
        ranks.append({each: rank for rank, each in enumerate(order)})
    n = len(both)
    distance = sum((ranks[0][each] - ranks[1][each]) ** 2 for each in both)
    return 1 - 6 * distance / (n * (n * n - 1))


async def test_a_backfill_keeps_the_order_of_use(tmp_path: Path) -> None:
    rng = random.Random(6)
    with serve(tmp_path / "there", name="there") as there:
        async with replicating(tmp_path / "here") as here:
            digests = await here.push(*(rng.randbytes(200) for _ in range(400)))
            digests += [await here.write(rng.randbytes(5_000_000)) for _ in range(4)]
            await here.put(result_of(digest_of(b"action"), digests[0]))
            # The order is another than that in which they came.
            unused = {digest: rng.uniform(0, 60) * DAY_S for digest in digests}
            await age(here, unused)
            await here.replication.reload([peer(there.address)])
            await here.caught_up(timeout_s=60)
            ours = used_at(tmp_path / "here", "blob", "key")
            theirs = used_at(tmp_path / "there", "blob", "key")
            assert correlation(ours, theirs) > 0.99
            # Sending was no use of what was sent.
            seen = {key_of(digest): -unused_s for digest, unused_s in unused.items()}
            assert correlation(seen, ours) > 0.999
            now_ms = max(theirs.values()) + min(unused.values()) * 1000
            for digest, unused_s in unused.items():
                late_s = (now_ms - theirs[key_of(digest)]) / 1000 - unused_s
                assert abs(late_s) < 0.06 * unused_s + 120, digest


async def test_a_check_sends_what_is_lost_to_its_old_place(tmp_path: Path) -> None:
    settings = {"storage": {"lease": "1s"}}
    with serve(tmp_path / "there", settings, name="there") as there:
        async with replicating(tmp_path / "here", peer(there.address, check_every="20s")) as here:
            (digest,) = await here.push(b"used a month ago")
            await here.caught_up()
            await age(here, {digest: 30 * DAY_S})
            lose(there, digest)
            await here.until(lambda: here.calls("FindLacking") >= 1, 60)
            await here.until(lambda: used_at(tmp_path / "there", "blob", "key"), 60)
            (used_ms,) = used_at(tmp_path / "there", "blob", "key").values()
            await here.push(b"new")
            await here.caught_up()
            times = used_at(tmp_path / "there", "blob", "key")
            assert max(times.values()) - used_ms > 29 * DAY_S * 1000


def lose(node: Node, digest: Digest) -> None:
    """Have a running node forget a blob, as eviction does."""
    with sqlite3.connect(node.data_dir / "catalogue.sqlite", timeout=60) as connection:
        key = key_of(digest)
        connection.execute(
            "DELETE FROM small WHERE seq = (SELECT seq FROM blob WHERE key=?)", (key,)
        )
        connection.execute("DELETE FROM blob WHERE key = ?", (key,))


async def test_a_resync_to_a_smaller_peer_ends_with_what_was_used_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer_runner, "FULL_S", 4.0)
    monkeypatch.setattr(reconcile, "PAGE_OBJECTS", 40)  # as few under way beside what fits as usual
    settings = {"storage": {"quota": 24 * 2**20}}
    rng = random.Random(7)
    with serve(tmp_path / "there", settings, name="there") as there:
        async with replicating(tmp_path / "here") as here:
            digests = [await here.write(rng.randbytes(100_000)) for _ in range(600)]
            order = list(digests)
            rng.shuffle(order)
            await age(here, {digest: 3600.0 * at for at, digest in enumerate(order)})
            await here.replication.reload([peer(there.address)])
            await here.until(lambda: TOO_SMALL in here.facts().get("reason", ""), 50)
            assert here.facts()["lanes"]["always"]["state"] == "following"
            assert here.facts()["reason"].startswith(TOO_SMALL)
            with Client(there.address) as client:
                held = set(digests) - client.find_missing(digests)
            assert here.facts()["sent-objects"] == len(held) > 100
            assert len(held & set(order[: len(held)])) > 0.7 * len(held)
