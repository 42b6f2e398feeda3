"""What makes races of tests likely delays what happens, and loses none of it."""

from __future__ import annotations

import asyncio
import selectors
import socket

from tests.support.shaking import ShakingSelector


class Noting(ShakingSelector):
    """Counts how often a socket with something to read was not told of."""

    def __init__(self) -> None:
        super().__init__()
        self.withheld = 0

    def _is_withheld(self, fd: int, now_s: float) -> bool:
        is_withheld = super()._is_withheld(fd, now_s)
        self.withheld += is_withheld
        return is_withheld


async def _pass_on(count: int) -> list[bytes]:
    loop = asyncio.get_running_loop()
    here, there = socket.socketpair()
    with here, there:
        here.setblocking(False)
        there.setblocking(False)
        came = []
        for number in range(count):
            await loop.sock_sendall(here, b"%02d" % number)
            came.append(await loop.sock_recv(there, 10))
            await loop.run_in_executor(None, int)
        return came


def test_what_a_shaken_loop_is_told_late_comes_all_the_same() -> None:
    selector = Noting()
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
        assert runner.run(_pass_on(50)) == [b"%02d" % number for number in range(50)]
    assert selector.withheld > 0


def test_a_shaken_selector_tells_of_a_socket_late_and_of_none_that_is_gone() -> None:
    here, there = socket.socketpair()
    with here, there, ShakingSelector() as selector:
        selector.register(there, selectors.EVENT_READ)
        here.send(b"x")
        while not (found := selector.select(0)):
            pass
        assert [key.fileobj for key, _ in found] == [there]
        selector.unregister(there)
        assert selector.select(0) == []
