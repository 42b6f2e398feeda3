"""The methods that are called on remotes."""

from __future__ import annotations

from typing import NamedTuple


class Method(NamedTuple):
    """A gRPC method."""

    service: str
    name: str
    is_quick: bool = False  # small both ways, and no work to speak of: silence is a stall
    is_vital: bool = False  # a server of blobs has it: never taken for missing

    @property
    def path(self) -> str:
        """As HTTP/2 carries it."""
        return f"/{self.service}/{self.name}"


_REAPI = "build.bazel.remote.execution.v2"
_CAS = f"{_REAPI}.ContentAddressableStorage"
_ASSET = "build.bazel.remote.asset.v1"
_REFERENCES = "buildstream.v2.ReferenceStorage"
_BYTESTREAM = "google.bytestream.ByteStream"

CAPABILITIES = Method(f"{_REAPI}.Capabilities", "GetCapabilities")
FIND_MISSING = Method(_CAS, "FindMissingBlobs", is_quick=True, is_vital=True)
BATCH_READ = Method(_CAS, "BatchReadBlobs")
BATCH_UPDATE = Method(_CAS, "BatchUpdateBlobs")
READ = Method(_BYTESTREAM, "Read")
WRITE = Method(_BYTESTREAM, "Write")
QUERY_WRITE = Method(_BYTESTREAM, "QueryWriteStatus", is_quick=True)
GET_RESULT = Method(f"{_REAPI}.ActionCache", "GetActionResult", is_quick=True)
UPDATE_RESULT = Method(f"{_REAPI}.ActionCache", "UpdateActionResult")
FETCH_BLOB = Method(f"{_ASSET}.Fetch", "FetchBlob")
FETCH_DIRECTORY = Method(f"{_ASSET}.Fetch", "FetchDirectory")
PUSH_BLOB = Method(f"{_ASSET}.Push", "PushBlob")
PUSH_DIRECTORY = Method(f"{_ASSET}.Push", "PushDirectory")
GET_REFERENCE = Method(_REFERENCES, "GetReference", is_quick=True)
UPDATE_REFERENCE = Method(_REFERENCES, "UpdateReference")
