"""What a client needs to know about a server."""

from __future__ import annotations

from typing import NamedTuple


class Pointer(NamedTuple):
    """Where a server is and what a client needs to reach it; paths as the text shows them."""

    url: str
    push: bool = False
    server_cert: str | None = None
    client_cert: str | None = None
    client_key: str | None = None
    access_token: str | None = None  # a file
