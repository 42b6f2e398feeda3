"""A scripted server of the protocol in a thread of its own, for tests that block.

with Stub() as stub:
    stub.fake.does["BatchUpdateBlobs"] = fails(grpc.StatusCode.UNAVAILABLE)
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from types import TracebackType
from typing import Any

from tests.remote.fake_server import FakeServer

_WAIT_S = 30.0


class Stub:
    """A FakeServer; what it does and was asked may be set and read from any thread."""

    def __init__(self) -> None:
        self.fake = FakeServer()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __repr__(self) -> str:
        return f"<Stub {self.fake.address}>"

    def __enter__(self) -> Stub:
        self._thread.start()
        self._do(self.fake.start())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._do(self.fake.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_WAIT_S)
        self._loop.close()

    def stop(self) -> None:
        """End every connection, as a killed process does."""
        self._do(self.fake.stop())

    def start(self) -> None:
        """Serve again on the same port."""
        self._do(self.fake.start())

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(_WAIT_S)
