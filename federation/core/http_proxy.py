"""Which HTTP proxy a connection to a server goes through, by the usual environment variables.

HTTPS_PROXY (https_proxy) is for servers with TLS, HTTP_PROXY (http_proxy) for others, and NO_PROXY
(no_proxy) names the hosts that are reached directly, as other programs read them. The proxy is
asked for a tunnel (CONNECT): with TLS it learns the server's address and nothing else.
"""

from __future__ import annotations

import os
from urllib.parse import urlsplit

_NAMES = ("https_proxy", "http_proxy")


def proxy_for(authority: str, *, tls: bool) -> str | None:
    """Return the URL of the proxy for this host:port, which may contain a password; None: none."""
    # Mostly none is set, and the import below is avoided.
    if not any(name.lower() in _NAMES for name in os.environ):
        return None
    # Not above: few nodes have one, and it takes 15 ms of CPU to import.
    from urllib.request import getproxies_environment, proxy_bypass  # noqa: PLC0415

    proxies = getproxies_environment()
    found = proxies.get("https" if tls else "http")
    host = urlsplit(f"//{authority}").hostname or ""
    # NO_PROXY may name a host alone or with its port.
    if not found or any(proxy_bypass(each, proxies) for each in (host, authority)):
        return None
    return found if "://" in found else f"http://{found}"
