"""What `federation explain` says of peers."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import apsw
import pytest

from federation.config.model import StorageConfig
from federation.core.digest import digest_of
from federation.core.index import Entry, EntryKey, EntryKind
from federation.core.provenance import Provenance, Source
from federation.core.replication_log import Lane, Parked, PeerRecord, PeerState
from federation.storage.admin import explaining, summary
from tests.storage.conftest import opened, short
from tests.storage.test_migration import make_version_1

FOLLOWING = PeerState.FOLLOWING
PULLED = Provenance(Source.UPSTREAM, origin="hq")
FIRST, SECOND, THIRD = b"first", b"second", b"third"
ENTRY = Entry(EntryKey(EntryKind.ASSET_BLOB, "", b"name"), b"value", "uri")


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """Three blobs, the last from an upstream, and an entry; four peers that are not as far."""

    async def fill() -> None:
        async with opened(tmp_path, short()) as storage:
            for data, provenance in (
                (FIRST, Provenance()),
                (SECOND, Provenance()),
                (THIRD, PULLED),
            ):
                await storage.write_small([(digest_of(data), data)], provenance=provenance)
            await storage.put([ENTRY])
            follows = PeerRecord("", state=FOLLOWING, reason="")
            await storage.ledger.save(
                [
                    follows._replace(name="all", cursor=2, pins_pulled=True),
                    follows._replace(name="done", cursor=4),
                    follows._replace(name="half", cursor=1),
                    follows._replace(name="half", lane=Lane.WINDOW, cursor=4),
                    PeerRecord("new", holds=False),
                ]
            )
            refused = Parked("done", 1, digest_of(FIRST), None, "label", "too large", 1.0)
            await storage.ledger.park([refused])

    asyncio.run(fill())
    return tmp_path


def peers(facts: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each["answer"] for each in facts["peers"]}


def test_each_peer_is_shown_with_what_it_has_acknowledged(data_dir: Path) -> None:
    with explaining(data_dir, short()) as explainer:
        first, second, third = (explainer.blob(digest_of(data)) for data in (FIRST, SECOND, THIRD))
        (entry,) = explainer.assets("uri", None)
    had = "acknowledged, or left out by its rules"
    unknown = "not known: it needs a resync (new)"
    assert peers(first) == {
        "all": had,
        "done": "parked: too large",
        "half": had,
        "new": unknown,
    }
    assert peers(second) == {
        "all": had,
        "done": had,
        "half": "not acknowledged yet",
        "new": unknown,
    }
    left_out = "left out: it came from an upstream"
    assert peers(third) == {
        "all": "not acknowledged yet",
        "done": left_out,
        "half": left_out,
        "new": left_out,
    }
    assert peers(entry.facts)["all"] == peers(entry.facts)["half"] == "not acknowledged yet"


def test_what_is_kept_for_peers_is_said_to_be(data_dir: Path) -> None:
    short_lease = short(lease=0.001)
    connection = apsw.Connection(str(data_dir / "catalogue.sqlite"))
    connection.execute("UPDATE blob SET used = used - 60000, leased = 0")  # a minute ago
    connection.close()
    with explaining(data_dir, short_lease) as explainer:
        first, second, third = (
            explainer.blob(digest_of(data))["eviction"] for data in (FIRST, SECOND, THIRD)
        )
    assert "kept for" not in first
    assert second == "no: kept for half, see when-full"
    assert third == "no: kept for all, see when-full"


def test_a_directory_of_an_older_version_is_read_as_it_is(tmp_path: Path) -> None:
    """A new program's `status` and `explain` beside an old node that was not restarted yet."""
    make_version_1(tmp_path)
    (tmp_path / "run").mkdir()
    facts = summary(tmp_path, StorageConfig())
    assert (facts["schema-version"], facts["blobs"], facts["peers"]) == (1, 1, [])
    with explaining(tmp_path, short()) as explainer:
        found = explainer.blob(digest_of(b"blob"))
        assert found["here"]
        assert "peers" not in found
        assert explainer.assets("label", None)
    assert summary(tmp_path, StorageConfig())["schema-version"] == 1
