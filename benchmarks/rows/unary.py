"""The smallest call there is: what a server costs before it does anything."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import repeat

from benchmarks.base import WITH_WORKERS, CallRow, RowSpec
from benchmarks.crowd import CLIENTS, Crowd
from benchmarks.link import CAPABILITIES, expect
from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as re_pb2

_ASKED_BY_EACH = 10


class Capabilities(CallRow):
    """GetCapabilities, again and again."""

    def set_up(self) -> None:
        """See CallRow."""
        call = self.link.unary(CAPABILITIES, "GetCapabilities")
        answer = re_pb2.ServerCapabilities.FromString(call(b""))
        functions = answer.cache_capabilities.digest_functions
        expect(re_pb2.DigestFunction.SHA256 in functions, "SHA-256 is not offered")
        self._call = partial(call, b"")

    def calls(self) -> Iterator[Callable[[], object]]:
        """See CallRow."""
        return repeat(self._call)


class CapabilitiesTogether(CallRow):
    """Eight clients that each ask several times."""

    def set_up(self) -> None:
        """See CallRow."""
        self._crowd = Crowd(self.server.address)
        self._work = [
            partial(_ask, link.unary(CAPABILITIES, "GetCapabilities")) for link in self._crowd.links
        ]

    def calls(self) -> Iterator[Callable[[], object]]:
        """See CallRow."""
        return repeat(partial(self._crowd.run, self._work))

    def close(self) -> None:
        """See CallRow."""
        if hasattr(self, "_crowd"):
            self._crowd.close()
        super().close()


def _ask(call: Callable[[bytes], bytes]) -> None:
    for _ in range(_ASKED_BY_EACH):
        call(b"")


def rows(*, quick: bool) -> list[RowSpec]:
    """Return this module's rows."""
    del quick
    return [
        RowSpec("capabilities", "GetCapabilities", Capabilities, budget="≤ 200 µs CPU; aim 90 µs"),
        RowSpec(
            "capabilities-8-clients",
            f"GetCapabilities, {CLIENTS} clients, {_ASKED_BY_EACH} calls each",
            CapabilitiesTogether,
            items=CLIENTS * _ASKED_BY_EACH,
            servers=WITH_WORKERS,
        ),
    ]
