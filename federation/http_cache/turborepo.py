"""What Turborepo asks beside its artifacts: status, events, and which of many there are."""

from __future__ import annotations

import json
from typing import Any

from federation.core.errors import InvalidRequest
from federation.http_cache.entries import EntryCalls
from federation.http_cache.http_call import http_of
from federation.http_cache.receiving import BodyReceiver
from federation.http_cache.target import Kind, Target
from federation.services.call import Call
from federation.services.method import Send
from federation.services.request_stream import RequestStream

_JSON = (("Content-Type", "application/json"),)
_BODY_MAX_BYTES = 256 * 1024
_HASHES_MAX = 1000


class TurborepoCalls:
    """The calls that are about no single artifact."""

    def __init__(self, entries: EntryCalls, receiver: BodyReceiver) -> None:
        self._entries = entries
        self._receiver = receiver

    async def status(self, _requests: RequestStream, _send: Send, call: Call) -> bytes:
        """Say that the cache is in use."""
        http = http_of(call)
        call.check_pull(http.target.instance)
        http.answers(200, _JSON)
        return b'{"status":"enabled"}'

    async def events(self, requests: RequestStream, _send: Send, call: Call) -> bytes:
        """Take events, which are the client's own hits and misses, and drop them."""
        http = http_of(call)
        call.check_pull(http.target.instance)
        await self._receiver.read_small(requests, call, _BODY_MAX_BYTES)
        http.answers(200, _JSON)
        return b"{}"

    async def query(self, requests: RequestStream, _send: Send, call: Call) -> bytes:
        """Say of each artifact how large it is and how long it took to make; null: it is not here.

        Raises InvalidRequest.
        """
        http = http_of(call)
        call.check_pull(http.target.instance)
        body = await self._receiver.read_small(requests, call, _BODY_MAX_BYTES)
        found: dict[str, Any] = {}
        for key in _hashes_in(body):
            target = http.target._replace(kind=Kind.ENTRY, key=key)
            found[key] = await call.in_time(self._about(target))
        http.answers(200, _JSON)
        return json.dumps(found).encode()

    async def _about(self, target: Target) -> dict[str, Any] | None:
        entry = await self._entries.find(target)
        if entry is None:
            return None
        headers = await self._entries.headers(entry)
        told: dict[str, Any] = {"size": entry.value.size_bytes}
        duration = headers.get("x-artifact-duration", "")
        told["taskDurationMs"] = int(duration) if duration.isdecimal() else 0
        if tag := headers.get("x-artifact-tag"):
            told["tag"] = tag
        return told


def _hashes_in(body: bytes) -> list[str]:
    try:
        asked = json.loads(body)
        hashes = asked["hashes"]
        if not isinstance(hashes, list) or len(hashes) > _HASHES_MAX:
            raise InvalidRequest(f"hashes has to be a list of at most {_HASHES_MAX}")
        if not all(isinstance(each, str) and each.isalnum() for each in hashes):
            raise InvalidRequest("hashes has to be a list of artifacts' hashes")
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InvalidRequest('the body has to be JSON: {"hashes": [...]}') from None
    return list(dict.fromkeys(hashes))
