"""ActionResults as bytes: read from an update, and inlined into, without encoding them again.

A client gets back exactly what was stored, including unknown fields and node properties; inlined
contents are added to these bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from google.protobuf.message import DecodeError

from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from federation.core.digest import Digest, DigestFunction, hash_bytes
from federation.core.errors import InvalidRequest
from federation.core.index import EntryKey, EntryKind, name_of_action
from federation.wire.bounds import RESULT_FIELD_BYTES, check_fields, few_fields
from federation.wire.digests import function_of, to_digest
from federation.wire.protobuf import LENGTH, fields, length_field

RESPONSE_MAX_BYTES = 4 * 2**20 - 2**16  # clients refuse messages above 4 MiB, headers included

STDOUT, STDERR = -1, -2  # places besides the indices of output_files
_ACTION_RESULT = 3  # UpdateActionResultRequest.action_result
_OUTPUT_FILES, _CONTENTS = 2, 5  # ActionResult.output_files, OutputFile.contents
_RAW_FIELD = {STDOUT: 5, STDERR: 7}  # ActionResult.stdout_raw, stderr_raw
_OVERHEAD_BYTES = 16  # of one inlined field: tags and lengths


class Update(NamedTuple):
    """An UpdateActionResultRequest: the key of the result, and its bytes as sent."""

    key: EntryKey
    action: Digest
    function: DigestFunction
    value: bytes


def key_of(instance: str, action: Digest) -> EntryKey:
    """Return the key of an action's result in the index."""
    return EntryKey(EntryKind.ACTION_RESULT, instance, name_of_action(action))


def key_prefix_of(instance: str, named: Digest) -> EntryKey:
    """Return what the keys of an action's results begin with, whatever the action's size."""
    return EntryKey(EntryKind.ACTION_RESULT, instance, bytes((named.function,)) + named.hash)


def read_update(data: bytes) -> Update:
    """Read an UpdateActionResultRequest. The digests in the result are not checked.

    Raises InvalidRequest when action_digest or action_result is unset, the digest malformed, or
    the result larger than a response may be; DecodeError when data is not such a message.
    """
    # A message field sent in parts is merged by joining the parts.
    parts: list[bytes] = []
    others: list[bytes] = []
    start = 0
    for number, kind, a, b in few_fields(data):
        if number == _ACTION_RESULT and kind == LENGTH:
            parts.append(data[a:b])
        else:
            # From the end of the field before, so that the tag goes along.
            others.append(data[start:b])
        start = b
    request = reapi.UpdateActionResultRequest.FromString(b"".join(others))
    function = function_of(request.digest_function)
    action = to_digest(request.action_digest, function)
    if not parts:
        raise InvalidRequest("action_result is not set")
    value = b"".join(parts)
    # What could never be read again is refused now, while its sender still has the outputs.
    if len(value) > RESPONSE_MAX_BYTES:
        raise InvalidRequest(
            f"action_result has {len(value)} bytes; at most {RESPONSE_MAX_BYTES} can be returned. "
            "Store outputs as blobs instead of inlining them"
        )
    check_fields(value, RESULT_FIELD_BYTES)
    return Update(key_of(request.instance_name, action), action, function, value)


def check_inlined(value: bytes, function: DigestFunction) -> None:
    """Check that the outputs inlined in an ActionResult match the digests beside them.

    Clients take the one or the other, so a result in which they differ gives them other bytes than
    its digests name. An output without a digest beside says nothing wrong. Takes time in proportion
    to the size of value.

    Raises InvalidRequest, also when value is no ActionResult.
    """
    check_fields(value, RESULT_FIELD_BYTES)
    try:
        result = reapi.ActionResult.FromString(value)
    except DecodeError:
        raise InvalidRequest("not an ActionResult: it cannot be parsed") from None
    for file in result.output_files:
        # proto3 does not tell an empty field from an unset one, and neither is wrong.
        if contents := file.contents:
            _check_one("contents of an output file", contents, file.digest, function)
    # Without a digest beside it the text is all there is (REAPI allows that).
    if result.stdout_raw and result.HasField("stdout_digest"):
        _check_one("stdout_raw", result.stdout_raw, result.stdout_digest, function)
    if result.stderr_raw and result.HasField("stderr_digest"):
        _check_one("stderr_raw", result.stderr_raw, result.stderr_digest, function)


def _check_one(what: str, data: bytes, message: reapi.Digest, function: DigestFunction) -> None:
    digest = to_digest(message, function)
    if len(data) != digest.size_bytes or hash_bytes(function, data) != digest.hash:
        raise InvalidRequest(
            f"{what}: its {len(data)} bytes are not those of the digest {digest} beside it; "
            "send either the right bytes or the digest alone"
        )


def to_inline(
    value: bytes, request: reapi.GetActionResultRequest, function: DigestFunction
) -> dict[int, Digest]:
    """Choose which of the requested contents to inline, by place: as many as there is room for.

    Contents that are empty or inlined already are left out, and those that would make the response
    too large.
    """
    if not (request.inline_stdout or request.inline_stderr or request.inline_output_files):
        return {}
    result = reapi.ActionResult.FromString(value)
    asked: list[tuple[int, reapi.Digest]] = []
    if request.inline_stdout and not result.stdout_raw:
        asked.append((STDOUT, result.stdout_digest))
    if request.inline_stderr and not result.stderr_raw:
        asked.append((STDERR, result.stderr_digest))
    paths = set(request.inline_output_files)
    if paths:
        asked += [
            (place, file.digest)
            for place, file in enumerate(result.output_files)
            if file.path in paths and not file.contents
        ]
    # REAPI lets a server inline less than was asked for; the digest is there in any case.
    room_bytes = RESPONSE_MAX_BYTES - len(value)
    chosen: dict[int, Digest] = {}
    for place, digest in asked:
        needed_bytes = digest.size_bytes + _OVERHEAD_BYTES
        if digest.size_bytes > 0 and needed_bytes <= room_bytes:
            chosen[place] = to_digest(digest, function)
            room_bytes -= needed_bytes
    return chosen


def with_inlined(value: bytes, contents: Mapping[int, bytes]) -> bytes:
    """Return the result with these contents inlined at their places."""
    parts = []
    if any(place >= 0 for place in contents):
        # Inside the messages of the files, whose lengths change with it.
        parts += _with_files(value, contents)
    else:
        parts.append(value)
    # Of a field that occurs twice the last one counts, so adding at the end is enough.
    parts += [
        length_field(number, contents[place])
        for place, number in _RAW_FIELD.items()
        if place in contents
    ]
    return b"".join(parts)


def _with_files(value: bytes, contents: Mapping[int, bytes]) -> list[bytes]:
    parts: list[bytes] = []
    copied = place = 0
    start = 0
    for number, kind, a, b in fields(value):
        end = b
        if number == _OUTPUT_FILES and kind == LENGTH:
            if place in contents:
                # At the end of the message: of a field that occurs twice the last one counts.
                file = value[a:b] + length_field(_CONTENTS, contents[place])
                parts += [value[copied:start], length_field(_OUTPUT_FILES, file)]
                copied = end
            place += 1
        start = end
    parts.append(value[copied:])
    return parts
