"""Clients of an HTTP cache: written at one node, read at its peer, at a mirror, and without it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.clients.http.every import CLIENTS
from tests.clients.http.sites import http_sites, over_http

pytestmark = [pytest.mark.clients, pytest.mark.timeout(400)]


@pytest.mark.parametrize("name", CLIENTS)
def test_what_is_written_at_one_site_is_a_hit_at_the_others(tmp_path: Path, name: str) -> None:
    client = CLIENTS[name](tmp_path / "client")
    with http_sites(tmp_path) as sites:
        built = client.build(over_http(sites.paris))
        # Nothing is a hit on an empty node: so what is one later has come from a node.
        assert (built.hits, built.executed) == (0, client.actions), built.output
        through = client.build(over_http(sites.mirror))
        assert (through.hits, through.executed) == (client.actions, 0), through.output
        assert through.outputs == built.outputs
        sites.wait_until_replicated()
        sites.lose_paris()
        for node in (sites.tokyo, sites.mirror):
            alone = client.build(over_http(node))
            assert (alone.hits, alone.executed) == (client.actions, 0), alone.output
            assert alone.outputs == built.outputs
