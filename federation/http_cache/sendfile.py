"""Sends parts of files from the page cache to a socket, past this process (sendfile(2)).

asyncio's own loop.sendfile takes a transport out of the loop meanwhile, and other loops have none.
"""

from __future__ import annotations

import asyncio
import os
import socket

from federation.core.store import FilePart


async def send_file(sock: socket.socket, part: FilePart) -> None:
    """Send the part; nothing else is sent on the socket meanwhile, and nothing waits to be.

    Raises OSError: the connection is gone, or the file is shorter than it was.
    """
    offset, end = part.offset, part.offset + part.size_bytes
    offset = _send(sock.fileno(), part.fd, offset, end)
    if offset == end:
        return
    # The loop watches the socket for its transport; a descriptor of its own can be watched, too.
    watched = os.dup(sock.fileno())
    loop = asyncio.get_running_loop()
    try:
        while offset < end:
            writable = loop.create_future()
            loop.add_writer(watched, _wake, writable)
            try:
                await writable
            finally:
                loop.remove_writer(watched)
            offset = _send(watched, part.fd, offset, end)
    finally:
        os.close(watched)


def _send(sock: int, fd: int, offset: int, end: int) -> int:
    """Send what the socket takes now; return where that ended."""
    while offset < end:
        try:
            sent = os.sendfile(sock, fd, offset, end - offset)
        except BlockingIOError:
            return offset
        # The end of a file that was cut behind the node's back; without this the loop would never
        # end.
        if not sent:
            raise OSError("the file is shorter than the blob")
        offset += sent
    return offset


def _wake(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)
