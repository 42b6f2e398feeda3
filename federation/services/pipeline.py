"""What every call passes through: rights, quotas, hops, acknowledgement, counting, errors.

One Pipeline for each method of each listener. It knows neither what a method does nor which
protocol carries its calls: a protocol's server gives it a Transport for each.
"""

from __future__ import annotations

import asyncio
from functools import partial

from federation.access.access import KeysOutdated, once_renewed
from federation.access.rights import ANONYMOUS, Rights
from federation.core import hops, uses
from federation.core.errors import RequestTooLarge
from federation.core.uses import Use
from federation.services.call import PULL, PUSH, Call
from federation.services.call_log import MethodLog
from federation.services.messages import Exchange, exchange_of
from federation.services.method import (
    AT_ONCE_REQUEST,
    SMALL_ANSWER,
    AtOnce,
    Method,
    ServerStream,
    Unary,
)
from federation.services.running_call import CallPhase
from federation.services.runtime import Runtime
from federation.services.status_codes import OK, CallStatus, StatusCode, status_of
from federation.services.transport import CallEnded, Transport

_REFUSED = frozenset({StatusCode.PERMISSION_DENIED, StatusCode.UNAUTHENTICATED})
_CANCELLED = CallStatus(StatusCode.CANCELLED, "")
_LATE = CallStatus(StatusCode.DEADLINE_EXCEEDED, "the other side took too long")
_NOBODY = Rights(ANONYMOUS, None)


def _at_once_of(method: Method) -> AtOnce | None:
    return method.at_once if isinstance(method, Unary | ServerStream) else None


def _has_hops(transport: Transport) -> bool:
    """Whether other nodes sent the call: its hops travel with a task."""
    return hops.parse(transport.headers) is not hops.NOWHERE


class Pipeline:
    """Runs the calls of one method on one listener."""

    def __init__(self, name: str, method: Method, runtime: Runtime) -> None:
        """name: "package.Service/Method"."""
        self._name = name
        self._writes = method.writes
        self._open = method.open_to_all
        self._needs = 0 if self._open else PUSH if method.writes else PULL
        self._runtime = runtime
        self._clock = runtime.clock
        self._calls = runtime.calls
        self._access = runtime.access
        self._quotas = runtime.quotas
        self._metrics = runtime.metrics
        self._tracer = runtime.metrics.tracer
        self._log = MethodLog(name, runtime.log)
        self._acknowledge = runtime.acknowledge if method.writes else None
        self._at_once = _at_once_of(method)
        self._exchange: Exchange = exchange_of(method, runtime)
        self._answer = self._exchange if self._acknowledge is None else self._acknowledged

    def __repr__(self) -> str:
        return f"<Pipeline {self._name}>"

    @property
    def may_answer_at_once(self) -> bool:
        """Whether answer_at_once() ever answers."""
        return self._at_once is not None

    def answer_at_once(self, transport: Transport, request: bytes) -> bytes | CallStatus | None:
        """Run one call whose only request is here, if nothing of it has to wait; else return None.

        Then nothing has happened, and run() does it. The answer has SMALL_ANSWER bytes at most, and
        the protocol's server sends it at once: it calls this only if the caller takes it. So the
        call ends before any other begins, holds nothing, and occupies none of the calls at once.
        """
        if self._at_once is None or len(request) > AT_ONCE_REQUEST:
            return None
        started_s = self._clock.monotonic_s()
        peer = transport.peer
        status = OK
        rights: Rights | None = None
        call: Call | None = None
        try:
            rights = self._rights_of(transport)
            rights.check(self._needs, self._name)
            caller = peer.caller if rights.is_anonymous else rights.identity
            # Hops need a task of their own, and a quota may have to wait: run() does both.
            if not self._is_unbounded(caller, rights) or _has_hops(transport):
                return None
            call = Call(transport, caller, self._name, rights, self._runtime)
            response = self._at_once(request, call)
            if response is None or len(response) > SMALL_ANSWER:
                return None
        except KeysOutdated:
            return None  # run() waits for them
        except Exception as error:  # noqa: BLE001 - the outermost frame of a call
            status = self._status_of(error, call, rights, peer.text)
        self._log.log_end(status, self._clock.monotonic_s() - started_s, peer.text)
        if self._tracer is not None:
            self._tracer.answered(self._name, transport.headers, started_s, status.code)
        return response if status is OK else status

    def _is_unbounded(self, caller: str, rights: Rights) -> bool:
        """Whether no limit keeps the caller from a call now."""
        if self._quotas is not None and self._quotas.of(caller) is not None:
            return False
        return self._calls.may_begin(caller, stranger=rights is _NOBODY)

    async def run(self, transport: Transport) -> bytes | CallStatus:
        """Run one call; every way in which it can end is counted and logged here.

        Return the answer, or the status to end the call with; the protocol's server sends it before
        the running task ends. Many responses are sent already, and the answer is empty.

        Raises CancelledError for a call that is over on the wire.
        """
        started_s = self._clock.monotonic_s()
        peer = transport.peer
        status = _CANCELLED
        rights: Rights | None = None
        call: Call | None = None
        tracer = self._tracer
        traced = None if tracer is None else tracer.answering(self._name, transport.headers)
        self._metrics.calls_running += 1
        try:
            rights = await once_renewed(partial(self._rights_of, transport))
            rights.check(self._needs, self._name)
            caller = peer.caller if rights.is_anonymous else rights.identity
            quota = None if self._quotas is None else self._quotas.of(caller)
            begun = Call(transport, caller, self._name, rights, self._runtime, quota)
            # `call` is set behind this: one that was refused holds nothing to be released.
            self._calls.begin(begun, stranger=rights is _NOBODY)
            call = begun
            if quota is None:
                response = await self._on_behalf(call)
            else:
                async with quota.acquired(writes=self._writes):
                    response = await self._on_behalf(call)
            status = OK
        except asyncio.CancelledError:
            if call is not None and call.ended:
                status = _LATE
            raise
        except Exception as error:  # noqa: BLE001 - the outermost frame of a call
            if call is not None and call.ended:
                status = _LATE
                if call.phase is CallPhase.LEAVING:  # its connection was broken off
                    raise asyncio.CancelledError from None
                return b""  # RunningCalls has sent its status
            if isinstance(error, CallEnded):  # some transports say so before they cancel the task
                raise asyncio.CancelledError from None
            status = self._status_of(error, call, rights, peer.text)
        else:
            self._calls.note_sending(call)
            return response
        finally:
            if call is not None:
                self._calls.release_request(call)
            self._metrics.calls_running -= 1
            self._log.log_end(status, self._clock.monotonic_s() - started_s, peer.text)
            if traced is not None:
                traced.answered(status.code)
        # A caller may be slow to take its status, too, and a refused call is counted nowhere else.
        self._calls.note_sending(call or self._calls.refused(transport))
        return status

    def _status_of(
        self, error: Exception, call: Call | None, rights: Rights | None, peer: str
    ) -> CallStatus:
        status = status_of(error) or self._log.log_bug(error)
        if isinstance(error, RequestTooLarge) and call is not None:
            self._runtime.hits.hit(error.limit, call.caller, peer, method=self._name)
        if status.code in _REFUSED:
            self._log.log_refusal(error, peer, rights)
        return status

    def _rights_of(self, transport: Transport) -> Rights:
        """Return the rights of what the caller shows. Raises as Access does."""
        if self._open:
            # Not the caller's rights: methods open to all must work where credentials are wrong or
            # unknown.
            return self._access.admit(transport) or _NOBODY
        return self._access.rights_of(transport)

    async def _on_behalf(self, call: Call) -> bytes:
        """Serve the call with its hops set, for the calls that are made on its behalf."""
        passed = hops.parse(call.transport.headers)
        heard_from = self._runtime.heard_from
        if passed.via and heard_from is not None and call.is_peer:
            heard_from(passed.via[-1])
        # A look-up by replication leases what it finds for the peer, and counts as no use.
        use = Use.LEASE if passed.replicates else Use.CLIENT
        # Most calls are ordinary clients', for which nothing has to be set.
        if passed is hops.current() and use is uses.current():
            return await self._answer(call)
        with hops.serving(passed), uses.counted_as(use):
            return await self._answer(call)

    async def _acknowledged(self, call: Call) -> bytes:
        response = await self._exchange(call)
        # Two nodes that waited for each other's acknowledgement of the other's writes would
        # wait for ever; the node that took a write from its client waits for all of them.
        if self._acknowledge is not None and not call.is_replication:
            await self._acknowledge.wait()
        return response
