"""What one caller may do: its roles, and in which instances.

Each role includes those before it: `pull` reads, `push` also writes, the provenance headers of
`peer` are trusted, `admin` is every role. Rights are made once for the credentials of a caller and
checked at every call. How a caller is identified is decided elsewhere.
"""

from __future__ import annotations

import enum
import fnmatch
from collections.abc import Collection

from federation.core.errors import NotAllowed, NotAuthenticated

ANONYMOUS = "anonymous"
_REMEMBERED_MAX = 1000  # instance names are the callers' choice


class Role(enum.IntEnum):
    """What is allowed; each role includes those with a smaller number."""

    PULL = 1
    PUSH = 2
    PEER = 3
    ADMIN = 4

    @classmethod
    def named(cls, name: str) -> Role:
        """Return the role of this name, in small letters. Raises KeyError."""
        return _NAMED[name]


_NAMED = {role.name.lower(): role for role in Role}
_PULL, _PUSH, _PEER = int(Role.PULL), int(Role.PUSH), int(Role.PEER)  # faster
_ADMIN = int(Role.ADMIN)


class Instances:
    """The instance names that match one of some patterns (*, ?, [...]); * is every one."""

    def __init__(self, patterns: Collection[str] = ("*",)) -> None:
        self.patterns = tuple(patterns)
        self.all = "*" in self.patterns
        self._known: dict[str, bool] = {}

    def __repr__(self) -> str:
        return f"<Instances {', '.join(map(repr, self.patterns))}>"

    def __contains__(self, instance: str) -> bool:
        if self.all:
            return True
        known = self._known.get(instance)
        if known is None:
            known = any(fnmatch.fnmatchcase(instance, each) for each in self.patterns)
            if len(self._known) >= _REMEMBERED_MAX:
                self._known.clear()
            self._known[instance] = known
        return known


EVERY_INSTANCE = Instances()


class Rights:
    """What one caller may do on one listener."""

    # Thousands of callers are remembered, each with one.
    __slots__ = (
        "_everywhere",
        "_helps",
        "_instances",
        "_role",
        "_takes_writes",
        "identity",
        "is_known",
    )

    def __init__(
        self,
        identity: str,
        role: Role | None,
        instances: Instances = EVERY_INSTANCE,
        *,
        takes_writes: bool = True,
        credentials_help: bool = False,
        is_known: bool = True,
    ) -> None:
        """Take the caller's identity and what it may do.

        Args:
            identity: names the caller in logs and limits.
            role: None: it may do nothing.
            instances: where.
            takes_writes: whether the listener accepts writes; else nobody has more than pull.
            credentials_help: whether the caller sent none, and some would give it more rights.
            is_known: whether it is known who calls, or only programs of this machine can.
        """
        self.identity = identity
        # A peer's role is about writes alone, so it has no meaning where there are none.
        self._role = int(role or 0) if takes_writes else min(int(role or 0), _PULL)
        self._instances = instances
        self._everywhere = instances.all  # a short way: few callers are restricted to instances
        self._takes_writes = takes_writes
        self._helps = credentials_help
        self.is_known = is_known

    def __repr__(self) -> str:
        role = Role(self._role).name.lower() if self._role else "nothing"
        return f"<Rights {self.identity}: {role} in {self._instances!r}>"

    @property
    def is_peer(self) -> bool:
        """Whether the caller's provenance headers are trusted."""
        return self._role >= _PEER

    @property
    def is_anonymous(self) -> bool:
        """Whether the caller is known by its address only."""
        return self.identity == ANONYMOUS

    def may_pull(self, instance: str) -> bool:
        """Whether the caller may read there."""
        return self._role >= _PULL and instance in self._instances

    def may_push(self, instance: str) -> bool:
        """Whether the caller may write there."""
        return self._role >= _PUSH and instance in self._instances

    def may_purge(self, instance: str | None) -> bool:
        """Whether the caller is an admin there; instance None: everywhere, as for blobs."""
        # Blobs are shared by all instances, so to purge one concerns every instance.
        is_there = self._everywhere if instance is None else instance in self._instances
        return self._role >= _ADMIN and is_there

    def check_known(self, method: str) -> None:
        """Raise NotAllowed for a peer of whom nothing is known: it decides nothing for others."""
        if not self.is_known:
            raise NotAllowed(
                f"{method} decides about what others wrote, at all peers: this listener, which "
                "other machines can reach, has to know who asks (tls.peer-certs or auth)"
            )

    def check_everywhere(self, role: int, method: str) -> None:
        """Raise as check_in does unless the caller has the role in every instance."""
        self.check(role, method)
        if not self._everywhere:
            raise self._refusal(role, method, " in every instance")

    def check(self, role: int, method: str) -> None:
        """Raise what check_in would raise in every instance, before the request is read."""
        if self._role < role:
            raise self._refusal(role, method)

    def check_in(self, instance: str, role: int, method: str) -> None:
        """Raise NotAllowed, or NotAuthenticated where credentials could help, for a missing right.

        method: for the message.
        """
        if self._role < role:
            raise self._refusal(role, method)
        if not self._everywhere and instance not in self._instances:
            raise self._refusal(role, method, f" in instance {instance!r}")

    def _refusal(self, role: int, method: str, where: str = "") -> NotAllowed | NotAuthenticated:
        # Said first: no credentials would help on such a listener.
        if role >= _PUSH and not self._takes_writes:
            return NotAllowed(f"this listener does not take writes ({method})")
        needed = f"{method} needs the right to {Role(role).name.lower()}{where}"
        # UNAUTHENTICATED makes clients show credentials, PERMISSION_DENIED makes them give up.
        if self._helps:
            return NotAuthenticated(f"{needed}, and no credentials were shown")
        who = "callers without credentials" if self.is_anonymous else self.identity
        return NotAllowed(f"{needed}; {who} may not do that")


def everybody(*, push: bool, is_local: bool = True) -> Rights:
    """Return the rights on a listener without authentication: callers that may push are peers.

    is_local: whether only programs of this machine reach it. Others are not believed about purges
    and pins: a push hides a name, and can be undone; a purge takes blobs from all peers.
    """
    role = Role.PEER if push else Role.PULL
    return Rights(ANONYMOUS, role, takes_writes=push, is_known=is_local)
