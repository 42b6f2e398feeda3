"""Who calls, and what that allows: decided at every call, with cryptography only at the first.

Credentials are cached until they expire or the files behind them change, so a call costs a look-up,
and a caller that was taken off a list is refused from the next call on. Tokens are cached by their
SHA-256 only: timing the look-up reveals nothing about them, and none stays in memory.
"""

from __future__ import annotations

import hashlib
from functools import partial
from typing import NamedTuple

from federation.access.access import KeysOutdated, KeysUnknown
from federation.access.certificates import ClientRights, Granted
from federation.access.fetched_keys import FetchedKeys
from federation.access.incoming_call import Headers, IncomingCall
from federation.access.jwt_keys import JwtKeys, UnknownKey, grant_of, identity_of, until_s
from federation.access.live_tls import LiveTls
from federation.access.proxy import ProxiedClients
from federation.access.rights import ANONYMOUS, Rights, Role
from federation.access.tls import KeyPair
from federation.access.tokens import PREFIX, TokenTable
from federation.access.watched_file import LiveFile
from federation.config.model import ListenerConfig
from federation.core.clock import Clock, utc_text
from federation.core.errors import NotAuthenticated

_KNOWN_MAX = 4096
_KEY_MAX_BYTES = 8192
_TOKEN_MAX_CHARS = 8 * 1024
_IDENTITY_MAX_CHARS = 300
_FOR_EVER_S = float("inf")
_HEADER = "authorization"


class _Known(NamedTuple):
    rights: Rights
    until_s: float


class Authenticator:
    """The callers of one listener that asks who they are."""

    def __init__(
        self,
        listener: ListenerConfig,
        where: str,
        clock: Clock,
        *,
        tls: LiveTls | None = None,
        tokens: LiveFile[TokenTable] | None = None,
        keys: LiveFile[JwtKeys] | FetchedKeys | None = None,
        proxied: ProxiedClients | None = None,
    ) -> None:
        """Take the sources of identity; `where` is the listener's place in the configuration."""
        auth = listener.auth
        self._takes_writes = listener.push
        self._where = where
        self._clock = clock
        # Without a list everybody may connect, and a certificate says nothing.
        self._tls = tls if tls is not None and tls.pair.lists else None
        self._tokens = tokens
        self._keys = keys
        self._proxied = proxied
        self._jwt = auth.jwt if auth else None
        self._rules = auth.clients if auth else []
        self._asks_tokens = tokens is not None or keys is not None
        anonymous = Role.named(auth.anonymous) if auth and auth.anonymous != "none" else None
        self._anonymous = Rights(
            ANONYMOUS,
            anonymous,
            takes_writes=listener.push,
            credentials_help=self._asks_tokens or proxied is not None,
        )
        self._known: dict[bytes, _Known] = {}
        self._decided_by: tuple[object, ...] = (None,) * 4  # the contents behind _known
        self._client_rights: dict[int, tuple[KeyPair, ClientRights]] = {}  # by the pair's id

    def __repr__(self) -> str:
        return f"<Authenticator of {self._where}, {len(self._known)} known>"

    def rights_of(self, call: IncomingCall) -> Rights:
        """Return what the caller may do: its token's rights, or else its certificate's.

        Raises NotAuthenticated for a token that is not valid, ClientRefused for a certificate,
        KeysOutdated for a token that may be good once keys were fetched, KeysUnknown for one that
        may be good once they can be.
        """
        # First, and also with a token: the certificate lets in, the token says what is allowed.
        by_certificate = self.admit(call)
        if self._asks_tokens:
            token = _token_in(call.headers)
            if token is not None:
                return self._by_token(token, call.peer.caller)
        return self._anonymous if by_certificate is None else by_certificate

    def admit(self, call: IncomingCall) -> Rights | None:
        """Return the rights of the caller's certificate; None where none is asked for.

        Raises ClientRefused.
        """
        self._forget_outdated()
        connected = None if self._tls is None else self._by_connection(call, self._tls.pair)
        if self._proxied is not None and (leaf := self._proxied.certificate_of(call)):
            # Cached separately: this list may grant other rights than the connection's.
            key = b"proxied " + leaf
            return self._by_certificate(key, leaf, b"", self._proxied.pair)
        return connected

    def _by_connection(self, call: IncomingCall, pair: KeyPair) -> Rights:
        leaf, chain = call.certificate()
        return self._by_certificate(leaf, leaf, chain, pair)

    def _by_certificate(self, key: bytes, leaf: bytes, chain: bytes, pair: KeyPair) -> Rights:
        known = self._known.get(key)
        now_s = self._clock.wall_s()
        # By the wall clock, which the dates in certificates and tokens are about.
        if known is not None and now_s <= known.until_s:
            return known.rights
        return self._remember(key, self._rights_of_clients(pair).grant(leaf, chain, now_s))

    def _by_token(self, token: str, caller: str) -> Rights:
        key = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        known = self._known.get(key)
        if known is not None and self._clock.wall_s() <= known.until_s:
            return known.rights
        return self._remember(key, self._granted_to(token, caller))

    def _granted_to(self, token: str, caller: str) -> Granted:
        if not token or len(token) > _TOKEN_MAX_CHARS:
            raise NotAuthenticated("the authorization header has no token of a usable length")
        # The prefix tells the kinds apart, so no token is tried as both.
        if token.startswith(PREFIX) and self._tokens is not None:
            return self._granted_to_static(token, self._tokens.value)
        if self._keys is None or self._jwt is None:
            raise NotAuthenticated("the token is unknown here")
        try:
            claims = self._keys.value.claims_of(token, self._jwt)
        except UnknownKey:
            if isinstance(self._keys, FetchedKeys):
                # Its issuer may sign with a key that was published a moment ago.
                if self._keys.may_wait(caller):
                    raise KeysOutdated(partial(self._keys.renewed, caller)) from None
                # Without any keys nothing can be said of the token, so it is not called bad.
                if not len(self._keys.value):
                    raise KeysUnknown("their URL gives none") from None
            raise
        role, instances = grant_of(claims, self._jwt)
        return Granted(identity_of(claims), role, instances, until_s(claims, self._jwt))

    def _granted_to_static(self, text: str, tokens: TokenTable) -> Granted:
        token = tokens.find(text)
        if token is None:
            raise NotAuthenticated("the token is unknown here")
        if token.until_s is not None and self._clock.wall_s() > token.until_s:
            raise NotAuthenticated(f"{token.identity} expired on {utc_text(token.until_s)}")
        until = _FOR_EVER_S if token.until_s is None else token.until_s
        return Granted(token.identity, token.role, token.instances, until)

    def _remember(self, key: bytes, granted: Granted) -> Rights:
        rights = Rights(
            # It goes into logs and keys of limits, and claims may be of any length.
            granted.identity[:_IDENTITY_MAX_CHARS],
            granted.role,
            granted.instances,
            takes_writes=self._takes_writes,
        )
        # Larger certificates are judged at each call: 4,096 would take a quarter of a gigabyte.
        if len(key) <= _KEY_MAX_BYTES:
            if len(self._known) >= _KNOWN_MAX:
                # The oldest, without an order of use: to judge it again is cheap.
                self._known.pop(next(iter(self._known)))
            self._known[key] = _Known(rights, granted.until_s)
        return rights

    def _forget_outdated(self) -> None:
        """Forget decisions that were made by files that have changed since."""
        pair = self._tls.pair if self._tls is not None else None
        proxied = self._proxied.pair if self._proxied is not None else None
        table = self._tokens.value if self._tokens is not None else None
        jwks = self._keys.value if self._keys is not None else None
        found = (pair, proxied, table, jwks)
        if found != self._decided_by:  # identical objects compare at once
            self._decided_by = found
            self._known.clear()

    def _rights_of_clients(self, pair: KeyPair) -> ClientRights:
        made = self._client_rights.get(id(pair))
        # The id alone may belong to a new pair at the place of one that was freed.
        if made is None or made[0] is not pair:
            if len(self._client_rights) > 1:  # one of the connection's, one of the proxy's
                self._client_rights.clear()
            made = (pair, ClientRights(pair, self._rules, f"{self._where}.tls.client-ca"))
            self._client_rights[id(pair)] = made
        return made[1]


def _token_in(headers: Headers) -> str | None:
    """Return the token in a call's headers; None: there is none.

    Raises NotAuthenticated for credentials of another kind, or more than one.
    """
    found: str | None = None
    for key, value in headers:
        if key == _HEADER:
            # Two would leave open whose rights count, and a proxy may have added one.
            if found is not None:
                raise NotAuthenticated("more than one authorization header")
            found = value if isinstance(value, str) else ""
    if found is None:
        return None
    scheme, _, token = found.partition(" ")
    if scheme.lower() != "bearer":
        raise NotAuthenticated("the authorization header has to be: Bearer, and a token")
    return token.strip()
