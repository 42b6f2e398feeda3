"""Short names of blobs, and the bitmap that says which of them are lacking."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation._proto.federation.v1 import holdings_pb2 as holdings
from federation.core.digest import Digest, DigestFunction
from federation.core.errors import InvalidRequest, RequestTooLarge
from federation.wire.holdings import (
    NAME_BYTES,
    NAMES_MAX,
    encode_answer,
    encode_question,
    lacking_in,
    name_of,
    split_names,
)

DIGESTS = st.builds(
    Digest,
    st.binary(min_size=32, max_size=32),
    st.integers(0, 2**63 - 1),
    st.sampled_from(DigestFunction),
)


@given(st.lists(DIGESTS, max_size=50))
def test_the_names_of_a_question_are_those_of_its_digests(digests: list[Digest]) -> None:
    request = holdings.FindLackingRequest.FromString(encode_question("main", digests))
    assert request.instance_name == "main"
    assert split_names(request.names) == [name_of(digest) for digest in digests]


@given(st.lists(st.booleans(), max_size=100))
def test_an_answer_says_of_each_name_whether_it_is_lacking(lacking: list[bool]) -> None:
    places = lacking_in(encode_answer(lacking), len(lacking))
    assert places == [at for at, each in enumerate(lacking) if each]


def test_names_are_counted_before_anything_is_made_of_them() -> None:
    assert len(split_names(bytes(NAMES_MAX * NAME_BYTES))) == NAMES_MAX
    with pytest.raises(RequestTooLarge):
        split_names(bytes(NAMES_MAX * NAME_BYTES + 1))
    with pytest.raises(InvalidRequest):
        split_names(bytes(NAME_BYTES + 1))


@pytest.mark.parametrize("bitmap", [b"", b"\x01", b"\x00\x00\x00", b"\x00\x02"])
def test_a_bitmap_of_another_length_is_none(bitmap: bytes) -> None:
    answer = holdings.FindLackingResponse(lacking=bitmap).SerializeToString()
    with pytest.raises(InvalidRequest):
        lacking_in(answer, 9)
