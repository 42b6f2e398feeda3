"""A site moves from one machine's storage to a shared one and back, by means of replication."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from federation.core.digest import digest_of
from tests.support.polling import wait_until
from tests.support.process import Node, federation, serve
from tests.support.process_client import Client, action_result
from tests.support.sites import TestSite

pytestmark = pytest.mark.servers
URI = "urn:fdc:example:2020:moved"
BLOBS = [os.urandom(size) for size in (100, 50_000, 9 * 2**20)]
DIGESTS = [digest_of(data) for data in BLOBS]
ACTION = digest_of(b"action")
RESULT = action_result([("out", DIGESTS[2])])
ENGINES = ("embedded", "shared")


def storage(engine: str, site: TestSite) -> Mapping[str, Any]:
    return {"storage": dict(site.keys())} if engine == "shared" else {}


def stamps(engine: str, node: Node, site: TestSite) -> list[tuple[Any, ...]]:
    """When each name was given its value, and by which node."""
    if engine == "shared":
        found = site.sql("SELECT convert_from(label, 'UTF8'), ticks, node FROM entry")
    else:
        with closing(sqlite3.connect(node.data_dir / "catalogue.sqlite")) as connection:
            found = connection.execute("SELECT label, ticks, node FROM entry").fetchall()
    return sorted(found)


def fill(node: Node) -> None:
    with Client(node.address) as client:
        for data in BLOBS:
            client.write(data)
        client.update_action_result(ACTION, RESULT)
        client.push_blob(URI, DIGESTS[1])


def check(node: Node) -> None:
    with Client(node.address) as client:
        assert client.find_missing(DIGESTS) == set()
        assert [client.read(digest) for digest in DIGESTS] == BLOBS
        assert client.get_action_result(ACTION) == RESULT
        assert client.fetch_blob(URI) == DIGESTS[1]


@pytest.mark.parametrize(("old", "new"), [ENGINES, ENGINES[::-1]])
def test_what_one_engine_holds_moves_to_the_other_with_its_dates_and_so_do_purges(
    site: TestSite, tmp_path: Path, old: str, new: str
) -> None:
    with serve(tmp_path / "new", storage(new, site), name="new") as there:
        with serve(tmp_path / "old", storage(old, site), name="old") as here:
            fill(here)
        peers = [{"name": "new", "url": f"grpc://{there.address}"}]
        settings = {**storage(old, site), "peers": peers}
        with serve(tmp_path / "old", settings, name="old") as here:
            command = ("reconcile", "new", "--wait", "--config", str(here.config_path))
            # A peer is known a moment after the node has begun to serve.
            wait_until(lambda: federation(*command).returncode == 0, "the peer has it all")
            check(there)
            assert stamps(new, there, site) == stamps(old, here, site) != []
            purge = ("purge", str(DIGESTS[2]), "--yes", "--config", str(here.config_path))
            assert federation(*purge).returncode == 0
            with Client(there.address) as client:
                wait_until(
                    lambda: client.find_missing(DIGESTS) == {DIGESTS[2]}, "the peer was told"
                )
                assert client.get_action_result(ACTION) is None
