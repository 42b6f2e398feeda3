"""A list of certificates is understood as a whole, or refused with the block that is wrong."""

# ruff: noqa: ARG005 - each way to spoil a list is given two certificates

import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.access.allowlist import (
    LIST_MAX_BYTES,
    alike,
    fingerprint_of,
    parse_client_list,
)
from federation.access.keygen import make_pair
from federation.core.clock import SystemClock
from federation.core.errors import ConfigError
from tests.support.certificates import self_signed

Spoil = Callable[[bytes, bytes], bytes]


@pytest.fixture(scope="module")
def pems(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("list")
    return [self_signed(folder, name).certificate.read_bytes() for name in ("one", "two")]


def fingerprint(pem: bytes) -> str:
    return fingerprint_of(ssl.PEM_cert_to_DER_cert(pem.decode()))


def test_a06_comments_line_ends_duplicates_and_missing_newlines_are_fine(pems: list[bytes]) -> None:
    one, two = pems
    tidy = parse_client_list(one + two, "here")
    assert list(tidy.by_fingerprint) == [fingerprint(one), fingerprint(two)]
    assert tidy.by_fingerprint[fingerprint(one)].subject == "CN=one"
    for untidy in (
        b"# Alice\n" + one + b"\nsubject=CN=two\n" + two + b"# end\n",
        (one + two).replace(b"\n", b"\r\n"),
        one + two + one + two,
        one.rstrip() + two.rstrip(),
        b"\xef\xbb\xbf" + one + b"\x00\xff caf\xe9\n" + two,
        one.replace(b" CERTIFICATE", b" X509 CERTIFICATE") + two,
    ):
        assert parse_client_list(untidy, "here") == tidy


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda a, b: a + b.replace(b"M", b"*", 1), r"^here: block 2 \(line \d+\): not base64"),
        (lambda a, b: a + b[:40] + b[60:], r"^here: block 2 \(line \d+\): not"),
        (lambda a, b: a + b[:-30], r"^here: block 2 \(line \d+\): it has no END"),
        (lambda a, b: a[:-30] + b, r"^here: block 2 \(line \d+\): inside the CERTIFICATE"),
        (lambda a, b: a + b"# Bob, from the", r"^here: line \d+: it ends within a line"),
        (lambda a, b: a + b"-----BEG", r"^here: line \d+: it ends within a line"),
        (lambda a, b: a + b[30:], r"^here: line \d+: END CERTIFICATE without its BEGIN"),
        (lambda a, b: b"-" + a.replace(b"-----B", b"---B"), "^here: line 1: a broken BEGIN"),
        (lambda a, b: a.replace(b"E-----\nM", b"E---\nM") + b, "^here: line 1: a broken BEGIN"),
        (lambda a, b: a + b.replace(b"CERTIFICATE", b"PRIVATE KEY"), "block 2 .*a private key"),
        (lambda a, b: a.replace(b"CERT", b"TRUSTED CERT"), "a TRUSTED CERTIFICATE, not a CERT"),
        (lambda a, b: a.replace(b" CERTIFICATE", b" PKCS7"), "a PKCS7, not a CERTIFICATE"),
        (
            lambda a, b: b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----",
            "not an X.5",
        ),
        (lambda a, b: b"", "no certificate in it"),
        (lambda a, b: ssl.PEM_cert_to_DER_cert(a.decode()), "no certificate in it"),
        (lambda a, b: a + b" " * LIST_MAX_BYTES, "larger than"),
    ],
)
def test_a07_one_broken_block_spoils_the_list(pems: list[bytes], spoil: Spoil, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as refused:
        parse_client_list(spoil(*pems), "here")
    assert len(str(refused.value)) < 300


@given(at=st.integers(0, 1500), junk=st.binary(max_size=8), cut=st.integers(0, 8))
def test_a07_damage_anywhere_is_refused_in_words_or_leaves_the_others_whole(
    pems: list[bytes], at: int, junk: bytes, cut: int
) -> None:
    one, two = pems
    whole = one + two
    try:
        found = parse_client_list(whole[:at] + junk + whole[at + cut :], "here")
    except ConfigError:
        return
    if at + cut < len(one):
        assert fingerprint(two) in found.by_fingerprint
    if at >= len(one):
        assert fingerprint(one) in found.by_fingerprint
    assert len(found.by_fingerprint) == 2


def test_those_that_tls_cannot_tell_apart_are_found(tmp_path: Path) -> None:
    first, second, other = (
        self_signed(tmp_path, name, cn=cn).certificate.read_bytes()
        for name, cn in (("1", "ci"), ("2", "ci"), ("3", "other"))
    )
    clients = parse_client_list(first + other, "clients")
    peers = parse_client_list(second, "peers")
    assert alike([clients]) == alike([peers]) == []
    assert alike([clients, peers]) == [[fingerprint(first), fingerprint(second)]]
    assert alike([clients, clients]) == []


def test_those_of_keygen_are_told_apart() -> None:
    made = [make_pair("client", ["ci"], "ec", SystemClock().wall_s(), 10) for _ in range(2)]
    assert alike([parse_client_list(b"".join(each.certificate for each in made), "here")]) == []
