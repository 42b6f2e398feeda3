"""Upstreams that refuse, flap, restart or want to be left alone: nobody's call fails because of
them, they are not stormed, and they are used again within seconds of their return.
"""

from __future__ import annotations

import asyncio
from itertools import cycle
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509

from federation.core.digest import digest_of
from tests.faults.upstream.site import PUSHER, Site, state, status, upstream
from tests.remote.blobs import noise
from tests.remote.fake_server import FakeServer, fails, fails_after, refusing_address
from tests.support.certificates import Files, self_signed
from tests.support.process_client import action_result, outcome

DATA = noise(2**20)
SMALL = noise(5000)
ACTION = digest_of(b"action")
EVERYTHING = ("FindMissingBlobs", "BatchReadBlobs", "GetActionResult", "FetchBlob")


def everything_fails(fake: FakeServer, code: grpc.StatusCode, **options: Any) -> None:
    fake.does = dict.fromkeys(EVERYTHING, fails(code, **options))
    fake.streams = fails_after(0, code)


async def test_u06_one_that_refuses_costs_misses_only_and_is_back_within_seconds(
    site: Site,
) -> None:
    there = await site.fake()
    blobs = [noise(1000, seed=seed) for seed in range(20)]
    digests = [there.holds(data) for data in blobs]
    await there.stop()
    node = site.node(upstream("there", there.address))
    local = noise(3000, seed=99)
    await site.off(site.client(node, PUSHER).batch_update, [local])
    client = site.client(node)
    for digest in digests:
        assert await site.off(client.batch_read, [digest]) == {}
        assert await site.off(client.read, digest_of(local)) == local
    assert state(node, "there")["state"] in {"down", "probing"}
    assert node.http_get("/readyz")[0] == 200
    await there.start()
    await site.until(lambda: state(node, "there")["state"] == "up", "the breaker to close")
    found = await site.off(client.batch_read, digests)
    assert found == dict(zip(digests, blobs, strict=True))


async def test_u06_flapping_every_100_ms_gives_right_bytes_or_a_miss_and_then_all(
    site: Site,
) -> None:
    there = await site.fake()
    blobs = {there.holds(noise(400_000, seed=seed)): noise(400_000, seed=seed) for seed in range(8)}
    proxy = await site.proxy(there.address)
    node = site.node(upstream("there", proxy.address))
    local = noise(100_000, seed=50)
    await site.off(site.client(node, PUSHER).write, local)

    async def flap() -> None:
        while True:
            await asyncio.sleep(0.1)
            proxy.refuses = not proxy.refuses
            proxy.cut()

    flapping = asyncio.ensure_future(flap())
    client = site.client(node)
    ends, wanted = set(), cycle(blobs.items())
    while proxy.cuts < 15:
        digest, data = next(wanted)
        try:
            assert await site.off(client.read, digest) == data
            ends.add(grpc.StatusCode.OK)
        except grpc.RpcError as error:
            ends.add(error.code())
        assert await site.off(client.read, digest_of(local)) == local
    assert ends <= {grpc.StatusCode.OK, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNAVAILABLE}
    flapping.cancel()
    proxy.refuses = False
    for digest, data in blobs.items():
        await site.until(
            lambda digest=digest: outcome(lambda: client.read(digest)) is grpc.StatusCode.OK,  # type: ignore[misc]
            "a blob to come once the flapping is over",
        )
        assert await site.off(client.read, digest) == data


@pytest.mark.parametrize(
    "code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED], ids=str
)
async def test_u07_one_that_is_overloaded_is_passed_over_and_not_taken_for_a_miss(
    site: Site, code: grpc.StatusCode
) -> None:
    busy, good = await site.fakes(2)
    only_busy = busy.holds(noise(700, seed=7))
    digest, small = good.holds(DATA), good.holds(SMALL)
    busy.holds(DATA)
    good.results[ACTION.hash_hex] = action_result([("out", small)]).SerializeToString()
    everything_fails(busy, code)
    node = site.node(upstream("busy", busy.address), upstream("good", good.address))
    client = site.client(node)
    assert await site.off(client.read, digest) == DATA
    assert await site.off(client.get_action_result, ACTION) is not None
    assert await site.off(client.batch_read, [small, only_busy]) == {small: SMALL}
    busy.does, busy.streams = {}, FakeServer().streams
    await site.until(lambda: client.batch_read([only_busy]), "it to be asked again")


async def test_u07_the_time_that_an_upstream_asks_for_is_kept(site: Site) -> None:
    busy, good = await site.fakes(2)
    small = [good.holds(noise(500, seed=seed)) for seed in range(5)]
    everything_fails(busy, grpc.StatusCode.RESOURCE_EXHAUSTED, retry_after_s=4.0)
    node = site.node(upstream("busy", busy.address), upstream("good", good.address))
    client = site.client(node)
    assert len(await site.off(client.batch_read, small[:1])) == 1
    asked = len(busy.calls("BatchReadBlobs"))
    for digest in small[1:]:
        assert len(await site.off(client.batch_read, [digest])) == 1
    assert asked == len(busy.calls("BatchReadBlobs")) == 1
    busy.does = {}
    late = busy.holds(noise(600, seed=9))
    await site.until(lambda: client.batch_read([late]), "it to be asked again")


@pytest.mark.parametrize(
    "code", [grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED], ids=str
)
async def test_u09_one_that_does_not_let_us_in_is_skipped_shown_and_not_stormed(
    site: Site, code: grpc.StatusCode
) -> None:
    strict, good = await site.fakes(2)
    everything_fails(strict, code)
    small = [good.holds(noise(500, seed=seed)) for seed in range(10)]
    node = site.node(upstream("strict", strict.address), upstream("good", good.address))
    client = site.client(node)
    for digest in small:
        assert len(await site.off(client.batch_read, [digest])) == 1
    assert await site.off(client.get_action_result, ACTION) is None
    shown = state(node, "strict")
    assert shown["state"] in {"down", "probing"}
    assert code.name in str(shown)
    asked = [each for each in strict.asked if each.method != "GetCapabilities"]
    assert len(asked) <= 3


@pytest.mark.parametrize("what", ["expired", "host", "unknown"])
async def test_u09_one_whose_certificate_is_not_right_is_skipped_and_shown(
    site: Site, tmp_path: Path, what: str
) -> None:
    files = self_signed(
        tmp_path,
        expired=what == "expired",
        **({"hosts": [x509.DNSName("elsewhere.example.com")]} if what == "host" else {}),  # type: ignore[arg-type]
    )
    listed = self_signed(tmp_path, "other") if what == "unknown" else files
    pair = (files.key.read_bytes(), files.certificate.read_bytes())
    strange = await site.fake(grpc.ssl_server_credentials([pair]))
    good = await site.fake()
    small = [good.holds(noise(500, seed=seed)) for seed in range(5)]
    node = site.node(
        upstream("strange", f"https://{strange.address}", auth=auth(listed)),
        upstream("good", good.address),
    )
    client = site.client(node)
    for digest in small:
        assert len(await site.off(client.batch_read, [digest])) == 1
    assert await site.off(client.batch_read, [digest_of(b"nowhere")]) == {}
    shown = state(node, "strange")
    assert shown["state"] in {"down", "probing"}
    assert "certificate" in shown["last-error"].lower()
    assert not strange.asked


def auth(files: Files) -> dict[str, str]:
    return {"server-cert": str(files.certificate)}


async def test_u13_what_failed_for_many_is_not_remembered_for_the_next(site: Site) -> None:
    there = await site.fake()
    digest = there.holds(DATA)
    there.streams = fails_after(0, grpc.StatusCode.UNAVAILABLE)
    node = site.node(upstream("there", there.address))
    client = site.client(node)
    ends = await asyncio.gather(
        *(site.off(outcome, lambda: client.read(digest)) for _ in range(20))
    )
    assert set(ends) == {grpc.StatusCode.NOT_FOUND}
    assert len(there.calls("Read")) < 20
    there.streams = FakeServer().streams
    # On a busy machine the twenty may have come one by one, and opened the breaker.
    await site.until(
        lambda: outcome(lambda: client.read(digest)) is grpc.StatusCode.OK,
        "the next read to find the blob",
        15,
    )
    assert await site.off(client.read, digest) == DATA


async def test_with_every_upstream_down_the_node_serves_what_it_has_and_says_so(
    site: Site,
) -> None:
    there = await site.fake()
    held, unread = there.holds(DATA), there.holds(noise(2**20, seed=2))
    there.results[ACTION.hash_hex] = action_result([("out", held)]).SerializeToString()
    silent = await site.silent()
    node = site.node(
        upstream("there", there.address),
        upstream("silent", silent.address),
        upstream("nobody", refusing_address()),
        pull={"index-ttl": "100ms"},
    )
    client = site.client(node)
    assert await site.off(client.read, held) == DATA
    assert await site.off(client.get_action_result, ACTION) is not None
    await there.stop()
    for _ in range(6):
        assert await site.off(client.get_action_result, ACTION) is not None
        assert await site.off(client.read, held) == DATA
        assert await site.off(outcome, lambda: client.read(unread)) is grpc.StatusCode.NOT_FOUND
        assert await site.off(client.find_missing, [held, unread]) == {unread}
    assert node.http_get("/readyz")[0] == 200
    states = {each["name"]: each["state"] for each in status(node)["upstreams"]}
    assert states["there"] != "up"
    assert states["nobody"] != "up"
    await there.start()
    await site.until(lambda: not client.find_missing([unread]), "the upstream to be back")
    assert await site.off(client.read, unread) == noise(2**20, seed=2)


async def test_a_node_as_upstream_may_be_killed_frozen_and_started_again(site: Site) -> None:
    far = site.node(name="far")
    blobs = [noise(300_000, seed=seed) for seed in range(4)]
    digests = [digest_of(data) for data in blobs]
    pusher = site.client(far, PUSHER)
    for data in blobs:
        await site.off(pusher.write, data)
    port = far.addresses[0]
    node = site.node(upstream("far", port))
    client = site.client(node)
    assert await site.off(client.read, digests[0]) == blobs[0]
    far.pause()
    assert await site.off(outcome, lambda: client.read(digests[1])) is grpc.StatusCode.NOT_FOUND
    far.resume()
    await site.until(
        lambda: outcome(lambda: client.read(digests[1])) is grpc.StatusCode.OK, "the thawed one"
    )
    far.kill()
    assert await site.off(outcome, lambda: client.read(digests[2])) is grpc.StatusCode.NOT_FOUND
    assert await site.off(client.read, digests[1]) == blobs[1]
    far.settings = {**far.settings, "listeners": [{"address": port}]}
    far.start()
    await site.until(
        lambda: outcome(lambda: client.read(digests[2])) is grpc.StatusCode.OK, "the new one"
    )
    assert await site.off(client.read, digests[2]) == blobs[2]
