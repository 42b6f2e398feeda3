"""Random histories by seed: some in the plain suite, the rest marked heavy."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


def by_seed(plain: int, in_all: int) -> pytest.MarkDecorator:
    """Give a test its `seeds`: the first ones, and in a heavy run of its own all others."""
    heavy = [pytest.mark.heavy, pytest.mark.timeout(1200)]
    runs = [range(plain), pytest.param(range(plain, in_all), marks=heavy)]
    return pytest.mark.parametrize("seeds", runs, ids=len)


def told(seeds: range) -> Iterator[int]:
    """Go through them; the last one that was printed is shown when the test fails."""
    for seed in seeds:
        print("seed", seed)  # noqa: T201 - pytest shows it when the test fails
        yield seed
