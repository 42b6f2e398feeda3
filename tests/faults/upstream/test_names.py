"""Index entries and absences: what upstreams say of names, next to what is pushed here."""

from __future__ import annotations

import grpc

from federation._proto.build.bazel.remote.asset.v1 import remote_asset_pb2 as asset
from federation.core.digest import digest_of
from tests.faults.upstream.site import PUSHER, Site, upstream
from tests.remote.blobs import noise
from tests.support.messages import message_of
from tests.support.process_client import action_result, outcome

LARGE, SMALL, OTHER = noise(600_000), noise(900), noise(901, seed=2)
ACTION = digest_of(b"action")
URI = "urn:test:name"
ABSENT_FOR = {"absent-for": "60s"}


async def test_u08_what_nobody_had_is_there_as_soon_as_it_is_pushed_here(site: Site) -> None:
    one, two = await site.fakes(2)
    node = site.node(upstream("one", one.address), upstream("two", two.address), pull=ABSENT_FOR)
    client, pusher = site.client(node), site.client(node, PUSHER)
    blobs = [digest_of(LARGE), digest_of(SMALL)]
    assert await site.off(outcome, lambda: client.read(blobs[0])) is grpc.StatusCode.NOT_FOUND
    assert await site.off(client.batch_read, blobs[1:]) == {}
    assert await site.off(client.find_missing, blobs) == set(blobs)
    assert await site.off(client.get_action_result, ACTION) is None
    assert await site.off(client.fetch_blob, URI) is None
    await site.off(pusher.write, LARGE)
    await site.off(pusher.batch_update, [SMALL])
    await site.off(pusher.update_action_result, ACTION, action_result([("out", blobs[1])]))
    await site.off(pusher.push_blob, URI, blobs[0])
    assert await site.off(client.find_missing, blobs) == set()
    assert await site.off(client.read, blobs[0]) == LARGE
    assert await site.off(client.batch_read, blobs[1:]) == {blobs[1]: SMALL}
    assert await site.off(client.get_action_result, ACTION) is not None
    assert await site.off(client.fetch_blob, URI) == blobs[0]


async def test_u15_an_entry_whose_closure_the_upstream_lacks_is_hidden_until_it_is_whole(
    site: Site,
) -> None:
    there = await site.fake()
    outputs = [("a", there.holds(SMALL)), ("b", digest_of(OTHER))]
    there.results[ACTION.hash_hex] = action_result(outputs).SerializeToString()
    there.assets[URI] = message_of(digest_of(OTHER))
    node = site.node(upstream("there", there.address), pull={"absent-for": "100ms"})
    client = site.client(node)
    assert await site.off(client.get_action_result, ACTION) is None
    assert await site.off(client.fetch_blob, URI) is None
    assert node.metrics().value("federation_stored_entries") == 0
    there.holds(OTHER)
    await site.until(lambda: client.get_action_result(ACTION), "the result, now whole")
    await site.until(lambda: client.fetch_blob(URI) == digest_of(OTHER), "the asset, now whole")
    await site.until(
        lambda: node.metrics().value("federation_stored_entries") == 2, "both to be kept"
    )


async def test_u16_what_was_pushed_here_stays_whatever_the_upstream_says(site: Site) -> None:
    there = await site.fake()
    theirs, ours = there.holds(SMALL), digest_of(OTHER)
    there.results[ACTION.hash_hex] = action_result([("out", theirs)]).SerializeToString()
    there.assets[URI] = message_of(theirs)
    node = site.node(upstream("there", there.address), pull={"index-ttl": "1ms"})
    client, pusher = site.client(node), site.client(node, PUSHER)
    assert await site.off(client.fetch_blob, URI) == theirs  # pulled first, then pushed over
    await site.off(pusher.batch_update, [OTHER])
    await site.off(pusher.update_action_result, ACTION, action_result([("out", ours)]))
    await site.off(pusher.push_blob, URI, ours)
    for _ in range(3):
        result = await site.off(client.get_action_result, ACTION)
        assert result is not None
        assert result.output_files[0].digest.hash == ours.hash_hex
        assert await site.off(client.fetch_blob, URI) == ours
    assert not there.calls("GetActionResult")
    assert len(there.calls("FetchBlob")) == 1


async def test_a_whole_artifact_asked_for_once_is_served_with_the_upstream_gone(
    site: Site,
) -> None:
    there = await site.fake()
    outputs = [(f"file-{n}", there.holds(noise(400_000, seed=n))) for n in range(4)]
    outputs += [(f"small-{n}", there.holds(noise(700, seed=n))) for n in range(40)]
    there.results[ACTION.hash_hex] = action_result(outputs).SerializeToString()
    node = site.node(upstream("there", there.address))
    client, pusher = site.client(node), site.client(node, PUSHER)
    assert await site.off(client.get_action_result, ACTION) is not None
    digests = [digest for _, digest in outputs]
    await site.until(lambda: not pusher.find_missing(digests), "everything to be brought here")
    await there.stop()
    assert await site.off(client.get_action_result, ACTION) is not None
    for _, digest in outputs[:6]:
        assert digest_of(await site.read(node, digest)) == digest
    assert len(there.calls("Read")) == 4


async def test_upstreams_are_asked_in_their_order_and_no_more_than_it_takes(site: Site) -> None:
    first, second, third = await site.fakes(3)
    first.assets["urn:first"] = message_of(first.holds(SMALL))
    for fake in (second, third):
        fake.assets["urn:second"] = message_of(fake.holds(OTHER))
        fake.holds(LARGE)
    node = site.node(
        *(upstream(n, f.address) for n, f in (("1", first), ("2", second), ("3", third)))
    )
    client = site.client(node)
    assert await site.off(client.fetch_blob, "urn:first") == digest_of(SMALL)
    assert await site.off(client.fetch_blob, "urn:second") == digest_of(OTHER)
    assert await site.off(client.fetch_blob, "urn:nowhere") is None
    assert await site.off(client.read, digest_of(LARGE)) == LARGE
    uris = [
        [
            asset.FetchBlobRequest.FromString(call.request).uris[0]
            for call in fake.calls("FetchBlob")
        ]
        for fake in (first, second, third)
    ]
    assert uris == [
        ["urn:first", "urn:second", "urn:nowhere"],
        ["urn:second", "urn:nowhere"],
        ["urn:nowhere"],
    ]
    assert [len(fake.calls("Read")) for fake in (first, second, third)] == [1, 1, 0]
