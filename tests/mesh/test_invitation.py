"""The code of an invitation, and the certificate that both sites derive from it."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib

import pytest
from cryptography import x509

from federation.config.types import Address
from federation.core.errors import ConfigError
from federation.mesh.invitation import Invitation, parse_code

UNTIL_S = 1_800_000_000
INVITATION = Invitation(Address("paris.example.com", 11002), bytes(range(32)), b"\2" * 16, UNTIL_S)


def coded(data: bytes) -> str:
    checked = data + hashlib.sha256(data).digest()[:4]
    return "fed-" + base64.urlsafe_b64encode(checked).decode().rstrip("=")


def test_a_code_says_what_was_put_into_it() -> None:
    assert parse_code(INVITATION.code()) == INVITATION


def test_a_code_that_was_wrapped_by_a_mail_program_is_read() -> None:
    code = INVITATION.code()
    assert parse_code(f" {code[:40]}\r\n  {code[40:]}\n") == INVITATION


@pytest.mark.parametrize("host", ["10.0.0.1", "::1", "a.b"])
def test_addresses_of_every_kind_survive(host: str) -> None:
    wanted = INVITATION._replace(inviter=Address(host, 65535))
    assert parse_code(wanted.code()).inviter == Address(host, 65535)


def test_both_sites_derive_the_same_certificate_with_every_library() -> None:
    """A program that derived another one could not join those that are running."""
    pair = INVITATION.pair()
    assert pair == INVITATION.pair()
    assert pair.fingerprint == (
        "AA:04:79:3A:A0:1A:DA:E0:F6:8E:50:5D:C8:A9:2F:AC:"
        "C9:88:EC:61:E5:18:78:28:A2:F4:0D:CE:BF:CF:03:4F"
    )


def test_the_certificate_is_no_authority_ends_with_the_invitation_and_has_not_the_secret() -> None:
    pair = INVITATION.pair()
    certificate = x509.load_pem_x509_certificate(pair.certificate)
    assert certificate.not_valid_after_utc == dt.datetime.fromtimestamp(UNTIL_S, dt.UTC)
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    der = base64.b64decode("".join(pair.certificate.decode().split("\n")[1:-2]))
    assert INVITATION.secret not in der


def test_another_secret_gives_another_key_and_another_end_another_certificate() -> None:
    others = [
        INVITATION._replace(secret=b"\2" * 15 + b"\3").pair(),
        INVITATION._replace(until_s=UNTIL_S + 1).pair(),
    ]
    assert others[0].key != INVITATION.pair().key
    assert len({INVITATION.pair().fingerprint, *(each.fingerprint for each in others)}) == 3


def test_each_mistyped_character_is_noticed() -> None:
    code = INVITATION.code()
    for at in range(4, len(code) - 1):  # the last one has unused bits
        wrong = "A" if code[at] != "A" else "B"
        with pytest.raises(ConfigError, match="mistyped"):
            parse_code(code[:at] + wrong + code[at + 1 :])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "begins with fed-"),
        ("hello", "begins with fed-"),
        ("fed-", "mistyped"),
        ("fed-!!!!", "mistyped"),
        (INVITATION.code()[:-9], "mistyped"),
        ("fed-" + "A" * 10_000, "begins with fed-"),
        (coded(b"\1" * 20), "mistyped"),
        (coded(b"\2" + b"\x7f" * 52 + b"a:1"), "version 2"),
        (coded(b"\1" + b"\x7f" * 52 + b"no address"), "mistyped"),
        (coded(b"\1" + b"\x7f" * 52 + b"\xff:1"), "mistyped"),
        (coded(b"\1" + b"\0" * 52 + b"a:1"), "mistyped"),
    ],
)
def test_what_is_no_code_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        parse_code(text)


def test_neither_shows_its_secret() -> None:
    shown = repr(INVITATION) + repr(INVITATION.pair())
    assert shown == "<Invitation to paris.example.com:11002><InvitationPair>"
