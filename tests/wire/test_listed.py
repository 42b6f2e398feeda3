"""Names instead of digests: read as the runtime reads them, or not at all."""

from __future__ import annotations

import random
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from federation.core.digest import EMPTY, MAX_SIZE_BYTES, Digest, DigestFunction
from federation.core.errors import InvalidRequest
from federation.wire.cas_codec import decode_find_missing, encode_missing
from federation.wire.digest_list import (
    NotCanonical,
    decode_listed,
    encode_listed,
    hashes_of,
    size_of,
)

SIZES = st.one_of(st.sampled_from([0, 1, 127, 128, 2**35, MAX_SIZE_BYTES]), st.integers(0, 10**6))
HASHES = st.binary(min_size=32, max_size=32)
DIGESTS = st.builds(Digest, HASHES, SIZES, st.just(DigestFunction.SHA256))
LISTS = st.lists(st.one_of(DIGESTS, st.just(EMPTY)), max_size=5)


def request(digests: list[Digest], **more: Any) -> pb.FindMissingBlobsRequest:
    wire = [pb.Digest(hash=d.hash_hex, size_bytes=d.size_bytes) for d in digests]
    return pb.FindMissingBlobsRequest(blob_digests=wire, **more)


def as_listed(data: bytes) -> tuple[str, list[Digest]] | None:
    """Read by this module; None where it leaves that to the runtime."""
    listed = decode_listed(data)
    if listed is None:
        return None
    try:
        hashes = hashes_of(listed.names)
    except NotCanonical:
        return None
    return listed.instance, list(map(Digest, hashes, map(size_of, listed.names)))


def as_message(data: bytes) -> tuple[str, list[Digest]]:
    """Read by the runtime: each digest once, without the empty blob's."""
    asked = decode_find_missing(data)
    return asked.instance, [d for d in dict.fromkeys(asked.digests) if not d.is_empty]


@given(LISTS, st.sampled_from(["", "main", "team/a"]), st.sampled_from([0, 1]))
def test_what_clients_send_is_read_here(
    digests: list[Digest], instance: str, function: int
) -> None:
    data = request(digests, instance_name=instance, digest_function=function).SerializeToString()
    assert as_listed(data) == as_message(data)


@given(LISTS)
def test_an_answer_repeats_the_names(digests: list[Digest]) -> None:
    listed = decode_listed(request(digests).SerializeToString())
    assert listed is not None
    expected = encode_missing([d for d in dict.fromkeys(digests) if not d.is_empty])
    assert encode_listed(listed.names) == expected


def test_another_digest_function_is_left_to_the_runtime() -> None:
    data = request([Digest(bytes(32), 1)], digest_function=DigestFunction.BLAKE3)
    assert decode_listed(data.SerializeToString()) is None


@pytest.mark.parametrize(
    "text", ["A" * 64, "a" * 63 + " ", "a" * 62 + "\n\n", "g" * 64, "ä" * 32], ids=repr
)
def test_what_is_no_hash_is_left_to_the_runtime(text: str) -> None:
    wire = pb.FindMissingBlobsRequest(blob_digests=[pb.Digest(hash=text, size_bytes=1)])
    assert as_listed(wire.SerializeToString()) is None


def test_a_size_that_is_not_as_short_as_it_can_be_is_left_to_the_runtime() -> None:
    spelt = b"\x12\x45\x0a\x40" + b"a" * 64 + b"\x10\x81\x00"
    assert as_message(spelt)[1][0].size_bytes == 1
    assert as_listed(spelt) is None


def test_a_name_ends_where_the_runtime_ends_it() -> None:
    # Its length says that the size is outside, where it is a field of the request.
    cut = b"\x12\x42\x0a\x40" + b"a" * 64 + b"\x10\x05"
    assert as_message(cut)[1][0].size_bytes == 0
    assert as_listed(cut) is None


@pytest.mark.parametrize("rounds", [5_000, pytest.param(500_000, marks=pytest.mark.heavy)])
def test_whatever_comes_is_read_as_the_runtime_reads_it_or_left_to_it(rounds: int) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print("seed", seed)  # noqa: T201 - shown when the test fails
    rng = random.Random(seed)
    whole = 0
    for _ in range(rounds):
        digests = [Digest(rng.randbytes(32), rng.choice([0, 5, 24, 300, 10**5])) for _ in range(3)]
        message = request(digests, instance_name=rng.choice(["", "m"]), digest_function=1)
        data = bytearray(message.SerializeToString())
        for _ in range(rng.randrange(3)):
            at = rng.randrange(len(data))
            if rng.random() < 0.5:
                data[at] = rng.choice(
                    [data[at] ^ (1 << rng.randrange(8)), *b"\x00\x0a\x10\x12\x18"]
                )
            else:
                del data[at : at + rng.randrange(1, 3)]
        try:
            found = as_listed(bytes(data))
        except InvalidRequest:
            with pytest.raises((DecodeError, InvalidRequest)):
                as_message(bytes(data))
            continue
        if found is not None:
            whole += 1
            try:
                assert found == as_message(bytes(data))
            except (DecodeError, InvalidRequest) as error:
                raise AssertionError(f"the runtime refuses {bytes(data)!r}") from error
    assert whole > rounds // 5
