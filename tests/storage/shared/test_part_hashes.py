"""The hashes of a blob's parts: what a row keeps of them, and what they prove."""

from __future__ import annotations

import pytest

from federation.core.digest import DigestFunction, digest_of, hash_bytes
from federation.storage.shared import naming, part_hashes
from federation.storage.shared.part_hashes import (
    PartHasher,
    PartProof,
    hash_part,
    part_hash,
    prove_whole,
)

PART = 1000


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (naming, part_hashes):
        monkeypatch.setattr(module, "PART_BYTES", PART)


def blob_of(size_bytes: int) -> bytes:
    return bytes(at * 7 % 251 for at in range(size_bytes))


@pytest.mark.parametrize("function", list(DigestFunction))
@pytest.mark.parametrize("size_bytes", [1, PART - 1, PART, PART + 1, 3 * PART, 3 * PART + 500])
@pytest.mark.parametrize("step", [1, 700, PART, 2500])
def test_whatever_the_pieces_are_each_part_and_the_whole_are_hashed(
    function: DigestFunction, size_bytes: int, step: int
) -> None:
    blob, hasher = blob_of(size_bytes), PartHasher(function)
    for at in range(0, size_bytes, step):
        hasher.update(memoryview(blob)[at : at + step])
    kept = hasher.hashes()
    assert hasher.digest() == hash_bytes(function, blob)
    for part in range(naming.part_count(size_bytes)):
        assert part_hash(kept, part) == hash_part(blob[part * PART : (part + 1) * PART])
    assert prove_whole(kept, size_bytes)


def test_hashes_of_an_earlier_version_or_of_another_size_prove_nothing() -> None:
    hasher = PartHasher(DigestFunction.SHA256)
    hasher.update(blob_of(2 * PART))
    kept = hasher.hashes()
    assert not prove_whole(kept[:-1], 2 * PART)
    assert not prove_whole(kept[:-1] + b"\x02", 2 * PART)
    assert not prove_whole(b"", 2 * PART)
    assert not prove_whole(kept, PART)
    assert not prove_whole(kept, 3 * PART)


def proof_of(blob: bytes) -> tuple[PartProof, list[memoryview]]:
    parts = [memoryview(blob)[at : at + PART] for at in range(0, len(blob), PART)]
    return PartProof(digest_of(blob)), parts


def test_a_proof_is_whole_with_the_last_verified_part_and_not_before() -> None:
    blob = blob_of(2 * PART + 1)
    proof, parts = proof_of(blob)
    for part in parts:
        proof.verified(part)
    for part in parts:
        assert proof.digest() == b""
        proof.update(part)
    assert proof.digest() == digest_of(blob).hash


def test_a_part_that_was_not_verified_proves_nothing() -> None:
    proof, (only,) = proof_of(blob_of(PART))
    proof.update(only)
    proof.verified(only)
    assert proof.digest() == b""


def test_other_bytes_than_the_verified_ones_prove_nothing() -> None:
    """A copy may differ: only the object itself is known to be right."""
    proof, (only,) = proof_of(blob_of(PART))
    proof.verified(only)
    proof.update(bytes(only))
    assert proof.digest() == b""


def test_verified_parts_in_another_order_prove_nothing() -> None:
    proof, parts = proof_of(blob_of(2 * PART))
    for part in parts:
        proof.verified(part)
    for part in reversed(parts):
        proof.update(part)
    assert proof.digest() == b""
