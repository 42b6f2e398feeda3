"""What upstreams say of themselves, where their names lead, how their connections end, and what
happens here when there is no room for what they send.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path

import grpc
import pytest

from federation.core.digest import digest_of
from tests.faults.storage.disks import tmpfs
from tests.faults.upstream.site import PUSHER, Site, upstream
from tests.remote.blobs import noise
from tests.remote.fake_server import (
    Context,
    UnaryDoes,
    answers,
    fails,
    good_capabilities,
    hangs,
)
from tests.support.process_client import outcome

MIB = 2**20
LARGE, SMALL = noise(3 * MIB), [noise(900, seed=seed) for seed in range(20)]


@pytest.mark.parametrize(
    "does",
    [
        fails(grpc.StatusCode.UNIMPLEMENTED),
        fails(grpc.StatusCode.UNAVAILABLE),
        hangs,
        answers(b"\xff\xff no message"),
        answers(good_capabilities(batch_bytes=0).SerializeToString()),
        answers(good_capabilities(batch_bytes=1).SerializeToString()),
        answers(good_capabilities(batch_bytes=2**63 - 1).SerializeToString()),
        answers(good_capabilities(batch_bytes=-1).SerializeToString()),
    ],
    ids=["unimplemented", "unavailable", "hangs", "rubbish", "zero", "one", "huge", "negative"],
)
async def test_u20_whatever_it_says_of_itself_it_is_used(site: Site, does: UnaryDoes) -> None:
    there = await site.fake()
    there.does["GetCapabilities"] = does
    large, small = there.holds(LARGE), {there.holds(data): data for data in SMALL}
    node = site.node(upstream("there", there.address))
    client = site.client(node)
    assert await site.off(client.batch_read, list(small)) == small
    assert await site.off(client.read, large) == LARGE


def own_hosts(hosts: Path) -> list[str]:
    """A prefix that lets a program see this file as /etc/hosts, and everybody else the old one."""
    script = 'mount --bind "$0" /etc/hosts && exec "$@"'
    return ["unshare", "--mount", "sh", "-c", script, str(hosts)]


@asynccontextmanager
async def two_addresses(dead: str, alive: str, target: str) -> AsyncIterator[int]:
    """A port that nobody answers on at one address, and that leads to target at the other."""
    host, _, target_port = target.rpartition(":")

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection(host, int(target_port))
        await asyncio.gather(copy(reader, there_writer), copy(there_reader, writer))

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(2**16):
                writer.write(data)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(pass_on, alive, 0)
    port = server.sockets[0].getsockname()[1]
    with ExitStack() as stack:
        deaf = stack.enter_context(socket.socket())  # its queue is full: no SYN gets an answer
        deaf.bind((dead, port))
        deaf.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex((dead, port))
        async with server:
            yield port


@pytest.mark.heavy
async def test_u21_a_name_that_resolves_again_later_is_used_again(
    site: Site, tmp_path: Path
) -> None:
    there = await site.fake()
    digest = there.holds(LARGE)
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 localhost\n")
    port = there.address.rpartition(":")[2]
    node = site.node(upstream("there", f"late.test:{port}"), prefix=own_hosts(hosts))
    client = site.client(node)
    for _ in range(6):
        assert await site.off(outcome, lambda: client.read(digest)) is grpc.StatusCode.NOT_FOUND
    assert not there.asked
    hosts.write_text("127.0.0.1 localhost\n127.0.0.1 late.test\n")
    await site.until(
        lambda: outcome(lambda: client.read(digest)) is grpc.StatusCode.OK, "the name to lead there"
    )


@pytest.mark.heavy
@pytest.mark.parametrize("dead", ["127.0.0.1", "127.0.0.2"])
async def test_u21_a_name_whose_first_address_is_dead_leads_to_the_other(
    site: Site, tmp_path: Path, dead: str
) -> None:
    there = await site.fake()
    digest = there.holds(LARGE)
    alive = {"127.0.0.1": "127.0.0.2", "127.0.0.2": "127.0.0.1"}[dead]
    hosts = tmp_path / "hosts"
    hosts.write_text(f"127.0.0.1 localhost\n{dead} two.test\n{alive} two.test\n")
    async with two_addresses(dead, alive, there.address) as port:
        node = site.node(upstream("there", f"two.test:{port}"), prefix=own_hosts(hosts))
        assert await site.read(node, digest) == LARGE


async def test_u21_a_name_that_does_not_resolve_costs_a_miss_and_the_next_is_asked(
    site: Site,
) -> None:
    good = await site.fake()
    digest = good.holds(LARGE)
    node = site.node(upstream("lost", "no-such-host.invalid:1"), upstream("good", good.address))
    client = site.client(node)
    assert await site.off(client.read, digest) == LARGE
    nowhere = digest_of(b"nowhere")
    assert await site.off(client.batch_read, [nowhere]) == {}


async def test_u22_goaway_in_the_middle_of_a_blob_is_resumed(site: Site) -> None:
    there = await site.fake(
        options=[("grpc.max_connection_age_ms", 400), ("grpc.max_connection_age_grace_ms", 100)]
    )
    digest = there.holds(LARGE)

    async def steady(data: bytes, _context: Context) -> AsyncIterator[bytes]:
        for at in range(0, len(data), 100_000):
            yield data[at : at + 100_000]
            await asyncio.sleep(0.04)

    there.streams = steady
    node = site.node(upstream("there", there.address))
    assert await site.read(node, digest) == LARGE
    assert len(there.calls("Read")) > 1


async def test_u25_a_blob_larger_than_the_quota_evicts_nothing_else(site: Site) -> None:
    there = await site.fake()
    digest, fits = there.holds(noise(12 * MIB)), there.holds(LARGE)
    node = site.node(upstream("there", there.address), storage={"quota": "8M", "lease": "1s"})
    client, pusher = site.client(node), site.client(node, PUSHER)
    local = noise(2 * MIB, seed=3)
    await site.off(pusher.write, local)
    end = await site.off(outcome, lambda: client.read(digest))
    assert end is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert await site.off(client.read, digest_of(local)) == local
    assert await site.off(client.read, fits) == LARGE
    assert node.metrics().value("federation_evicted_total") == 0


async def test_u25_small_blobs_and_entries_are_passed_on_when_there_is_no_room(
    site: Site,
) -> None:
    there = await site.fake()
    node = site.node(
        upstream("there", there.address),
        storage={"quota": "2M", "inline-max": "1K", "lease": "1h"},
    )
    pusher, client = site.client(node, PUSHER), site.client(node)
    filling = [noise(150_000, seed=seed) for seed in range(40)]
    ends = [await site.off(outcome, lambda data=data: pusher.write(data)) for data in filling]
    assert ends[-1] is grpc.StatusCode.RESOURCE_EXHAUSTED
    wanted = there.holds(noise(200_000, seed=77))
    assert await site.off(client.batch_read, [wanted]) == {wanted: noise(200_000, seed=77)}
    kept = ends.count(grpc.StatusCode.OK)
    for data in filling[:kept]:
        assert await site.off(client.read, digest_of(data)) == data
    assert not await site.off(pusher.find_missing, [digest_of(data) for data in filling[:kept]])


@pytest.mark.heavy
async def test_u25_a_disk_that_fills_while_pulling_costs_that_read_only(site: Site) -> None:
    there = await site.fake()
    digest = there.holds(noise(40 * MIB))
    with tmpfs(site.folder / "disk", size="24m") as disk:
        site.folder = disk
        node = site.node(upstream("there", there.address))
        local = noise(2 * MIB, seed=3)
        await site.off(site.client(node, PUSHER).write, local)
        client = site.client(node)
        end = await site.off(outcome, lambda: client.read(digest))
        assert end is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await site.off(client.read, digest_of(local)) == local
        await site.end()
