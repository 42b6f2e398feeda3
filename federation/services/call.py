"""A call as services see it: who calls, by which method, and what that allows."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any, Final, TypeVar

from federation.access.rights import Rights, Role
from federation.core import hops
from federation.core.errors import Stalled
from federation.core.hops import Hops
from federation.core.index import Entry
from federation.core.provenance import FROM_CLIENT, Provenance, Source
from federation.services.call_log import push_accepted
from federation.services.instance_names import check_length
from federation.services.quotas import CallerQuota
from federation.services.running_call import NEVER_S, RunningCall
from federation.services.runtime import Runtime
from federation.services.transport import Transport

T = TypeVar("T")

# Plain numbers compare three times faster.
PULL: Final = int(Role.PULL)
PUSH: Final = int(Role.PUSH)
PEER: Final = int(Role.PEER)


class Call(RunningCall):
    """One running call.

    A caller's provenance headers are trusted only if it has the peer role:
    otherwise anybody could keep an object from being replicated, or date an entry so that no later
    one replaces it.
    """

    __slots__ = ("_runtime", "method", "quota", "rights")

    def __init__(
        self,
        transport: Transport,
        caller: str,
        method: str,
        rights: Rights,
        runtime: Runtime,
        quota: CallerQuota | None = None,
    ) -> None:
        """Take what is known before any message is read.

        method: "package.Service/Method". quota: None: the caller has none.
        """
        super().__init__(transport, caller)
        self.method = method
        self.rights = rights
        self.quota = quota
        self._runtime = runtime

    def __repr__(self) -> str:
        return f"<Call {self.method} by {self.caller}>"

    @property
    def is_peer(self) -> bool:
        """Whether the caller has the peer role: its provenance headers are trusted."""
        return self.rights.is_peer

    @property
    def is_replication(self) -> bool:
        """Whether this is a replicated write; its provenance headers are trusted."""
        return self.is_peer and bool(hops.current().via)

    @property
    def provenance(self) -> Provenance:
        """What is recorded about the writer, for the request being served."""
        # What others say of themselves could keep an object from being replicated.
        return provenance_of(hops.current()) if self.is_peer else FROM_CLIENT

    def dated(self, entries: Sequence[Entry]) -> Sequence[Entry]:
        """Return the entries with the stamp that a peer sent; others get theirs when stored."""
        stamp = hops.current().stamp
        if stamp is None or not self.is_replication:
            return entries
        return [entry._replace(stamp=stamp) for entry in entries]

    def check_pull(self, instance: str) -> None:
        """Every handler that reads calls it as soon as it knows the instance.

        Raises NotAllowed, NotAuthenticated, RequestTooLarge.
        """
        check_length(instance)
        self.rights.check_in(instance, PULL, self.method)

    def check_push(self, instance: str) -> None:
        """Every handler that writes calls it before it stores anything.

        Raises NotAllowed, NotAuthenticated, RequestTooLarge, LimitReached.
        """
        check_length(instance)
        self.rights.check_in(instance, PUSH, self.method)
        # From now on this instance may hold something, so it gets counts of its own.
        self._runtime.metrics.traffic.named(instance)
        # A peer brings the names of its own callers, which were bounded there.
        if instance and not self.is_peer:
            self._runtime.names.check_write(instance, self.caller, self.peer)

    def check_peer(self, instance: str) -> None:
        """Every handler that is only for peers calls it. Raises as check_pull does."""
        check_length(instance)
        self.rights.check_in(instance, PEER, self.method)

    def check_known_peer(self, instance: str | None) -> None:
        """Every handler that takes purges or pins calls it, also for the instance of each of them.

        None: it concerns all instances. Raises as check_pull does.
        """
        if instance is None:
            self.rights.check_everywhere(PEER, self.method)
        else:
            self.check_peer(instance)
        # See decisions, "Only known peers tell purges and pins, except on this machine".
        self.rights.check_known(self.method)

    def accepted(self, instance: str, **what: Any) -> None:
        """Every handler that writes calls it once it has stored something: for the audit."""
        if self._runtime.audit:
            push_accepted(self.rights, self.peer, self.method, instance, what)

    async def in_time(self, work: Awaitable[T]) -> T:
        """Return what the work returns, within limits.request-time. Raises Stalled after that.

        RunningCalls looks at all calls: a timer for each costs more.
        """
        runtime = self._runtime
        limit_s = runtime.limits.request_time  # a reload may change it
        self.late_at_s = runtime.clock.monotonic_s() + limit_s
        try:
            return await work
        except asyncio.CancelledError:
            # The caller has left, or the server stops: then the task is cancelled for good.
            if not runtime.calls.was_late(self):
                raise
            raise Stalled(f"the call took longer than {limit_s:g} s") from None
        finally:
            self.late_at_s = NEVER_S

    async def make_room(self, size_bytes: int) -> None:
        """Wait until an answer of so many bytes finds room; called before a large one is made.

        Raises LimitReached.
        """
        await self._runtime.calls.make_room(self, size_bytes)

    async def hold(self, size_bytes: int) -> None:
        """Wait until the call may hold so much more than came, e.g. for unpacking a request."""
        await self._runtime.calls.hold(self, size_bytes)


def provenance_of(passed: Hops) -> Provenance:
    """Return what the hops of a peer's request say; without any it writes as a client does."""
    if not passed.via:
        return FROM_CLIENT
    return Provenance(Source.PEER, passed.via, passed.origin or "", float(passed.unused_s))
