"""Arrays in PostgreSQL's binary format are those that psycopg makes."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.adapt import PyFormat, Transformer
from psycopg.types.numeric import Int8

from federation.storage.shared.catalogue import arrays


def by_psycopg(values: list[Any]) -> bytes:
    dumper = Transformer(psycopg.adapters).get_dumper(values, PyFormat.BINARY)
    made = dumper.dump(values)
    assert made is not None
    return bytes(made)


@given(st.lists(st.none() | st.binary(max_size=50), max_size=20).filter(any))
def test_an_array_of_bytes_is_the_one_of_psycopg(values: list[bytes | None]) -> None:
    assert arrays.blobs(values) == by_psycopg(values)


@given(st.lists(st.binary(min_size=33, max_size=33), min_size=1, max_size=20))
def test_an_array_of_keys_is_the_one_of_psycopg(values: list[bytes]) -> None:
    assert arrays.keys(values) == by_psycopg(values)


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=20))
def test_an_array_of_numbers_is_the_one_of_psycopg(values: list[int]) -> None:
    assert arrays.numbers(values) == by_psycopg(list(map(Int8, values)))


def test_keys_of_several_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="several lengths"):
        arrays.keys([b"123", b"12"])
