"""Questions to a peer, put until they are answered."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from federation.core.clock import Clock
from federation.remote.failures import FailureKind, RemoteFailed
from federation.replication.gate import Gate

_BUSY_S = 0.2  # between tries while a bound of our own is reached

_T = TypeVar("_T")


class AnsweredCall:
    """Asks one peer; waits as long as that takes."""

    def __init__(self, gate: Gate, clock: Clock) -> None:
        self._gate = gate
        self._clock = clock

    def __repr__(self) -> str:
        return f"<AnsweredCall {self._gate!r}>"

    async def answer(self, question: Callable[[], Awaitable[_T]]) -> _T:
        """Return what the peer answers in the end. Raises RemoteFailed when it is not used now."""
        while True:
            try:
                async with self._gate.turn(writes=False) as turn:
                    await self._gate.throttle.turn()
                    answer = await question()
                    turn.succeeded()
                    await self._gate.throttle.turn()
                    return answer
            except RemoteFailed as error:
                await self.raise_if_permanent(error)

    async def raise_if_permanent(self, error: RemoteFailed) -> None:
        """Raise what waiting does not mend. The gate has been told of everything else."""
        if error.kind in {FailureKind.CLOSED, FailureKind.HOPS}:
            raise error
        if error.is_local_limit:
            await self._clock.sleep(_BUSY_S)
