"""The names of objects, and the parts of a blob."""

import pytest

from federation.core.digest import DigestFunction, digest_of
from federation.storage.shared.catalogue.rows import BlobObject
from federation.storage.shared.naming import (
    PART_BYTES,
    ObjectName,
    parse,
    part_bytes,
    part_count,
    part_name,
    part_names,
)

ATTEMPT = bytes(range(8))


@pytest.mark.parametrize("function", list(DigestFunction))
def test_a_name_says_which_part_of_which_upload_it_is(function: DigestFunction) -> None:
    upload = BlobObject(digest_of(b"x" * 100, function), ATTEMPT)
    assert parse(part_name(upload, 7)) == ObjectName(upload, 7)


def test_two_uploads_of_a_blob_share_no_name() -> None:
    digest = digest_of(b"x" * 100)
    one, other = BlobObject(digest, ATTEMPT), BlobObject(digest, ATTEMPT[::-1])
    assert not set(part_names(one)) & set(part_names(other))


@pytest.mark.parametrize(
    "name",
    ["site.json", "ab/cd", part_name(BlobObject(digest_of(b"x"), ATTEMPT), 0)[:-1]],
)
def test_other_names_are_not_taken_for_parts(name: str) -> None:
    assert parse(name) is None


def test_a_name_in_the_folder_of_another_hash_is_no_part() -> None:
    name = part_name(BlobObject(digest_of(b"x"), ATTEMPT), 0)
    assert parse(("00" if name[:2] != "00" else "01") + name[2:]) is None


@pytest.mark.parametrize(
    ("size_bytes", "sizes"),
    [
        (1, [1]),
        (PART_BYTES, [PART_BYTES]),
        (PART_BYTES + 1, [PART_BYTES, 1]),
        (3 * PART_BYTES, [PART_BYTES] * 3),
    ],
)
def test_parts_are_whole_but_for_the_last(size_bytes: int, sizes: list[int]) -> None:
    parts = range(part_count(size_bytes))
    assert [part_bytes(size_bytes, part) for part in parts] == sizes
