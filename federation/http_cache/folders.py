"""The requests of WebDAV clients and browsers that are about no value.

There are no folders: a key may have slashes, and needs none above it.
"""

from __future__ import annotations

from federation.core.errors import EntryNotFound
from federation.http_cache.http_call import TEXT, http_of
from federation.http_cache.target import Kind, Target
from federation.services.call import Call
from federation.services.method import Send
from federation.services.request_stream import RequestStream

_ALLOWED = "GET, HEAD, PUT, DELETE, POST, OPTIONS, PROPFIND, MKCOL"
_HEADERS = (
    "Authorization, Content-Type, User-Agent, x-artifact-duration, x-artifact-tag, x-artifact-sha, "
    "x-artifact-dirty-hash, x-artifact-client-ci, x-artifact-client-interactive"
)


class FolderCalls:
    """See the module."""

    async def find(self, _requests: RequestStream, _send: Send, call: Call) -> bytes:
        """Answer that there is none, which makes clients create it."""
        target = http_of(call).target
        # Folders above kv/NAME are in no instance; sccache with a key prefix asks for them first.
        if not _is_above_namespaces(target):
            call.check_pull(target.instance)
        raise EntryNotFound("there are no folders here")

    async def make(self, _requests: RequestStream, _send: Send, call: Call) -> bytes:
        """Answer as if it were made."""
        http = http_of(call)
        if not _is_above_namespaces(http.target):
            call.check_push(http.target.instance)
        http.answers(201)
        return b""

    async def options(self, _requests: RequestStream, _send: Send, call: Call) -> bytes:
        """Say which methods and headers there are: Turborepo asks with --preflight."""
        fields = (
            ("Allow", _ALLOWED),
            ("Access-Control-Allow-Methods", _ALLOWED),
            ("Access-Control-Allow-Headers", _HEADERS),
        )
        http = http_of(call)
        http.answers(204, fields)
        return b""

    async def status(self, _requests: RequestStream, _send: Send, call: Call) -> bytes:
        """Say that the node serves."""
        http_of(call).answers(200, TEXT)
        return b"serving\n"


def _is_above_namespaces(target: Target) -> bool:
    """Whether a folder has no instance that a right could be for: those are below it."""
    return target.kind is Kind.FOLDER and not target.namespace
