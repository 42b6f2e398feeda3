"""Remote Asset requests: a Fetch as keys and conditions, a Push as index entries.

A push is stored as its message without the URIs and the instance name, which are in the entry, and
without the qualifiers that have credentials.
"""

from __future__ import annotations

from typing import NamedTuple

from federation._proto.build.bazel.remote.asset.v1 import remote_asset_pb2 as asset
from federation.core.digest import Digest
from federation.core.errors import InvalidRequest
from federation.core.index import Entry, EntryKey, EntryKind
from federation.wire.action_result import RESPONSE_MAX_BYTES
from federation.wire.asset_key import CHECKSUM, asset_names, check_uris, is_secret, qualifiers_of
from federation.wire.bounds import check_fields
from federation.wire.digests import function_of, to_digest
from federation.wire.protobuf import parse_message
from federation.wire.resource_name import check_instance
from federation.wire.sri import Integrity, read_integrity
from federation.wire.timestamps import check_not_negative, wall_s_of

PUSH_MAX_BYTES = 64 * 2**20  # what one push may store over all its URIs


Pushed = asset.PushBlobRequest | asset.PushDirectoryRequest


def pushed_of(entry: Entry) -> Pushed:
    """Return the push message that is stored in an asset entry."""
    # Stored values are checked, too: a peer or an older version may have sent them.
    check_fields(entry.value)
    if entry.key.kind is EntryKind.ASSET_BLOB:
        return parse_message(asset.PushBlobRequest, entry.value)
    return parse_message(asset.PushDirectoryRequest, entry.value)


class AssetQuery(NamedTuple):
    """The keys to look up, in this order, and the conditions that an entry has to meet."""

    keys: list[EntryKey]
    oldest_s: float | None  # wall clock; entries stored before are not wanted
    integrity: Integrity | None  # of a blob; a directory's checksum is only a part of its name

    @property
    def exact(self) -> list[EntryKey]:
        """The keys with all qualifiers, without those of blobs pushed without the checksum.

        A server that has no blob with this checksum may have another one under the same URI.
        """
        return self.keys if self.integrity is None else self.keys[::2]


def wanted_by(request: asset.FetchBlobRequest | asset.FetchDirectoryRequest) -> AssetQuery:
    """Read a Fetch.

    A request with a checksum may also find a blob that was pushed without one, since the blob is
    compared with the checksum in any case. Raises InvalidRequest; a missing URI is reported before
    anything else, because clients test for this answer when they connect.
    """
    check_uris(request.uris)
    check_instance(request.instance_name)
    function = function_of(request.digest_function)
    if request.HasField("timeout"):
        check_not_negative(request.timeout, "timeout")
    oldest_s = None
    if request.HasField("oldest_content_accepted"):
        oldest_s = wall_s_of(request.oldest_content_accepted, "oldest_content_accepted")
    qualifiers = qualifiers_of(request.qualifiers)
    integrity = _integrity_of(qualifiers)
    names = asset_names(function, request.uris, qualifiers)
    if isinstance(request, asset.FetchDirectoryRequest):
        keys = [EntryKey(EntryKind.ASSET_DIRECTORY, request.instance_name, each) for each in names]
        return AssetQuery(keys, oldest_s, None)
    if integrity is not None:
        del qualifiers[CHECKSUM]
        plain = asset_names(function, request.uris, qualifiers)
        # For each URI the exact name first: it was pushed with this very checksum.
        names = [name for pair in zip(names, plain, strict=True) for name in pair]
    keys = [EntryKey(EntryKind.ASSET_BLOB, request.instance_name, each) for each in names]
    return AssetQuery(keys, oldest_s, integrity)


def entries_of(request: Pushed) -> list[Entry]:
    """Return an entry for each URI of a Push, none twice.

    The digests in it are left to closure.names_of_entry, which reads many in slices. Raises
    InvalidRequest.
    """
    check_uris(request.uris)
    check_instance(request.instance_name)
    function = function_of(request.digest_function)
    qualifiers = qualifiers_of(request.qualifiers)
    expires_at_s = None
    if request.HasField("expire_at"):
        expires_at_s = wall_s_of(request.expire_at, "expire_at")
    is_blob = isinstance(request, asset.PushBlobRequest)
    kind = EntryKind.ASSET_BLOB if is_blob else EntryKind.ASSET_DIRECTORY
    value = _stored_value(request)
    # Each URI has its own row with the whole value, so a thousand of them multiply a message.
    if len(value) > RESPONSE_MAX_BYTES or len(value) * len(request.uris) > PUSH_MAX_BYTES:
        raise InvalidRequest(
            f"a push of {len(value)} bytes under {len(request.uris)} URIs is too large; "
            f"at most {RESPONSE_MAX_BYTES} bytes, and {PUSH_MAX_BYTES} over all URIs"
        )
    # By key, since clients name one URI twice, and a batch must not have two rows for one key.
    entries: dict[EntryKey, Entry] = {}
    names = asset_names(function, request.uris, qualifiers)
    for uri, name in zip(request.uris, names, strict=True):
        key = EntryKey(kind, request.instance_name, name)
        entries[key] = Entry(key, value, uri, expires_at_s=expires_at_s)
    return list(entries.values())


def integrity_pushed(pushed: Pushed) -> Integrity | None:
    """Return the checksum that a blob was pushed with."""
    if isinstance(pushed, asset.PushDirectoryRequest):
        return None
    return _integrity_of({each.name: each.value for each in pushed.qualifiers})


def content_of(pushed: Pushed) -> Digest:
    """Return the digest of the blob or root directory of a push."""
    function = function_of(pushed.digest_function)
    if isinstance(pushed, asset.PushBlobRequest):
        return to_digest(pushed.blob_digest, function)
    return to_digest(pushed.root_directory_digest, function)


def answer_with(entry: Entry) -> bytes:
    """Return the response to a Fetch that this entry answers."""
    pushed = pushed_of(entry)
    function = function_of(pushed.digest_function).name
    answer: asset.FetchBlobResponse | asset.FetchDirectoryResponse
    if isinstance(pushed, asset.PushBlobRequest):
        answer = asset.FetchBlobResponse(blob_digest=pushed.blob_digest, digest_function=function)
    else:
        answer = asset.FetchDirectoryResponse(
            root_directory_digest=pushed.root_directory_digest, digest_function=function
        )
    # Which of the URIs it was: the request may have named several.
    answer.uri = entry.label
    answer.qualifiers.extend(pushed.qualifiers)
    if pushed.HasField("expire_at"):
        answer.expires_at.CopyFrom(pushed.expire_at)
    return answer.SerializeToString()


def _integrity_of(qualifiers: dict[str, str]) -> Integrity | None:
    return read_integrity(qualifiers[CHECKSUM]) if CHECKSUM in qualifiers else None


def _stored_value(request: Pushed) -> bytes:
    stored: Pushed
    if isinstance(request, asset.PushBlobRequest):
        stored = asset.PushBlobRequest()
        stored.CopyFrom(request)
    else:
        stored = asset.PushDirectoryRequest()
        stored.CopyFrom(request)
    stored.ClearField("uris")
    stored.ClearField("instance_name")
    stored.ClearField("qualifiers")
    stored.qualifiers.extend(each for each in request.qualifiers if not is_secret(each.name))
    # The same push has to give the same bytes: values are compared between nodes.
    return stored.SerializeToString(deterministic=True)
