from __future__ import annotations

import base64
import hashlib

import pytest

from federation.core.errors import InvalidRequest
from federation.wire.sri import Integrity, read_integrity


def sri(algorithm: str, data: bytes = b"x") -> str:
    return f"{algorithm}-{base64.b64encode(hashlib.new(algorithm, data).digest()).decode()}"


@pytest.mark.parametrize("algorithm", ["sha256", "sha384", "sha512"])
def test_each_algorithm_is_read(algorithm: str) -> None:
    wanted = Integrity(algorithm, frozenset([hashlib.new(algorithm, b"x").digest()]))
    assert read_integrity(sri(algorithm)) == wanted
    assert read_integrity(f" {sri(algorithm)}?option ") == wanted


def test_only_the_strongest_algorithm_counts_and_any_of_its_hashes() -> None:
    found = read_integrity(f"{sri('sha384', b'a')} {sri('sha256', b'b')} {sri('sha384', b'c')}")
    hashes = {hashlib.sha384(b"a").digest(), hashlib.sha384(b"c").digest()}
    assert found == Integrity("sha384", frozenset(hashes))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  ",
        "sha256",
        "sha256-",
        "sha256-abc",
        "sha256-é",
        "sha1-" + base64.b64encode(bytes(20)).decode(),
        "sha512-" + base64.b64encode(bytes(32)).decode(),
        "SHA256-" + base64.b64encode(bytes(32)).decode(),
        "sha256-" + "0" * 64,
        sri("sha256") + " md5-x",
    ],
)
def test_malformed_text_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        read_integrity(text)
