"""The message of federation.v1.Purges (protos/federation/v1): records of what was purged."""

from __future__ import annotations

from collections.abc import Sequence

from federation._proto.federation.v1 import purges_pb2
from federation.core.digest import HASH_BYTES, MAX_SIZE_BYTES, Digest, DigestFunction
from federation.core.errors import InvalidRequest
from federation.core.hops import TICKS_MAX, is_node_id
from federation.core.index import EntryKey, EntryKind, Stamp
from federation.core.purges import BY_MAX_CHARS, Purge

IN_CALL_MAX = 100
LABEL_MAX_CHARS = 2048
_NAME_MAX_BYTES = 64
_AT_MAX_MS = 253_402_300_800_000  # the year 10000, as of protobuf's Timestamp


def encode_purges(instance: str, purges: Sequence[Purge]) -> bytes:
    """Return a serialized ApplyPurgesRequest with at most IN_CALL_MAX records."""
    records = [_encoded(each) for each in purges]
    request = purges_pb2.ApplyPurgesRequest(instance_name=instance, purges=records)
    return request.SerializeToString()


def _encoded(purge: Purge) -> purges_pb2.PurgeRecord:
    thing, (ticks, node) = purge.thing, purge.stamp
    record = purges_pb2.PurgeRecord(
        ticks=ticks,
        node=node,
        is_allowed=purge.is_allowed,
        by=purge.by[:BY_MAX_CHARS],
        at_ms=int(purge.at_s * 1000),
    )
    if isinstance(thing, Digest):
        raw, size_bytes, function = thing
        record.blob.MergeFrom(
            purges_pb2.PurgedBlob(digest_function=function, hash=raw, size_bytes=size_bytes)
        )
    else:
        kind, instance, name = thing
        # Cut, as peers refuse longer ones, and a record that is refused would never get through.
        label = purge.label[:LABEL_MAX_CHARS]
        record.entry.MergeFrom(
            purges_pb2.PurgedEntry(kind=kind, instance_name=instance, name=name, label=label)
        )
    return record


def decode_purges(request: purges_pb2.ApplyPurgesRequest) -> list[Purge]:
    """Return the records of a request. Raises InvalidRequest."""
    if len(request.purges) > IN_CALL_MAX:
        raise InvalidRequest(f"{len(request.purges)} records; at most {IN_CALL_MAX} in one call")
    return [_decoded(record) for record in request.purges]


def _decoded(record: purges_pb2.PurgeRecord) -> Purge:
    if not 0 < record.ticks <= TICKS_MAX or not is_node_id(record.node):
        raise InvalidRequest("a record without a valid stamp")
    if len(record.by) > BY_MAX_CHARS or not 0 <= record.at_ms < _AT_MAX_MS:
        raise InvalidRequest("a record with an invalid author or date")
    label = record.entry.label if record.HasField("entry") else ""
    if len(label) > LABEL_MAX_CHARS:
        raise InvalidRequest(f"a label of more than {LABEL_MAX_CHARS} characters")
    # Without either it is an entry with an empty name, which _key refuses.
    thing = _digest(record.blob) if record.HasField("blob") else _key(record.entry)
    # A client's push of an entry has a later stamp by itself; blobs have none.
    if record.is_allowed and not isinstance(thing, Digest):
        raise InvalidRequest("entries are allowed again by their stamps alone")
    stamp, at_s = Stamp(record.ticks, record.node), record.at_ms / 1000
    return Purge(thing, stamp, label, record.by, at_s, record.is_allowed)


def _digest(blob: purges_pb2.PurgedBlob) -> Digest:
    try:
        function = DigestFunction(blob.digest_function)
    except ValueError:
        raise InvalidRequest(f"digest function {blob.digest_function} is not known") from None
    if len(blob.hash) != HASH_BYTES or not 0 <= blob.size_bytes <= MAX_SIZE_BYTES:
        raise InvalidRequest("a malformed digest")
    return Digest(blob.hash, blob.size_bytes, function)


def _key(entry: purges_pb2.PurgedEntry) -> EntryKey:
    try:
        kind = EntryKind(entry.kind)
    except ValueError:
        raise InvalidRequest(f"there are no entries of kind {entry.kind}") from None
    if not 0 < len(entry.name) <= _NAME_MAX_BYTES:
        raise InvalidRequest(f"a name of {len(entry.name)} bytes")
    return EntryKey(kind, entry.instance_name, entry.name)
