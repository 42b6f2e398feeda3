"""Which upstreams to ask for one blob, in which order, and which may continue another's bytes.

Normally, when an upstream breaks off, the next one continues. Wrong bytes that came in parts from
several upstreams prove nothing against any of them: from then on each has to send that blob alone,
from its first byte to its last, so that the next wrong bytes have one sender. An upstream that sent
wrong bytes alone is asked once more, after all others.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Sequence

from federation.core.digest import Digest
from federation.upstream.upstream import Upstream

_MIXED_MAX = 4096  # blobs


class MixedBlobs:
    """Blobs that came wrong from several upstreams together, until one sends them right."""

    def __init__(self) -> None:
        self._last_senders: OrderedDict[Digest, str] = OrderedDict()

    def __repr__(self) -> str:
        return f"<MixedBlobs {len(self._last_senders)}>"

    def __contains__(self, digest: Digest) -> bool:
        return digest in self._last_senders

    def last_sender(self, digest: Digest) -> str | None:
        """Return the name of the upstream that sent the end: it is the likeliest to be right."""
        return self._last_senders.get(digest)

    def add(self, digest: Digest, last_sender: str) -> None:
        """Require that one upstream sends the whole blob."""
        self._last_senders[digest] = last_sender
        self._last_senders.move_to_end(digest)
        if len(self._last_senders) > _MIXED_MAX:
            self._last_senders.popitem(last=False)

    def discard(self, digest: Digest) -> None:
        """Forget a blob that came right."""
        self._last_senders.pop(digest, None)


class Candidates:
    """The upstreams of one pull."""

    def __init__(self, digest: Digest, upstreams: Sequence[Upstream], mixed: MixedBlobs) -> None:
        """upstreams: the node's, in order. A reload changes the list in place."""
        self._digest = digest
        self._upstreams = upstreams
        self._mixed = mixed
        self._spent: set[int] = set()  # ids of those that are not asked again in this pull

    def __repr__(self) -> str:
        return f"<Candidates for {self._digest}{' alone' if self.is_each_alone else ''}>"

    @property
    def is_each_alone(self) -> bool:
        """Whether no upstream may continue what another has begun."""
        # A mixture with bytes of an upstream that was wrong before would again prove nothing.
        return self._digest in self._mixed or any(map(self._was_wrong, self._upstreams))

    def now(self) -> list[Upstream]:
        """Return the upstreams that may be asked for the whole blob now, best first."""
        able = [each for each in self._left() if each.may_have(self._digest)]
        # The sort is stable: among equals the order of the configuration decides.
        return sorted(able, key=self._rank)

    def wait_s(self, failed: Collection[int]) -> float | None:
        """Return after how many seconds an upstream that asked for patience may be asked.

        None: there is no such upstream. failed: ids of upstreams not to wait for.
        """
        left = [each for each in self._left() if id(each) not in failed]
        waits = [each.wait_s(self._digest) for each in left]
        return min((wait for wait in waits if wait is not None), default=None)

    def _left(self) -> list[Upstream]:
        # By identity: a reload may put another upstream under the same name.
        return [each for each in self._upstreams if id(each) not in self._spent]

    def is_doubtful(self, sender: Upstream) -> bool:
        """Whether readers should get none of its bytes before the whole blob is verified."""
        if self._was_wrong(sender):
            return True
        # With nobody else to ask, readers would wait for the whole and gain nothing by it.
        return self._digest in self._mixed and any(each is not sender for each in self.now())

    def broke(self, sender: Upstream) -> None:
        """Do not ask it again in this pull: it broke off a blob that it had to send alone."""
        self._spent.add(id(sender))

    def came_wrong(self, senders: Sequence[Upstream]) -> None:
        """Blame wrong bytes on a single sender; after several, have each send the blob alone."""
        if len(senders) == 1:
            # A bit may have flipped on the way: the first time costs it its place in the order.
            if self._was_wrong(senders[0]):
                self._spent.add(id(senders[0]))
            senders[0].note_wrong_bytes(self._digest)
        else:
            self._mixed.add(self._digest, senders[-1].name)

    def came_right(self) -> None:
        """Forget all suspicions: the blob is verified."""
        self._mixed.discard(self._digest)
        for upstream in self._upstreams:
            upstream.note_came(self._digest)

    def _was_wrong(self, upstream: Upstream) -> bool:
        return upstream.has_sent_wrong(self._digest)

    def _rank(self, upstream: Upstream) -> tuple[bool, bool]:
        ended = upstream.name == self._mixed.last_sender(self._digest)
        # False sorts first: suspects come last, and before all the one that ended a wrong mixture.
        return self._was_wrong(upstream), not ended


def next_ones(
    candidates: Sequence[Upstream],
    lost: Sequence[Upstream],
    winner: Upstream | None,
    *,
    got_on: bool,
) -> list[Upstream]:
    """Return the upstreams to ask after a failure, in order.

    lost: upstreams that did not open the blob. winner: the one that sent and broke off. If it sent
    some bytes (got_on) it may do so again, and comes last.
    """
    failed = {id(upstream) for upstream in lost}
    left = [u for u in candidates if id(u) not in failed]
    if winner is not None:
        left.remove(winner)
        if got_on:
            left.append(winner)
    return left
