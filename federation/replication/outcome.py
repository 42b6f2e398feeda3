"""What became of one object on its way to a peer."""

from __future__ import annotations

import enum
from typing import NamedTuple


class Fate(enum.Enum):
    """How it ended."""

    PRESENT = "present"  # the peer had it
    SENT = "sent"  # the peer has it now, and says so when asked again
    SKIPPED = "skipped"  # it is not to be sent, or not there any more
    PARKED = "parked"  # it cannot be sent, or will not be taken


class SendOutcome(NamedTuple):
    """The reason is for people, and names what is counted: a closed set for those skipped."""

    fate: Fate
    reason: str = ""

    @property
    def is_there(self) -> bool:
        """Whether the peer holds it."""
        return self.fate in {Fate.PRESENT, Fate.SENT}


PRESENT = SendOutcome(Fate.PRESENT)
SENT = SendOutcome(Fate.SENT)


def skipped(reason: str) -> SendOutcome:
    """See Fate."""
    return SendOutcome(Fate.SKIPPED, reason)


def parked(reason: str) -> SendOutcome:
    """See Fate."""
    return SendOutcome(Fate.PARKED, reason)


GONE = skipped("gone from here")
SUPERSEDED = skipped("superseded by a newer one")
DAMAGED = parked("damaged here")
FORGOTTEN = parked("the peer takes it and does not hold it when asked")
TOO_FAR = skipped("it passed as many nodes as can be written down")
UNKNOWN_FUNCTION = skipped("the peer does not know its digest function")
