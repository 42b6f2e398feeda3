"""Records of pins on the wire: what is encoded is read back, and nothing malformed is."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from federation._proto.federation.v1 import pins_pb2
from federation.core.digest import DigestFunction, digest_of
from federation.core.errors import InvalidRequest
from federation.core.index import Stamp
from federation.core.pins import LABEL_MAX_CHARS, Pin, PinKind, PinTarget
from federation.wire.pins import PINS_IN_CALL_MAX, decode_pins, encode_pins

STAMP = Stamp(1_800_000_000_000 << 16, "node-1")
ACTION = digest_of(b"action", DigestFunction.BLAKE3)
PIN = Pin(
    PinTarget(PinKind.ASSETS, "main", "urn:*"), STAMP, "urn:*", 1_900_000_000.5, "why", "al", 5.0
)
TARGETS = [
    PIN.target,
    PIN.target._replace(instance=None),
    PIN.target._replace(instance=""),
    PinTarget(PinKind.ACTION, None, digest=ACTION),
    PinTarget(PinKind.ACTION, "", digest=ACTION),
    PinTarget(PinKind.INSTANCE, ""),
    PinTarget(PinKind.BLOB, digest=ACTION),
]

Record = pins_pb2.PinRecord


def sent(*pins: Pin) -> pins_pb2.ApplyPinsRequest:
    return pins_pb2.ApplyPinsRequest.FromString(encode_pins("main", pins))


def test_what_is_encoded_is_read_back() -> None:
    pins = [PIN._replace(target=target) for target in TARGETS]
    pins += [PIN._replace(is_removed=True), PIN._replace(until_s=None)]
    request = sent(*pins)
    assert request.instance_name == "main"
    assert decode_pins(request) == pins


def test_a_long_label_is_clipped() -> None:
    (found,) = decode_pins(sent(PIN._replace(label="x" * 5000)))
    assert found.label == "x" * LABEL_MAX_CHARS


def test_more_records_than_one_call_may_have_are_refused() -> None:
    assert len(decode_pins(sent(*[PIN] * PINS_IN_CALL_MAX))) == PINS_IN_CALL_MAX
    with pytest.raises(InvalidRequest, match="101 records"):
        decode_pins(sent(*[PIN] * (PINS_IN_CALL_MAX + 1)))


def _of_blob(function: int, raw: bytes) -> Callable[[Record], None]:
    def spoil(record: Record) -> None:
        wire = pins_pb2.PinnedDigest(digest_function=function, hash=raw, size_bytes=1)
        record.blob.CopyFrom(wire)

    return spoil


@pytest.mark.parametrize(
    "spoil",
    [
        lambda record: setattr(record, "ticks", 0),
        lambda record: setattr(record, "node", "a b"),
        lambda record: setattr(record, "by", "x" * 201),
        lambda record: setattr(record, "note", "x" * 501),
        lambda record: setattr(record, "label", "x" * 2049),
        lambda record: setattr(record, "at_ms", -1),
        lambda record: setattr(record, "until_ms", 2**62),
        lambda record: setattr(record.assets, "pattern", ""),
        lambda record: setattr(record.assets, "pattern", "x" * 2001),
        lambda record: record.ClearField("assets"),
        _of_blob(77, bytes(32)),
        _of_blob(1, b"short"),
    ],
)
def test_a_malformed_record_is_refused(spoil: Callable[[Record], None]) -> None:
    request = sent(PIN)
    spoil(request.pins[0])
    with pytest.raises(InvalidRequest):
        decode_pins(request)
