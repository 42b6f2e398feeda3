"""The client of prepared frames takes only what a call should be answered with."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress

import pytest

from benchmarks.frames import FrameCrowd, _frame
from benchmarks.link import WrongAnswerError

MESSAGE = b"message"
ANSWER = b"\0\0\0\0\2ok"
BEGINNING = b"\x88"  # :status 200
PLAIN = b"\0\x0bgrpc-status\x010"
SHORT = b"\0\x88\x9a\xca\xc8\xb2\x12\x34\xda\x8f\x010"  # as libnghttp2 writes it


def answer(message: bytes = ANSWER, trailers: bytes = PLAIN, *, stream: int = 1) -> bytes:
    return (
        _frame(4, 0, 0, b"")  # settings
        + _frame(1, 4, stream, BEGINNING)
        + (_frame(0, 0, stream, message) if message else b"")
        + _frame(1, 5, stream, trailers)
    )


@contextmanager
def served(*answers: bytes) -> Iterator[str]:
    """Take one connection, and answer each call in two pieces; then read to its end."""

    def serve(listening: socket.socket) -> None:
        accepted, _ = listening.accept()
        received = b""
        with accepted, suppress(ConnectionError):  # the client may leave before it has all
            for number, each in enumerate(answers, 1):
                while received.count(MESSAGE) < number:
                    received += accepted.recv(2**16)
                accepted.sendall(each[:20])
                accepted.sendall(each[20:])
            accepted.shutdown(socket.SHUT_WR)
            while accepted.recv(2**16):
                pass

    with socket.create_server(("127.0.0.1", 0)) as listening, ThreadPoolExecutor(1) as threads:
        serving: Future[None] = threads.submit(serve, listening)
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        serving.result(60)


def calls(address: str, messages: int = 1) -> int:
    """Return how many calls were answered well."""
    crowd = FrameCrowd(address, "/service/Method", b"ok", clients=1)
    try:
        return len(crowd.run(iter([MESSAGE] * messages), seconds=60))
    finally:
        crowd.close()


@pytest.mark.parametrize("trailers", [PLAIN, SHORT], ids=["plain", "huffman"])
def test_an_answer_with_its_status_ends_a_call(trailers: bytes) -> None:
    whole = answer(trailers=trailers)
    with served(whole, answer(stream=3, trailers=trailers)) as address:
        assert calls(address, messages=2) == 2


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (answer(trailers=PLAIN[:-1] + b"8"), "the call ended with"),
        (answer(message=b"\0\0\0\0\2no"), "the answer is"),
        (answer(message=b""), "a call without an answer"),
        (_frame(3, 0, 1, b"\0\0\0\1"), "frame 3"),  # a reset
        (_frame(7, 0, 0, bytes(8)), "frame 7"),  # the connection ends
        (b"", "closed"),
    ],
    ids=["status", "message", "nothing", "reset", "goaway", "closed"],
)
def test_any_other_end_fails_the_row(wrong: bytes, told: str) -> None:
    with served(wrong) as address, pytest.raises(WrongAnswerError, match=told):
        calls(address)
