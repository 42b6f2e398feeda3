"""Slow links with deep queues: who is heard only behind megabytes that wait is not taken for dead.

gRPC pings a connection that bytes come over, and closes it when the answer takes longer than it was
told to wait; the answer waits behind what is under way already. Each test takes minutes.
"""

from __future__ import annotations

import pytest

from federation.core.digest import digest_of
from tests.faults.upstream.site import PUSHER, READER, Site, received, upstream
from tests.remote.blobs import noise
from tests.support.process_client import Client

_BYTES_S = 32 * 1024  # 256 kbit/s
_DATA = noise(5 * 2**20)  # of which more than two minutes' worth fits into gRPC's windows

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(400)]


async def test_a_push_over_a_slow_link_is_not_cut(site: Site) -> None:
    node = site.node()
    link = await site.proxy(node.addresses[PUSHER])
    link.to_server_bytes_s = _BYTES_S
    with Client(link.address, timeout_s=300) as client:
        assert await site.off(client.write, _DATA) == len(_DATA)
    assert link.connections == 1


async def test_a_pull_over_a_slow_link_is_not_cut(site: Site) -> None:
    there = site.node(name="there")
    digest = digest_of(_DATA)
    await site.off(site.client(there, PUSHER).write, _DATA)
    link = await site.proxy(there.addresses[READER])
    link.to_client_bytes_s = _BYTES_S
    # A message of 2 MiB takes a minute, and nothing is seen of it before all of it is here.
    waits = {"connection-config": {"stall": "2m"}}
    node = site.node(upstream("there", link.address, **waits))
    client = site.client(node, timeout_s=300)
    assert await site.off(client.read, digest) == _DATA
    assert received(there, "Read") == 1
    assert link.connections == 1
