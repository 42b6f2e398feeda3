"""gRPC's messages within the data of a stream, however it is cut."""

from __future__ import annotations

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.transport.framing import MalformedMessage, Messages, TooLong, prefix_of, unpack

MOST = 10_000


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    pieces, at = [], 0
    for size in sizes:
        pieces.append(data[at : at + size])
        at += size
    return [*pieces, data[at:]]


@given(
    st.lists(st.binary(max_size=3000), max_size=8),
    st.lists(st.integers(0, 1500), max_size=30),
    st.booleans(),
)
def test_messages_come_out_as_they_went_in_however_they_are_cut(
    sent: list[bytes], sizes: list[int], at_once: bool
) -> None:
    messages, taken = Messages(MOST), []
    for piece in cut(b"".join(prefix_of(len(each)) + each for each in sent), sizes):
        messages.add(piece)
        while not at_once and (packed := messages.take()) is not None:
            taken.append(packed.data)
    while (packed := messages.take()) is not None:
        taken.append(packed.data)
    assert taken == sent
    assert messages.held_bytes == 0


def test_the_size_of_a_message_is_known_from_its_first_five_bytes() -> None:
    messages = Messages(MOST)
    for byte in prefix_of(7000):
        assert messages.next_size() is None
        messages.add(bytes([byte]))
    assert messages.next_size() == 7000
    assert messages.take() is None


def test_a_message_that_is_too_long_is_refused_before_it_comes() -> None:
    messages = Messages(MOST)
    messages.add(prefix_of(MOST))
    assert messages.next_size() == MOST
    messages = Messages(MOST)
    messages.add(prefix_of(MOST + 1))
    with pytest.raises(TooLong) as caught:
        messages.next_size()
    assert caught.value.size_bytes == MOST + 1


def test_a_flag_other_than_0_and_1_is_refused() -> None:
    messages = Messages(MOST)
    messages.add(b"\2\0\0\0\1x")
    with pytest.raises(MalformedMessage):
        messages.take()


def test_a_message_in_frames_of_one_byte_is_held_in_few_pieces() -> None:
    messages = Messages(2**20)
    for byte in prefix_of(100_000) + bytes(99_999):
        messages.add(bytes([byte]))
    assert repr(messages) == "<Messages 100004 bytes in 8 pieces>"


def test_what_is_dropped_is_not_held() -> None:
    messages = Messages(MOST)
    messages.add(prefix_of(100) + b"x")
    messages.clear()
    assert messages.held_bytes == 0
    messages.add(prefix_of(1) + b"y")
    packed = messages.take()
    assert packed is not None
    assert packed.data == b"y"


@pytest.mark.parametrize(
    ("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)]
)
def test_compressed_messages_are_unpacked_up_to_a_bound(encoding: str, pack: object) -> None:
    assert callable(pack)
    packed = pack(bytes(MOST))
    assert unpack(packed, encoding, MOST) == bytes(MOST)
    with pytest.raises(TooLong):
        unpack(packed, encoding, MOST - 1)
    with pytest.raises(MalformedMessage):
        unpack(packed[:-5], encoding, MOST)
    with pytest.raises(MalformedMessage):
        unpack(b"no " + packed, encoding, MOST)


def test_a_compressed_message_without_an_encoding_is_refused() -> None:
    with pytest.raises(MalformedMessage):
        unpack(b"", "identity", MOST)
