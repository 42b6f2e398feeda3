"""A generator of psycopg goes on as its socket gets ready, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from typing import NoReturn

import psycopg
import pytest
from psycopg.abc import PQGen
from psycopg.waiting import Ready, Wait

from federation.storage.shared.catalogue.socket_waits import SocketWaits

Sockets = tuple[socket.socket, socket.socket]


@pytest.fixture
def sockets() -> Iterator[Sockets]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


def is_watched(ours: socket.socket) -> bool:
    loop = asyncio.get_running_loop()
    return loop.remove_reader(ours) or loop.remove_writer(ours)


async def test_it_goes_on_for_each_state_of_the_socket_that_it_waits_for(sockets: Sockets) -> None:
    ours, theirs = sockets
    seen: list[int] = []

    def ask() -> PQGen[bytes]:
        seen.append((yield Wait.RW))
        theirs.send(b"a")
        seen.append((yield Wait.R))
        found = ours.recv(1)
        theirs.send(b"b")
        seen.append((yield Wait.R))
        return found + ours.recv(1)

    assert await SocketWaits(ask(), ours.fileno()).result() == b"ab"
    assert seen == [Ready.W, Ready.R, Ready.R]
    assert not is_watched(ours)


async def test_what_need_not_wait_does_not(sockets: Sockets) -> None:
    def ask() -> PQGen[int]:
        yield from ()
        return 1

    assert await SocketWaits(ask(), sockets[0].fileno()).result() == 1
    assert not is_watched(sockets[0])


async def test_an_error_ends_it(sockets: Sockets) -> None:
    ours, theirs = sockets

    def ask() -> PQGen[NoReturn]:
        yield Wait.R
        raise psycopg.OperationalError("gone")

    theirs.close()
    with pytest.raises(psycopg.OperationalError, match="gone"):
        await SocketWaits(ask(), ours.fileno()).result()
    assert not is_watched(ours)


async def test_one_that_is_cancelled_asks_no_more(sockets: Sockets) -> None:
    ours, theirs = sockets
    waits = asyncio.Event()

    def ask() -> PQGen[NoReturn]:
        waits.set()
        yield Wait.R
        raise AssertionError("it went on")

    work = asyncio.ensure_future(SocketWaits(ask(), ours.fileno()).result())
    await waits.wait()
    theirs.send(b"a")
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert not is_watched(ours)


async def test_a_closed_socket_s_number_may_be_another_s_at_once(sockets: Sockets) -> None:
    """libpq closes the socket of a connection that broke, and the node accepts another."""
    ours, theirs = sockets
    number = ours.fileno()
    loop = asyncio.get_running_loop()

    def take_its_number() -> None:
        os.dup2(theirs.fileno(), number)
        loop.add_reader(number, list)

    def ask() -> PQGen[NoReturn]:
        yield Wait.R
        os.close(ours.detach())
        loop.call_soon(take_its_number)
        raise psycopg.OperationalError("gone")

    theirs.send(b"a")
    with pytest.raises(psycopg.OperationalError, match="gone"):
        await SocketWaits(ask(), number).result()
    assert loop.remove_reader(number)
    os.close(number)
