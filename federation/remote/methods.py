"""The methods that are called on remotes."""

from __future__ import annotations

from typing import NamedTuple

_MIB = 2**20
MESSAGE_MAX_BYTES = 16 * _MIB
_RESULT_BYTES = 4 * _MIB + 64 * 1024  # what clients take in one message
_ASSET_BYTES = _MIB


class Method(NamedTuple):
    """A gRPC method."""

    service: str
    name: str
    is_quick: bool = False  # small both ways, and no work to speak of: silence is a stall
    is_vital: bool = False  # a server of blobs has it: never taken for missing
    answer_max_bytes: int = 64 * 1024  # larger messages are refused before they are read

    @property
    def path(self) -> str:
        """As HTTP/2 carries it."""
        return f"/{self.service}/{self.name}"


_REAPI = "build.bazel.remote.execution.v2"
_CAS = f"{_REAPI}.ContentAddressableStorage"
_ACTIONS = f"{_REAPI}.ActionCache"
_ASSET = "build.bazel.remote.asset.v1"
_REFERENCES = "buildstream.v2.ReferenceStorage"
_HOLDINGS = "federation.v1.Holdings"
_MESH = "federation.v1.Mesh"
_PURGES = "federation.v1.Purges"
_PINS = "federation.v1.Pins"
_BYTESTREAM = "google.bytestream.ByteStream"

CAPABILITIES = Method(f"{_REAPI}.Capabilities", "GetCapabilities", answer_max_bytes=256 * 1024)
FIND_MISSING = Method(_CAS, "FindMissingBlobs", is_quick=True, is_vital=True, answer_max_bytes=_MIB)
BATCH_READ = Method(_CAS, "BatchReadBlobs", answer_max_bytes=8 * _MIB)
BATCH_UPDATE = Method(_CAS, "BatchUpdateBlobs", answer_max_bytes=4 * _MIB)
READ = Method(_BYTESTREAM, "Read", answer_max_bytes=MESSAGE_MAX_BYTES)
WRITE = Method(_BYTESTREAM, "Write")
QUERY_WRITE = Method(_BYTESTREAM, "QueryWriteStatus", is_quick=True)
GET_RESULT = Method(
    f"{_REAPI}.ActionCache", "GetActionResult", is_quick=True, answer_max_bytes=_RESULT_BYTES
)
UPDATE_RESULT = Method(
    f"{_REAPI}.ActionCache", "UpdateActionResult", answer_max_bytes=_RESULT_BYTES
)
FETCH_BLOB = Method(f"{_ASSET}.Fetch", "FetchBlob", answer_max_bytes=_ASSET_BYTES)
FETCH_DIRECTORY = Method(f"{_ASSET}.Fetch", "FetchDirectory", answer_max_bytes=_ASSET_BYTES)
PUSH_BLOB = Method(f"{_ASSET}.Push", "PushBlob")
PUSH_DIRECTORY = Method(f"{_ASSET}.Push", "PushDirectory")
GET_REFERENCE = Method(_REFERENCES, "GetReference", is_quick=True)
UPDATE_REFERENCE = Method(_REFERENCES, "UpdateReference")
FIND_LACKING = Method(_HOLDINGS, "FindLacking", is_quick=True)
PREVIEW = Method(_MESH, "Preview", answer_max_bytes=2 * _MIB)
JOIN = Method(_MESH, "Join", answer_max_bytes=2 * _MIB)
INTRODUCE = Method(_MESH, "Introduce")
APPLY_PURGES = Method(_PURGES, "Apply")
APPLY_PINS = Method(_PINS, "Apply")

ALL = (
    CAPABILITIES,
    FIND_MISSING,
    BATCH_READ,
    BATCH_UPDATE,
    READ,
    WRITE,
    QUERY_WRITE,
    GET_RESULT,
    UPDATE_RESULT,
    FETCH_BLOB,
    FETCH_DIRECTORY,
    PUSH_BLOB,
    PUSH_DIRECTORY,
    GET_REFERENCE,
    UPDATE_REFERENCE,
    FIND_LACKING,
    PREVIEW,
    JOIN,
    INTRODUCE,
    APPLY_PURGES,
    APPLY_PINS,
)
