"""Who may see which page of the HTTP address.

Health is for all. Anything else needs the role admin, unless the configuration opens it, and a
Host header that names this node: a page of another site whose name was made to lead here (DNS
rebinding) could read everything else through the browser of somebody who is let in.
"""

from __future__ import annotations

import ipaddress
import json
import socket
from functools import partial

from federation.access.access import Access, KeysUnknown, once_renewed
from federation.access.rights import Role
from federation.config.http import HttpConfig
from federation.config.types import parse_address
from federation.core.clock import Clock
from federation.core.errors import FederationError, NotAuthenticated
from federation.observability.rate_limits import LogLimit
from federation.server.http.router import HEALTH, Handler, HttpAnswer, HttpRequest
from federation.services.call_log import AuthLog

_ASK_FOR_TOKEN = {"WWW-Authenticate": 'Basic realm="federation", charset="UTF-8"'}
_NOBODY = (
    "this page is for callers with the role admin, and the configuration gives it to nobody here: "
    "set http.auth, or client certificates in http.tls, or http.pages: open"
)


class PageGuard:
    """Lets requests through to the pages, or refuses them."""

    def __init__(
        self, handler: Handler, settings: HttpConfig, access: Access | None, clock: Clock
    ) -> None:
        """access: decides about callers; None: there is nothing that they could show."""
        self._handler = handler
        self._is_open = settings.is_open
        self._access = access if settings.asks_callers else None
        self._takes_tokens = bool(settings.auth and settings.auth.takes_tokens)
        self._names = _names(settings)
        self._log = AuthLog(LogLimit(clock))

    def __repr__(self) -> str:
        return f"<PageGuard {'open' if self._is_open else 'for admins'}>"

    async def answer(self, request: HttpRequest) -> HttpAnswer:
        """Answer one request."""
        if request.path in HEALTH:
            return await self._handler(request)
        if not self._is_named(request.host):
            error = f"this node is not {_shown(request.host)}; http.hosts can list further names"
            # Misdirected Request (RFC 9110, section 15.5.20).
            return _refusal(421, error)
        if self._is_open:
            return await self._handler(request)
        return await self._refused(request) or await self._handler(request)

    def _is_named(self, header: str) -> bool:
        host = _host_in(header)
        if host in self._names:
            return True
        try:
            # An address is safe: DNS rebinding needs a name that leads here.
            ipaddress.ip_address(host)
        except ValueError:
            return False
        return True

    async def _refused(self, request: HttpRequest) -> HttpAnswer | None:
        if self._access is None or request.caller is None:
            return _refusal(403, _NOBODY)
        rights = None
        what = f"{request.method} {request.path}"
        try:
            rights = await once_renewed(partial(self._access.rights_of, request.caller))
            rights.check(Role.ADMIN, what)
        except FederationError as error:
            self._log.log_refusal(error, "http.Pages", request.caller.peer.text, rights)
            if isinstance(error, NotAuthenticated):
                return _refusal(401, str(error), _ASK_FOR_TOKEN if self._takes_tokens else None)
            # Without keys a token is neither good nor bad: see decisions, "Keys by URL".
            return _refusal(503 if isinstance(error, KeysUnknown) else 403, str(error))
        return None


def _names(settings: HttpConfig) -> frozenset[str]:
    """Return the names that the Host header may have, beside IP addresses."""
    own = socket.gethostname()
    named = [] if settings.address is None else [parse_address(settings.address).host]
    # The short name, too: that is what people of the same domain type.
    found = ("localhost", own, own.partition(".")[0], *named, *settings.hosts)
    return frozenset(name.lower().removesuffix(".") for name in found)


def _host_in(header: str) -> str:
    """Return the host of a Host header, without brackets, port and final dot."""
    host = header.lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].removesuffix(".")


def _shown(header: str) -> str:
    return repr(header[:100]) if header else "named in a Host header"


def _refusal(status: int, error: str, headers: dict[str, str] | None = None) -> HttpAnswer:
    body = json.dumps({"error": error}) + "\n"
    return HttpAnswer(status, "application/json; charset=utf-8", body.encode(), headers)
