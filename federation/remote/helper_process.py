"""Runs a credential helper: a program that prints the headers for the calls to a server.

The protocol is Bazel's (github.com/EngFlow/credential-helper-spec): `PROGRAM get`, a request in
JSON on its standard input, an answer in JSON on its standard output. Nothing that a helper prints
is logged, what it writes to standard error included.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from contextlib import suppress
from pathlib import Path
from subprocess import DEVNULL, PIPE

from federation.remote.helper_answer import HelperAnswer, HelperFailed, parse_answer

RUN_S = 10.0  # for all of a run
_END_S = 1.0  # of a helper that was killed
ANSWER_MAX_BYTES = 64 * 1024


async def run_helper(program: Path, uri: str) -> HelperAnswer:
    """Run a helper once. Raises HelperFailed, at the latest after RUN_S."""
    loop = asyncio.get_running_loop()
    # A helper that inherits it could tell the service manager that the node is stopping.
    environment = {name: text for name, text in os.environ.items() if name != "NOTIFY_SOCKET"}
    try:
        process, output = await loop.subprocess_exec(
            _Output,
            program,
            "get",
            stdin=PIPE,
            stdout=PIPE,
            # It may print secrets there, and nothing of that may get into the node's log.
            stderr=DEVNULL,
            env=environment,
            process_group=0,  # so that what it has started ends with it
        )
    except OSError as error:
        raise HelperFailed(f"cannot be run: {error.strerror or error}") from None
    try:
        request = process.get_pipe_transport(0)
        assert isinstance(request, asyncio.WriteTransport)
        request.write(json.dumps({"uri": uri}).encode())  # it need not read that
        request.close()
        async with asyncio.timeout(RUN_S):
            await output.ended
    except TimeoutError:
        raise HelperFailed(f"has not ended within {RUN_S:g} s") from None
    finally:
        # Also when this call is cancelled: a helper must not outlive the node's interest in it.
        if not output.is_whole:
            await _kill(process, output)
        process.close()  # also if what it has started holds its output open
    if status := process.get_returncode():
        raise HelperFailed(f"has ended with the status {status}")
    return parse_answer(bytes(output.data))


async def _kill(process: asyncio.SubprocessTransport, output: _Output) -> None:
    """End a helper and what it has started, and wait a moment, so that no zombie is left."""
    with suppress(ProcessLookupError):
        os.killpg(process.get_pid(), signal.SIGKILL)
    with suppress(TimeoutError):
        async with asyncio.timeout(_END_S):
            await output.exited


class _Output(asyncio.SubprocessProtocol):
    """What a helper prints. `ended` is done when it has ended and nobody holds its output open."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.data = bytearray()
        self.exited, self.ended = loop.create_future(), loop.create_future()
        self.is_whole = False

    def pipe_data_received(self, _fd: int, data: bytes) -> None:
        """See SubprocessProtocol."""
        self.data += data
        if len(self.data) > ANSWER_MAX_BYTES and not self.ended.done():
            self.ended.set_exception(HelperFailed(f"prints more than {ANSWER_MAX_BYTES} bytes"))

    def process_exited(self) -> None:
        """See SubprocessProtocol."""
        if not self.exited.done():
            self.exited.set_result(None)

    def connection_lost(self, _error: BaseException | None) -> None:
        """See SubprocessProtocol."""
        if not self.ended.done():
            self.is_whole = True
            self.ended.set_result(None)
