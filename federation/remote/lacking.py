"""Which methods a remote does not support, and how certain that is.

A machine without I/O. UNIMPLEMENTED alone is weak evidence: it is also how gRPC reads a proxy's
404, which may pass in a second. So a method counts as missing only after several such answers over
some minutes with no other between them, or when the remote's capabilities say so, too.
"""

from __future__ import annotations

from typing import NamedTuple

from federation.remote.methods import Method

ANSWERS = 3
OVER_S = 300.0  # between the first and the last of these
KEPT_S = 600.0  # what a remote did not support may have come with its next version


class _Evidence(NamedTuple):
    first_s: float
    answers: int
    until_s: float  # taken for missing until then


class Lacking:
    """The unsupported methods of one remote. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._evidence: dict[Method, _Evidence] = {}

    def __repr__(self) -> str:
        return f"<Lacking {len(self._evidence)} suspected>"

    def unimplemented(self, method: Method, now_s: float) -> None:
        """Record one UNIMPLEMENTED. A vital method never counts as unsupported by these."""
        first_s, answers, until_s = self._evidence.get(method, _Evidence(now_s, 0, 0.0))
        answers += 1
        # Many and over some time: a proxy that restarts answers many calls with 404 in a second.
        if answers >= ANSWERS and now_s - first_s >= OVER_S and not method.is_vital:
            until_s = now_s + KEPT_S
        self._evidence[method] = _Evidence(first_s, answers, until_s)

    def believe(self, method: Method, now_s: float) -> None:
        """Count it as unsupported at once, by further evidence."""
        first_s, answers, _ = self._evidence.get(method, _Evidence(now_s, 0, 0.0))
        self._evidence[method] = _Evidence(first_s, answers, now_s + KEPT_S)

    def answered(self, method: Method) -> None:
        """Record that the method is supported."""
        self._evidence.pop(method, None)

    def lacks(self, method: Method, now_s: float) -> bool:
        """Whether it counts as unsupported; that expires, so that one call finds out again."""
        found = self._evidence.get(method)
        return found is not None and now_s < found.until_s

    def all(self, now_s: float) -> list[Method]:
        """Return the methods that count as unsupported."""
        return [method for method in self._evidence if self.lacks(method, now_s)]

    def forget(self) -> None:
        """Forget everything: another program may answer now."""
        self._evidence.clear()
