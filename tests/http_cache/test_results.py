"""Action results by hash, and what is no action result: /ac."""

from __future__ import annotations

import os

import pytest

from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from federation.core.digest import Digest, DigestFunction, digest_of
from federation.core.errors import EntryNotFound
from federation.http_cache.json_results import digests_in_json
from federation.http_cache.results import begins_like_result, is_result
from federation.services.call import Call
from federation.services.method import Unary
from federation.wire.action_result import RESPONSE_MAX_BYTES
from tests.http_cache.conftest import MakeHttpNode
from tests.http_cache.server import HttpNode

ACTION = b"an action"
NAMED = digest_of(ACTION)
PATH = f"/ac/{NAMED.hash_hex}"
OUT = b"output"


def result_of(*outputs: bytes, exit_code: int = 0) -> bytes:
    result = reapi.ActionResult(exit_code=exit_code)
    for at, data in enumerate(outputs):
        digest = digest_of(data)
        wire = reapi.Digest(hash=digest.hash_hex, size_bytes=digest.size_bytes)
        result.output_files.add(path=str(at), digest=wire)
    return result.SerializeToString()


class _Anybody(Call):
    """A call of somebody who may do everything, for asking the gRPC face."""

    def __init__(self) -> None:
        pass

    def check_pull(self, instance: str) -> None:
        pass


async def asked_by_grpc(http: HttpNode, action: Digest) -> bytes | None:
    request = reapi.GetActionResultRequest(
        action_digest=reapi.Digest(hash=action.hash_hex, size_bytes=action.size_bytes)
    )
    method = http.results.methods()["GetActionResult"]
    assert isinstance(method, Unary)
    try:
        return await method.handler(request.SerializeToString(), _Anybody())
    except EntryNotFound:
        return None


async def test_a_result_is_served_once_what_it_names_is_here(http: HttpNode) -> None:
    body = result_of(OUT)
    client = await http.connect()
    assert (await client.ask("PUT", PATH, body)).status == 200
    assert (await client.ask("GET", PATH)).status == 404
    assert (await client.ask("PUT", f"/cas/{digest_of(OUT).hash_hex}", OUT)).status == 200
    answer = await client.ask("GET", PATH)
    assert (answer.status, answer.body) == (200, body)
    head = await client.ask("HEAD", PATH)
    assert (head.status, head.headers["content-length"]) == (200, str(len(body)))


@pytest.mark.parametrize("held", [True, False])
async def test_the_grpc_face_sees_a_result_whether_or_not_its_action_is_here(
    http: HttpNode, held: bool
) -> None:
    if held:
        http.store.add(NAMED, ACTION)
    await http.ask("PUT", PATH, result_of(exit_code=3))
    (key,) = http.index.entries
    assert key.name.endswith((len(ACTION) if held else 0).to_bytes(8, "big"))
    assert await asked_by_grpc(http, NAMED) == result_of(exit_code=3)
    assert await asked_by_grpc(http, NAMED._replace(size_bytes=0)) == result_of(exit_code=3)


async def test_a_size_that_somebody_claimed_hides_no_result(http: HttpNode) -> None:
    http.service.sizes.learn([NAMED._replace(size_bytes=77)])
    await http.ask("PUT", PATH, result_of(exit_code=3))
    assert await asked_by_grpc(http, NAMED) == result_of(exit_code=3)
    assert (await http.ask("GET", PATH)).body == result_of(exit_code=3)


async def test_a_result_without_its_action_keeps_the_key_that_it_has(http: HttpNode) -> None:
    http.store.add(NAMED, ACTION)
    await http.ask("PUT", PATH, result_of(exit_code=1))
    http.store.remove(NAMED)
    http.service.sizes.learn([])
    await http.ask("PUT", PATH, result_of(exit_code=2))
    assert len(http.index.entries) == 1
    assert (await http.ask("GET", PATH)).body == result_of(exit_code=2)


@pytest.mark.parametrize(
    "body",
    [b'{"moon": "manifest"}', b"\xcc\xac" + os.urandom(3000), os.urandom(100_000), b"\x12\x03abc"],
)
async def test_what_is_no_action_result_is_an_entry_of_its_own(http: HttpNode, body: bytes) -> None:
    assert (await http.ask("PUT", PATH, body)).status == 200
    assert (await http.ask("GET", PATH)).body == body
    assert await asked_by_grpc(http, NAMED) is None


async def test_the_last_of_both_kinds_is_served(http: HttpNode) -> None:
    for body in (result_of(exit_code=1), b"{}", result_of(exit_code=2), b'{"a": 1}'):
        await http.ask("PUT", PATH, body)
        assert (await http.ask("GET", PATH)).body == body


async def test_instances_do_not_share_results(http: HttpNode) -> None:
    await http.ask("PUT", f"/main{PATH}", result_of(exit_code=1))
    assert (await http.ask("GET", PATH)).status == 404
    assert (await http.ask("GET", f"//main{PATH}")).status == 200


async def test_a_body_larger_than_results_may_be_is_an_entry(http: HttpNode) -> None:
    body = b"\xcc\xac" + os.urandom(RESPONSE_MAX_BYTES + 1000)
    assert (await http.ask("PUT", PATH, body)).status == 200
    assert (await http.ask("GET", PATH)).body == body


async def test_w45_a_result_larger_than_results_may_be_is_too_large(http: HttpNode) -> None:
    files = [str(n).encode() for n in range(60_000)]
    body = result_of(*files)
    assert len(body) > RESPONSE_MAX_BYTES
    assert (await http.ask("PUT", PATH, body)).status == 413
    assert not http.index.entries


async def test_a_size_is_learnt_from_the_result_that_names_the_blob(http: HttpNode) -> None:
    http.store.add(digest_of(OUT), OUT)
    await http.ask("PUT", PATH, result_of(OUT))
    assert http.service.sizes.sized(digest_of(OUT)._replace(size_bytes=0)) == digest_of(OUT)


async def test_a_size_is_learnt_from_a_result_in_json_when_it_is_read(http: HttpNode) -> None:
    body = b'{"outputFiles":[{"path":"a","digest":{"hash":"%s","sizeBytes":"6"}}]}'
    unsized = digest_of(OUT)._replace(size_bytes=0)
    await http.ask("PUT", PATH, body % digest_of(OUT).hash_hex.encode())
    assert http.service.sizes.sized(unsized) is None
    await http.ask("GET", PATH)
    assert http.service.sizes.sized(unsized) == digest_of(OUT)


async def test_nothing_is_learnt_from_what_is_no_json(http: HttpNode) -> None:
    unsized = digest_of(OUT)._replace(size_bytes=0)
    body = b'ccache{"hash":"%s","sizeBytes":"6"}' % unsized.hash_hex.encode()
    await http.ask("PUT", PATH, body)
    assert (await http.ask("GET", PATH)).body == body
    assert http.service.sizes.sized(unsized) is None


HASH = digest_of(OUT).hash_hex


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"hash":"%s","sizeBytes":"7"}', 7),
        ('{"stdoutDigest": {"hash": "%s", "sizeBytes": 7}}', 7),
        ('{"hash":"%s","size_bytes":7}', 7),
        ('{"hash":"%s"}', None),  # the empty blob's size is left out
        ('{"hash":"%s","sizeBytes":"-7"}', None),
        ('{"hash":"%s","sizeBytes":"7777777777777777777"}', None),
        ('{"hash":"%s0","sizeBytes":"7"}', None),
    ],
)
def test_which_sizes_a_result_in_json_tells(text: str, expected: int | None) -> None:
    found = digests_in_json((text % HASH).encode(), 10)
    assert [each.size_bytes for each in found] == ([] if expected is None else [expected])
    assert all(each.hash_hex == HASH for each in found)


def test_of_a_long_result_in_json_only_so_much_is_learnt() -> None:
    digest = f'{{"hash":"{HASH}","sizeBytes":"7"}},'
    assert len(digests_in_json(digest.encode() * 100, 10)) == 10


def test_a_wrong_inlined_output_makes_it_no_result() -> None:
    result = reapi.ActionResult.FromString(result_of(OUT))
    result.output_files[0].contents = b"other!"
    assert not is_result(result.SerializeToString(), DigestFunction.SHA256)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", True),
        (result_of(), True),
        (result_of(exit_code=1), True),
        (result_of(OUT), True),
        (b"{}", False),
        (b"\x9a\x06\x01a", False),  # a field that is not known, and nothing else
        (result_of(OUT)[:-1], False),
        (b"\x12\x02\x12\x00", False),  # an output file without a digest
    ],
)
def test_what_counts_as_an_action_result(body: bytes, expected: bool) -> None:
    assert is_result(body, DigestFunction.SHA256) is expected


def test_what_begins_like_an_action_result() -> None:
    many = result_of(*(bytes([n]) for n in range(100)))
    assert begins_like_result(many[:-5])
    assert not begins_like_result(b"\xcc\xac" * 100)
    assert not begins_like_result(b"{" * 1000)


async def test_a_reader_gets_results_and_may_not_put_any(make_node: MakeHttpNode) -> None:
    from federation.access.rights import everybody

    http = await make_node(rights=everybody(push=False))
    answer = await http.ask("PUT", PATH, result_of())
    assert (answer.status, answer.headers["content-type"]) == (403, "text/plain")
    assert (await http.ask("GET", PATH)).status == 404
