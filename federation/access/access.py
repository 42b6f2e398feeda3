"""Who may do what on one listener, as services ask it; and the listener that asks nobody.

A listener that does ask is in authenticator.py, with all that certificates and tokens need.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol

from federation.access.incoming_call import IncomingCall
from federation.access.rights import Rights, everybody
from federation.access.watched_file import Watched
from federation.config.listeners import ListenerConfig
from federation.config.types import parse_address
from federation.core.errors import SourceUnavailable

if TYPE_CHECKING:
    from federation.access.fetched_keys import FetchedKeys
    from federation.access.live_tls import LiveTls


class KeysUnknown(SourceUnavailable):
    """Whether a token is good is not known, as the keys of its issuer are not here."""

    def __init__(self, reason: str) -> None:
        super().__init__("the keys of the token's issuer", reason)


class KeysOutdated(KeysUnknown):
    """A token is signed with a key that its issuer may have published meanwhile.

    Whoever asked may ask once more after renewed().
    """

    def __init__(self, renewed: Callable[[], Awaitable[None]]) -> None:
        super().__init__("they are being fetched")
        self.renewed = renewed


async def once_renewed(decide: Callable[[], Rights]) -> Rights:
    """Return what decide() does; where that takes newer keys, wait for them and ask it again.

    Raises what decide() raises the last time that it is asked.
    """
    try:
        return decide()
    # Once: a key that is still unknown after a fetch is not one of this issuer.
    except KeysOutdated as outdated:
        await outdated.renewed()
    return decide()


class Access(Protocol):
    """Who may do what on one listener."""

    def rights_of(self, call: IncomingCall) -> Rights:
        """Return what the caller may do.

        Raises NotAuthenticated for credentials that are not valid, NotAllowed for a caller that is
        not let in at all, KeysUnknown for one of whom that cannot be told now. KeysOutdated: to be
        asked once more after its renewed().
        """
        ...

    def admit(self, call: IncomingCall) -> Rights | None:
        """Return what is known of a caller of what is open to all; None: nothing.

        Raises NotAllowed for a caller that is not let in at all.
        """
        ...


class SameForAll:
    """The access of a listener that asks nobody who it is."""

    def __init__(self, rights: Rights) -> None:
        self._rights = rights

    def rights_of(self, _call: IncomingCall) -> Rights:
        """See Access."""
        return self._rights

    def admit(self, _call: IncomingCall) -> Rights:
        """See Access."""
        return self._rights


def open_to_all(listener: ListenerConfig) -> SameForAll:
    """Return the access of a listener that has no authentication."""
    # Only programs of this machine come by loopback, so callers count as known there.
    is_local = parse_address(listener.address).is_loopback
    return SameForAll(everybody(push=listener.push, is_local=is_local))


class ListenerAccess(NamedTuple):
    """What one listener has for its callers."""

    tls: LiveTls | None  # None: plain text
    rights: Access
    watched: list[Watched]  # files that are looked at while the node runs
    fetched: FetchedKeys | None = None  # keys that are fetched while it runs

    def warnings(self) -> list[str]:
        """Return what keeps clients away, or soon will."""
        found = [
            None if self.tls is None else self.tls.end_warning(),
            None if self.fetched is None else self.fetched.warning(),
        ]
        return [text for text in found if text is not None]
