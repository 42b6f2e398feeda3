"""One table of digest functions: whatever is in it is stored, named and read back."""

from pathlib import Path

import pytest

from federation.core.digest import (
    HASH_BYTES,
    IMPLEMENTATIONS,
    DigestFunction,
    digest_of,
    hash_bytes,
    new_hasher,
)
from federation.storage.directory import DataDirectory, parse_blob_name


def test_every_digest_function_has_its_implementation_and_a_file_name_of_its_own() -> None:
    assert set(IMPLEMENTATIONS) == set(DigestFunction)
    assert len({each.suffix for each in IMPLEMENTATIONS.values()}) == len(DigestFunction)


@pytest.mark.parametrize("function", DigestFunction)
def test_both_ways_of_hashing_agree_and_the_file_name_tells_the_function(
    function: DigestFunction, tmp_path: Path
) -> None:
    hasher = new_hasher(function)
    hasher.update(b"some ")
    hasher.update(b"bytes")
    assert hasher.digest() == hash_bytes(function, b"some bytes")
    assert len(hasher.digest()) == HASH_BYTES
    digest = digest_of(b"some bytes", function)
    path = DataDirectory(tmp_path).blob_path(digest)
    assert parse_blob_name(Path(path).name) == digest


def test_a_suffix_of_no_digest_function_is_no_blob_name() -> None:
    assert parse_blob_name(f"{'0' * 64}-1.md5") is None
