"""What is said about an object's eviction."""

import pytest

from federation.storage.admin.eviction_status import EvictionFacts, eviction_status
from federation.storage.timing import Timing

HOUR = Timing.for_lease(3600)
SEVEN = "7 objects were used less recently and go first"
OLD = EvictionFacts(
    age_ms=10**8,
    marked=False,
    hold_ms=0,
    kept_for=(),
    older=7,
    stored_bytes=50,
    starts_at_bytes=100,
)


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        (OLD._replace(marked=True), "marked: deleted within 10 s unless it is used"),
        (OLD._replace(age_ms=0), "no: leased, for 3725 s more if it is not used again"),
        (
            OLD._replace(age_ms=HOUR.cutoff_age_ms - 1500, hold_ms=9000, stored_bytes=200),
            "no: leased, for 2 s more if it is not used again",
        ),
        (
            OLD._replace(hold_ms=9000, stored_bytes=200),
            "no: eviction pauses for 9 s, because a process was killed",
        ),
        (
            OLD._replace(kept_for=("paris", "tokyo"), stored_bytes=200),
            "no: kept for paris, tokyo, see when-full",
        ),
        (
            OLD,
            f"no: 50 bytes more are stored before eviction starts; {SEVEN}",
        ),
        (
            OLD._replace(stored_bytes=101),
            f"yes: more is stored than 100 bytes; {SEVEN}",
        ),
    ],
)
def test_every_status_says_what_decides_it(facts: EvictionFacts, says: str) -> None:
    assert eviction_status(facts, HOUR) == says
