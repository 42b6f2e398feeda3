"""Records of purges on the wire: what is encoded is read back, and nothing malformed is."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from federation._proto.federation.v1 import purges_pb2
from federation.core.digest import DigestFunction, digest_of
from federation.core.errors import InvalidRequest
from federation.core.index import EntryKey, EntryKind, Stamp
from federation.core.purges import Purge
from federation.wire.purges import IN_CALL_MAX, LABEL_MAX_CHARS, decode_purges, encode_purges

STAMP = Stamp(1_800_000_000_000 << 16, "node-1")
BLOB = Purge(digest_of(b"blob"), STAMP, "", "alice", 1_800_000_000.5, True)
KEY = EntryKey(EntryKind.ASSET_BLOB, "main", b"name")
ENTRY = Purge(KEY, STAMP, "urn:test", "alice", 5.0)

Record = purges_pb2.PurgeRecord


def sent(*purges: Purge) -> purges_pb2.ApplyPurgesRequest:
    return purges_pb2.ApplyPurgesRequest.FromString(encode_purges("main", purges))


def test_what_is_encoded_is_read_back() -> None:
    blake3 = BLOB._replace(thing=digest_of(b"blob", DigestFunction.BLAKE3), is_allowed=False)
    request = sent(BLOB, blake3, ENTRY)
    assert request.instance_name == "main"
    assert decode_purges(request) == [BLOB, blake3, ENTRY]


def test_a_long_label_is_clipped() -> None:
    (found,) = decode_purges(sent(ENTRY._replace(label="x" * 5000)))
    assert found.label == "x" * LABEL_MAX_CHARS


def test_more_records_than_one_call_may_have_are_refused() -> None:
    assert len(decode_purges(sent(*[BLOB] * IN_CALL_MAX))) == IN_CALL_MAX
    with pytest.raises(InvalidRequest, match="101 records"):
        decode_purges(sent(*[BLOB] * (IN_CALL_MAX + 1)))


def _nameless(record: Record) -> None:
    record.ClearField("blob")
    record.ClearField("is_allowed")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda record: setattr(record, "ticks", 0),
        lambda record: setattr(record, "ticks", -1),
        lambda record: setattr(record, "node", ""),
        lambda record: setattr(record, "node", "a b"),
        lambda record: setattr(record, "by", "x" * 201),
        lambda record: setattr(record, "at_ms", -1),
        lambda record: setattr(record, "at_ms", 2**62),
        lambda record: setattr(record.blob, "hash", b"short"),
        lambda record: setattr(record.blob, "size_bytes", -1),
        lambda record: setattr(record.blob, "digest_function", 77),
        lambda record: setattr(record.entry, "kind", 1),  # allowed again, without a name
        _nameless,
    ],
)
def test_a_malformed_record_of_a_blob_is_refused(spoil: Callable[[Record], None]) -> None:
    request = sent(BLOB)
    spoil(request.purges[0])
    with pytest.raises(InvalidRequest):
        decode_purges(request)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda record: setattr(record.entry, "kind", 0),
        lambda record: setattr(record.entry, "kind", 4),
        lambda record: setattr(record.entry, "name", b""),
        lambda record: setattr(record.entry, "name", b"x" * 65),
        lambda record: setattr(record.entry, "label", "x" * 2049),
        lambda record: setattr(record, "is_allowed", True),
    ],
)
def test_a_malformed_record_of_an_entry_is_refused(spoil: Callable[[Record], None]) -> None:
    request = sent(ENTRY)
    spoil(request.purges[0])
    with pytest.raises(InvalidRequest):
        decode_purges(request)
