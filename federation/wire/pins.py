"""The message of federation.v1.Pins (protos/federation/v1): records of what is pinned."""

from __future__ import annotations

from collections.abc import Sequence

from federation._proto.federation.v1 import pins_pb2
from federation.core.digest import Digest, DigestFunction
from federation.core.errors import InvalidRequest
from federation.core.hops import TICKS_MAX, is_node_id
from federation.core.index import Stamp
from federation.core.pins import (
    BY_MAX_CHARS,
    LABEL_MAX_CHARS,
    NOTE_MAX_CHARS,
    Pin,
    PinKind,
    PinTarget,
    check_target,
)

PINS_IN_CALL_MAX = 100
_TIME_MAX_MS = 253_402_300_800_000  # the year 10000, as of protobuf's Timestamp


def encode_pins(instance: str, pins: Sequence[Pin]) -> bytes:
    """Return a serialized ApplyPinsRequest with at most PINS_IN_CALL_MAX records."""
    records = [_encoded(each) for each in pins]
    request = pins_pb2.ApplyPinsRequest(instance_name=instance, pins=records)
    return request.SerializeToString()


def _encoded(pin: Pin) -> pins_pb2.PinRecord:
    record = pins_pb2.PinRecord(
        ticks=pin.stamp.ticks,
        node=pin.stamp.node,
        is_removed=pin.is_removed,
        # 0 is "no end": a pin that ended in 1970 needs no record.
        until_ms=0 if pin.until_s is None else int(pin.until_s * 1000),
        # Cut, since a record that is too long would be refused by peers for ever.
        label=pin.label[:LABEL_MAX_CHARS],
        note=pin.note[:NOTE_MAX_CHARS],
        by=pin.by[:BY_MAX_CHARS],
        at_ms=int(pin.at_s * 1000),
    )
    kind, instance, pattern, digest = pin.target
    if kind is PinKind.ASSETS:
        record.assets.MergeFrom(pins_pb2.PinnedAssets(instance_name=instance, pattern=pattern))
    elif kind is PinKind.INSTANCE:
        record.instance.MergeFrom(pins_pb2.PinnedInstance(instance_name=instance or ""))
    elif kind is PinKind.ACTION:
        action = _digest_to_wire(digest)
        record.action.MergeFrom(pins_pb2.PinnedAction(instance_name=instance, action=action))
    else:
        record.blob.MergeFrom(_digest_to_wire(digest))
    return record


def _digest_to_wire(digest: Digest | None) -> pins_pb2.PinnedDigest:
    assert digest is not None  # check_target has seen to that
    raw, size_bytes, function = digest
    return pins_pb2.PinnedDigest(digest_function=function, hash=raw, size_bytes=size_bytes)


def decode_pins(request: pins_pb2.ApplyPinsRequest) -> list[Pin]:
    """Return the records of a request. Raises InvalidRequest."""
    if len(request.pins) > PINS_IN_CALL_MAX:
        raise InvalidRequest(f"{len(request.pins)} records; at most {PINS_IN_CALL_MAX} in one call")
    return [_decoded(record) for record in request.pins]


def _decoded(record: pins_pb2.PinRecord) -> Pin:
    if not 0 < record.ticks <= TICKS_MAX or not is_node_id(record.node):
        raise InvalidRequest("a record without a valid stamp")
    if not 0 <= record.at_ms < _TIME_MAX_MS or not 0 <= record.until_ms < _TIME_MAX_MS:
        raise InvalidRequest("a record with an invalid date")
    texts = (
        (record.label, LABEL_MAX_CHARS),
        (record.note, NOTE_MAX_CHARS),
        (record.by, BY_MAX_CHARS),
    )
    if any(len(text) > most for text, most in texts):
        raise InvalidRequest("a record with a label, a note or an author that is too long")
    return Pin(
        check_target(_target(record)),
        Stamp(record.ticks, record.node),
        record.label,
        record.until_ms / 1000 if record.until_ms else None,
        record.note,
        record.by,
        record.at_ms / 1000,
        record.is_removed,
    )


def _target(record: pins_pb2.PinRecord) -> PinTarget:
    if record.HasField("assets"):
        assets = record.assets
        # Not set means every instance; the empty name is an instance like others.
        instance = assets.instance_name if assets.HasField("instance_name") else None
        return PinTarget(PinKind.ASSETS, instance, assets.pattern)
    if record.HasField("action"):
        action = record.action
        instance = action.instance_name if action.HasField("instance_name") else None
        return PinTarget(PinKind.ACTION, instance, digest=_digest(action.action))
    if record.HasField("instance"):
        return PinTarget(PinKind.INSTANCE, record.instance.instance_name)
    if record.HasField("blob"):
        return PinTarget(PinKind.BLOB, digest=_digest(record.blob))
    # A newer version may know further kinds: to take one over as nothing would lose it.
    raise InvalidRequest("a record without a target that is known here")


def _digest(wire: pins_pb2.PinnedDigest) -> Digest:
    try:
        function = DigestFunction(wire.digest_function)
    except ValueError:
        raise InvalidRequest(f"digest function {wire.digest_function} is not known") from None
    return Digest(wire.hash, wire.size_bytes, function)
