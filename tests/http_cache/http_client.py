"""A client of HTTP for tests of whole nodes, which blocks."""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Mapping
from typing import NamedTuple

from federation.core.digest import DigestFunction, digest_of

_PATIENCE_S = 60.0


class HttpAnswer(NamedTuple):
    status: int
    headers: Mapping[str, str]  # names in small letters
    body: bytes


class HttpClient:
    """Asks one listener, each time on a connection of its own."""

    def __init__(
        self,
        address: str,
        headers: Mapping[str, str] | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._address = address
        self._headers = dict(headers or {})
        self._tls = tls

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> HttpAnswer:
        if self._tls is None:
            connection = http.client.HTTPConnection(self._address, timeout=_PATIENCE_S)
        else:
            connection = http.client.HTTPSConnection(
                self._address, timeout=_PATIENCE_S, context=self._tls
            )
        try:
            connection.request(method, path, body, {**self._headers, **(headers or {})})
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return HttpAnswer(answer.status, found, answer.read())
        finally:
            connection.close()

    def get(self, path: str) -> bytes | None:
        """Return what is there; None: a miss."""
        answer = self.ask("GET", path)
        assert answer.status in {200, 404}, answer
        return answer.body if answer.status == 200 else None

    def put(self, path: str, body: bytes) -> None:
        answer = self.ask("PUT", path, body)
        assert answer.status == 200, answer

    def put_blob(self, data: bytes) -> str:
        """Store a blob; return its path."""
        path = cas_path(data)
        self.put(path, data)
        return path


def cas_path(data: bytes, function: DigestFunction = DigestFunction.SHA256) -> str:
    part = "" if function is DigestFunction.SHA256 else "blake3/"
    return f"/cas/{part}{digest_of(data, function).hash_hex}"
