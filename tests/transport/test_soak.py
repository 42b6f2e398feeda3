"""What the soak calls flat; and a short one, beside which the long one is run by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.transport.soak.__main__ import soak
from tests.transport.soak.watch import Sample, growth, left


def samples(
    memory_mib: float = 0.0, descriptors: float = 0.0, threads: float = 0.0
) -> list[Sample]:
    """Return samples of a node that has so much more of each at the end."""
    return [
        Sample(
            at,
            100 + memory_mib * at / 99,
            50 + int(descriptors * at / 99),
            9,
            20 + int(threads * at / 99),
            at % 7,
            at % 3,
        )
        for at in range(100)
    ]


def test_what_stays_as_it_is_is_flat() -> None:
    assert growth(samples()) == []
    assert growth(samples(memory_mib=10, descriptors=8)) == []


@pytest.mark.parametrize("grows", ["memory_mib", "descriptors", "threads"])
def test_what_grows_is_named(grows: str) -> None:
    (found,) = growth(samples(**{grows: 60.0}))
    assert found.startswith(f"{grows} grew from")


def test_what_grows_in_the_beginning_only_is_no_growth() -> None:
    filling = [each._replace(memory_mib=min(100.0, 4 * each.at_s)) for each in samples()]
    assert growth(filling) == []


def test_too_few_samples_are_no_proof() -> None:
    assert growth(samples()[:3]) != []


def test_what_is_left_of_the_load_is_named() -> None:
    before = Sample(0, 100, 50, 9, 20, 0, 0)
    assert left(before, before._replace(memory_mib=150)) == []
    after = before._replace(calls=1, uploads=2, sockets=19)
    assert len(left(before, after)) == 3


@pytest.mark.heavy
@pytest.mark.timeout(600)
def test_five_minutes_of_mixed_load_leave_nothing(tmp_path: Path) -> None:
    assert soak(tmp_path, 300, clients=8, seed=1) == []
