"""Clients of an HTTP cache: written at one node, read at its peer, at a mirror, and without it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.clients.http.builds import CacheClient
from tests.clients.http.every import CLIENTS
from tests.clients.http.remote_execution import MoonOverHttp
from tests.clients.http.sites import http_sites, over_http

pytestmark = [pytest.mark.clients, pytest.mark.timeout(400)]


@pytest.mark.parametrize("name", CLIENTS)
def test_what_is_written_at_one_site_is_a_hit_at_the_others(tmp_path: Path, name: str) -> None:
    _go_round(tmp_path, CLIENTS[name](tmp_path / "client"), "")


def test_a_mirror_asks_in_the_instance_that_its_upstream_is_given(tmp_path: Path) -> None:
    _go_round(tmp_path, MoonOverHttp(tmp_path / "client", "moon-outputs"), "moon-outputs")


def _go_round(folder: Path, client: CacheClient, instance: str) -> None:
    with http_sites(folder, instance) as sites:
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
