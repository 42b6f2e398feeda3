"""Who is asked for one blob, in which order, and who may end what another has begun.

As long as nothing is known against a blob, an upstream that breaks is continued by the next one. A
blob that came wrong in parts of several upstreams proves nothing against any of them: from then on
each has to give it alone, from its first byte to its last, so that the next wrong bytes have one
sender. One that has sent wrong bytes alone is asked once more, after all others.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Sequence

from federation.core.digest import Digest
from federation.upstream.upstream import Upstream

_MIXED_MAX = 4096  # blobs


class Mixed:
    """Blobs that came wrong from several upstreams together, until one gives them right."""

    def __init__(self) -> None:
        self._last_senders: OrderedDict[Digest, str] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Mixed {len(self._last_senders)}>"

    def __contains__(self, digest: Digest) -> bool:
        return digest in self._last_senders

    def last_sender(self, digest: Digest) -> str | None:
        """Return the name of the one that ended the blob, and so is the likelier to be right."""
        return self._last_senders.get(digest)

    def add(self, digest: Digest, last_sender: str) -> None:
        """Have each upstream give it alone."""
        self._last_senders[digest] = last_sender
        self._last_senders.move_to_end(digest)
        if len(self._last_senders) > _MIXED_MAX:
            self._last_senders.popitem(last=False)

    def discard(self, digest: Digest) -> None:
        """It came right."""
        self._last_senders.pop(digest, None)


class Candidates:
    """The upstreams of one pull."""

    def __init__(self, digest: Digest, upstreams: Sequence[Upstream], mixed: Mixed) -> None:
        """upstreams: those of the node at each time, in order."""
        self._digest = digest
        self._upstreams = upstreams
        self._mixed = mixed
        self._spent: set[int] = set()  # what they began alone, they did not end

    def __repr__(self) -> str:
        return f"<Candidates for {self._digest}{' alone' if self.is_each_alone else ''}>"

    @property
    def is_each_alone(self) -> bool:
        """Whether no upstream may go on with what another has begun."""
        return self._digest in self._mixed or any(map(self._was_wrong, self._upstreams))

    def now(self) -> list[Upstream]:
        """Return who is asked for it from its first byte on."""
        able = [each for each in self._left() if each.may_have(self._digest)]
        return sorted(able, key=self._rank)

    def wait_s(self, failed: Collection[int]) -> float | None:
        """Return after how long somebody may be asked who only asked for patience; None: nobody.

        failed: the ids of upstreams that are not to be waited for.
        """
        left = [each for each in self._left() if id(each) not in failed]
        waits = [each.wait_s(self._digest) for each in left]
        return min((wait for wait in waits if wait is not None), default=None)

    def _left(self) -> list[Upstream]:
        return [each for each in self._upstreams if id(each) not in self._spent]

    def is_doubtful(self, sender: Upstream) -> bool:
        """Whether nobody should be given this one's bytes before the whole blob is verified."""
        if self._was_wrong(sender):
            return True
        return self._digest in self._mixed and any(each is not sender for each in self.now())

    def broke(self, sender: Upstream) -> None:
        """It did not end what it began alone: do not ask it again in this pull."""
        self._spent.add(id(sender))

    def came_wrong(self, senders: Sequence[Upstream]) -> None:
        """Hold wrong bytes against the one that sent them all, or try each of several alone."""
        if len(senders) == 1:
            if self._was_wrong(senders[0]):
                self._spent.add(id(senders[0]))
            senders[0].note_wrong_bytes(self._digest)
        else:
            self._mixed.add(self._digest, senders[-1].name)

    def came_right(self) -> None:
        """The blob is verified."""
        self._mixed.discard(self._digest)
        for upstream in self._upstreams:
            upstream.note_came(self._digest)

    def _was_wrong(self, upstream: Upstream) -> bool:
        return upstream.has_sent_wrong(self._digest)

    def _rank(self, upstream: Upstream) -> tuple[bool, bool]:
        ended = upstream.name == self._mixed.last_sender(self._digest)
        return self._was_wrong(upstream), not ended


def next_ones(
    candidates: Sequence[Upstream],
    lost: Sequence[Upstream],
    winner: Upstream | None,
    *,
    got_on: bool,
) -> list[Upstream]:
    """Return who is asked after a race that failed; who got on comes last, it may do so again."""
    failed = {id(upstream) for upstream in lost}
    left = [u for u in candidates if id(u) not in failed]
    if winner is not None:
        left.remove(winner)
        if got_on:
            left.append(winner)
    return left
