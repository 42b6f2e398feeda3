"""BuildStream 1's references: the same names as its Remote Asset ones, and nothing half there."""

from __future__ import annotations

from collections.abc import Awaitable

import grpc
import pytest

from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from federation._proto.buildstream.v2 import buildstream_pb2 as bst
from federation._proto.buildstream.v2 import buildstream_pb2_grpc as bst_grpc
from federation.core.digest import digest_of
from tests.services.assets.served import BAD, NOT_FOUND, Assets, MakeAssets
from tests.services.calls import refused
from tests.support.messages import directory, message_of

KEY = "shop/element-app/" + "a" * 64
WEAK = "shop/element-app/" + "b" * 64
URN = "urn:fdc:buildstream.build:2020:v1:"
FILE = b"in files/"
FILES = directory({"f": digest_of(FILE)})
ROOT = directory({}, {"files": digest_of(FILES)})


class References:
    def __init__(self, assets: Assets) -> None:
        self.assets = assets
        self.stub = bst_grpc.ReferenceStorageStub(assets.served.channel)

    def get(self, key: str, instance: str = "") -> Awaitable[bst.GetReferenceResponse]:
        call: Awaitable[bst.GetReferenceResponse] = self.stub.GetReference(
            bst.GetReferenceRequest(key=key, instance_name=instance)
        )
        return call

    def update(
        self, *keys: str, digest: reapi.Digest | None = None, instance: str = ""
    ) -> Awaitable[bst.UpdateReferenceResponse]:
        digest = message_of(digest_of(ROOT)) if digest is None else digest
        call: Awaitable[bst.UpdateReferenceResponse] = self.stub.UpdateReference(
            bst.UpdateReferenceRequest(keys=keys, digest=digest, instance_name=instance)
        )
        return call

    def put_all(self) -> None:
        for data in (ROOT, FILES, FILE):
            self.assets.put(data)


@pytest.fixture
def references(assets: Assets) -> References:
    return References(assets)


async def test_a_reference_is_found_by_each_of_its_keys(references: References) -> None:
    references.put_all()
    await references.update(KEY, WEAK)
    for key in (KEY, WEAK):
        assert (await references.get(key)).digest == message_of(digest_of(ROOT))
    await refused(references.get(KEY + "c"), NOT_FOUND)


async def test_the_last_update_of_a_key_wins(references: References) -> None:
    references.put_all()
    await references.update(KEY)
    await references.update(KEY, digest=message_of(digest_of(FILES)))
    assert (await references.get(KEY)).digest == message_of(digest_of(FILES))


async def test_a_reference_and_the_asset_of_its_urn_are_one(
    references: References, assets: Assets
) -> None:
    references.put_all()
    await references.update(KEY)
    answer = await assets.fetch_directory(URN + KEY)
    assert answer.root_directory_digest == message_of(digest_of(ROOT))
    await assets.hidden(URN + KEY)  # as a blob
    await assets.push_directory(URN + WEAK, data=FILES)
    assert (await references.get(WEAK)).digest == message_of(digest_of(FILES))


async def test_w35_a_reference_hides_until_its_whole_tree_is_here(
    references: References, assets: Assets
) -> None:
    await references.update(KEY)
    for data in (ROOT, FILES, FILE):
        await refused(references.get(KEY), NOT_FOUND)
        assets.put(data)
    assert (await references.get(KEY)).digest == message_of(digest_of(ROOT))
    assets.store.remove(digest_of(FILE))
    await refused(references.get(KEY), NOT_FOUND)
    assets.put(FILE)
    assert (await references.get(KEY)).digest == message_of(digest_of(ROOT))


async def test_instances_have_references_of_their_own(references: References) -> None:
    references.put_all()
    await references.update(KEY, instance="team/a")
    assert (await references.get(KEY, "team/a")).digest.hash
    for other in ("", "team", "team/b"):
        await refused(references.get(KEY, other), NOT_FOUND)
    await refused(references.get(KEY, "a/../b"), BAD)
    await refused(references.update(KEY, instance="a/../b"), BAD)
    await refused(references.stub.Status(bst.StatusRequest(instance_name="a/../b")), BAD)


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/etc/passwd",
        "../../etc/passwd",
        "shop/../x",
        "shop/./x",
        "shop//x",
        "shop/x/",
        "shop/%2e%2e/x",
        "shop%2f..%2fx",
        "shop\\..\\x",
        "shop/x\0",
        "shop/x\n",
        "shop/x%00",
        "shop/\x1b[2J",
        "k" * 2**16,
        "é" * 3000,
    ],
)
async def test_w40_a_key_that_could_be_no_name_is_refused(references: References, key: str) -> None:
    await refused(references.get(key), BAD)
    await refused(references.update(KEY, key), BAD)
    references.put_all()
    await refused(references.get(KEY), NOT_FOUND)  # nothing was stored under the good one either


async def test_w40_names_that_people_use_are_taken(references: References) -> None:
    references.put_all()
    for key in ("a", "my.project/core-my.app_1+x/" + "c" * 64, "p/élément/key", "p/..x/y..", "%/1"):
        await references.update(key)
        assert (await references.get(key)).digest.hash


async def test_an_update_without_keys_or_with_too_many_or_no_digest_is_refused(
    references: References,
) -> None:
    await refused(references.update(), BAD)
    await refused(references.update(*map(str, range(1001))), BAD)
    await refused(references.update(KEY, digest=bst.GetReferenceResponse().digest), BAD)
    await refused(references.get(KEY), NOT_FOUND)


async def test_a17_status_tells_each_listener_its_own_rights(make_assets: MakeAssets) -> None:
    for may_push in (False, True):
        references = References(await make_assets(may_push=may_push))
        assert (await references.stub.Status(bst.StatusRequest())).allow_updates is may_push


async def test_a01_references_are_not_updated_where_writes_are_not_taken(
    make_assets: MakeAssets,
) -> None:
    references = References(await make_assets(may_push=False))
    references.put_all()
    denied = grpc.StatusCode.PERMISSION_DENIED
    await refused(references.update(KEY), denied)
    await refused(references.update("../x"), denied)
    await refused(references.get(KEY), NOT_FOUND)
