from __future__ import annotations

import random
import tracemalloc

import pytest
from backports import zstd as reference
from hypothesis import given
from hypothesis import strategies as st

from federation.core.errors import InvalidRequest
from federation.wire.zstd import PIECE_BYTES, Decoder, Encoder, decode, encode

NOISE = random.Random(1).randbytes(300_000)
SKIPPABLE = b"\x50\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"notes"


def pull_all(decoder: Decoder) -> list[bytes]:
    return list(iter(decoder.pull, None))


@given(st.binary(max_size=2000), st.lists(st.integers(1, 300)))
def test_any_cut_into_pieces_gives_the_blob(data: bytes, cuts: list[int]) -> None:
    sent = encode(data)
    decoder = Decoder(len(data))
    got = b""
    for cut in [*cuts, len(sent)]:
        decoder.push(sent[:cut])
        sent = sent[cut:]
        got += b"".join(pull_all(decoder))
    decoder.finish()
    assert got == data


def test_output_comes_in_pieces_of_at_most_1_mib() -> None:
    decoder = Decoder(10 * PIECE_BYTES)
    decoder.push(encode(bytes(10 * PIECE_BYTES)))
    assert max(map(len, pull_all(decoder))) <= PIECE_BYTES
    decoder.finish()


def test_w21_a_bomb_is_stopped_one_byte_past_the_size() -> None:
    bomb = encode(bytes(200 * 2**20))
    tracemalloc.start()
    decoder = Decoder(1024)
    decoder.push(bomb)
    with pytest.raises(InvalidRequest, match="more bytes"):
        decoder.pull()
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_w21_a_frame_header_that_claims_100_gib_allocates_nothing() -> None:
    claim = b"\x28\xb5\x2f\xfd\xc0\x38" + (100 * 2**30).to_bytes(8, "little")
    with pytest.raises(InvalidRequest):
        decode(claim + b"\x01\x00\x00", 10)


def frame_with_window(window_log: int) -> bytes:
    """A frame of one empty raw block whose header demands this window."""
    return b"\x28\xb5\x2f\xfd\x00" + bytes([(window_log - 10) << 3]) + b"\x01\x00\x00"


@pytest.mark.parametrize("window_log", [24, 27, 31])
def test_w22_a_window_above_8_mib_is_refused(window_log: int) -> None:
    with pytest.raises(InvalidRequest):
        decode(frame_with_window(window_log), 0)


def test_w22_a_window_of_8_mib_is_taken() -> None:
    assert decode(frame_with_window(23), 0) == b""
    options: dict[int, int] = {reference.CompressionParameter.window_log: 23}
    assert decode(reference.compress(NOISE, options=options), len(NOISE)) == NOISE


def checksummed(data: bytes) -> bytes:
    return reference.compress(data, options={reference.CompressionParameter.checksum_flag: 1})


def with_dictionary(data: bytes) -> bytes:
    samples = [b"%d lines of words that repeat %d" % (n, n * 7) for n in range(500)]
    trained = reference.train_dict(samples, 1000)
    return reference.compress(data, zstd_dict=trained)


W23_BAD = {
    "truncated": encode(NOISE)[:-1],
    "truncated header": encode(NOISE)[:3],
    "bad checksum": checksummed(NOISE)[:-1] + bytes([checksummed(NOISE)[-1] ^ 1]),
    "trailing garbage": encode(NOISE) + b"garbage",
    "one byte of garbage": encode(NOISE) + b"x",
    "dictionary id": with_dictionary(NOISE),
    "not zstd": NOISE,
    "nothing": b"",
    "a second frame too many": encode(NOISE) + encode(b"x"),
    "a frame too few": encode(NOISE[:-1]),
}


@pytest.mark.parametrize("sent", W23_BAD.values(), ids=W23_BAD.keys())
def test_w23_broken_zstd_is_refused(sent: bytes) -> None:
    with pytest.raises(InvalidRequest):
        decode(sent, len(NOISE))


def test_w23_several_frames_and_skippable_ones_are_one_blob() -> None:
    sent = SKIPPABLE + encode(NOISE[:1000]) + encode(b"") + SKIPPABLE + encode(NOISE[1000:])
    assert decode(sent + SKIPPABLE, len(NOISE)) == NOISE


def test_a_flood_of_empty_frames_is_stopped() -> None:
    with pytest.raises(InvalidRequest, match="frames"):
        decode(encode(b"") * 2000, 10)


@given(st.binary(max_size=300), st.integers(0, 400))
def test_w42_any_bytes_are_decoded_or_refused(data: bytes, size: int) -> None:
    try:
        assert len(decode(data, size)) == size
    except InvalidRequest:
        return


@given(st.lists(st.binary(max_size=500)))
def test_the_stream_encoder_writes_one_frame(pieces: list[bytes]) -> None:
    encoder = Encoder()
    sent = b"".join([encoder.encode(piece) for piece in pieces]) + encoder.finish()
    assert decode(sent, sum(map(len, pieces))) == b"".join(pieces)
    assert reference.decompress(sent) == b"".join(pieces)
