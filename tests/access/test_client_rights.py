"""A certificate counts when it is listed itself, or when an authority vouches for it."""

import ssl
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from federation.access.allowlist import ClientList, fingerprint_of, parse_client_list
from federation.access.certificates import ClientRefused, ClientRights, Granted
from federation.access.client_ca import Authorities
from federation.access.rights import Role
from federation.access.tls import KeyPair
from federation.config.auth import ClientRule
from federation.core.clock import SystemClock
from federation.core.errors import ConfigError
from tests.support.certificates import Files, self_signed

Rule = Mapping[str, object]

NOW_S = SystemClock().wall_s()
DAY_S = 86400.0


class Bench:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = self_signed(folder, "authority", authority=True)
        self.alice = self_signed(folder, "alice", authority=True)

    def pem(self, *files: Files) -> bytes:
        return b"".join(each.certificate.read_bytes() for each in files)

    def listing(self, *files: Files) -> ClientList | None:
        return parse_client_list(self.pem(*files), "here") if files else None

    def rights(
        self,
        *,
        clients: Sequence[Files] = (),
        peers: Sequence[Files] = (),
        authorities: Sequence[Files] = (),
        rules: Sequence[Rule] = (),
    ) -> ClientRights:
        lists = (self.listing(*clients), self.listing(*peers), self.listing(*authorities))
        return ClientRights(
            KeyPair(b"", b"", *lists), [ClientRule.model_validate(rule) for rule in rules], "here"
        )

    def grant(
        self, rights: ClientRights, files: Files, *chain: Files, now_s: float = NOW_S
    ) -> Granted:
        return rights.grant(self.pem(files), self.pem(*chain), now_s)

    def refusal(
        self, rights: ClientRights, files: Files, *chain: Files, now_s: float = NOW_S
    ) -> str:
        with pytest.raises(ClientRefused) as refused:
            self.grant(rights, files, *chain, now_s=now_s)
        return refused.value.reason


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_listed_clients_push_and_listed_peers_are_peers(bench: Bench) -> None:
    bob, tokyo = self_signed(bench.folder, "bob"), self_signed(bench.folder, "tokyo")
    rights = bench.rights(clients=[bench.alice, bob, tokyo], peers=[tokyo])
    assert [bench.grant(rights, each).role for each in (bench.alice, bob, tokyo)] == [
        Role.PUSH,
        Role.PUSH,
        Role.PEER,
    ]
    granted = bench.grant(rights, bob)
    der = x509.load_pem_x509_certificate(bench.pem(bob))
    assert granted.identity.startswith("certificate CN=bob ")
    assert granted.until_s == der.not_valid_after_utc.timestamp()


def test_a04_what_a_listed_certificate_signed_is_refused_in_each_kind_of_list(bench: Bench) -> None:
    minted = self_signed(bench.folder, "minted", issuer=bench.alice)
    for rights in (bench.rights(clients=[bench.alice]), bench.rights(peers=[bench.alice])):
        reason = bench.refusal(rights, minted, bench.alice)
        assert reason == "the certificate is not in the list"
    mixed = bench.rights(clients=[bench.alice], authorities=[bench.authority])
    assert "no authority in client-ca issued it" in bench.refusal(mixed, minted, bench.alice)


def test_an_authority_vouches_for_what_it_signed_itself_or_through_another(bench: Bench) -> None:
    rights = bench.rights(authorities=[bench.authority])
    leaf = self_signed(bench.folder, "leaf", issuer=bench.authority)
    between = self_signed(bench.folder, "between", issuer=bench.authority, authority=True)
    below = self_signed(bench.folder, "below", issuer=between)
    assert bench.grant(rights, leaf).role is Role.PUSH
    assert bench.grant(rights, below, between).role is Role.PUSH
    assert "no authority in client-ca issued it" in bench.refusal(rights, below)


def test_a_leaf_of_the_authority_cannot_sign_others(bench: Bench) -> None:
    rights = bench.rights(authorities=[bench.authority])
    leaf = self_signed(bench.folder, "leaf", issuer=bench.authority)
    minted = self_signed(bench.folder, "minted", issuer=leaf)
    assert "no authority in client-ca issued it" in bench.refusal(rights, minted, leaf)


def test_a_stranger_with_the_authoritys_name_is_refused(bench: Bench) -> None:
    rights = bench.rights(authorities=[bench.authority])
    fake = self_signed(bench.folder, "fake", cn="authority", authority=True)
    leaf = self_signed(bench.folder, "leaf", issuer=fake)
    assert "no authority in client-ca issued it" in bench.refusal(rights, leaf, fake)
    assert "no authority in client-ca issued it" in bench.refusal(
        rights, self_signed(bench.folder, "alone")
    )


def test_a05_dates_count_for_each_kind(bench: Bench) -> None:
    for name, says in (("expired", "expired on 20"), ("early", "is not valid before 20")):
        make = partial(self_signed, bench.folder, expired=name == "expired", early=name == "early")
        listed = make(name)
        signed = make(f"{name}-leaf", issuer=bench.authority)
        rights = bench.rights(clients=[listed], authorities=[bench.authority])
        assert says in bench.refusal(rights, listed)
        assert says in bench.refusal(rights, signed)
    later_s = NOW_S + 40 * DAY_S
    rights = bench.rights(authorities=[bench.authority])
    leaf = self_signed(bench.folder, "long", issuer=bench.authority, days=400)
    granted = bench.grant(rights, leaf)
    assert granted.role is Role.PUSH
    assert granted.until_s < NOW_S + 31 * DAY_S  # what is remembered of it ends with the authority
    assert "no authority in client-ca issued it" in bench.refusal(
        rights, leaf, now_s=later_s
    )  # the authority has expired


def test_a04_a_subject_that_contains_the_rest_of_the_rule_is_not_let_in(bench: Bench) -> None:
    evil = self_signed(bench.folder, "evil", cn="ci-evil,O=Example", issuer=bench.authority)
    sans = [
        x509.UniformResourceIdentifier("http://x/.office.example"),
        x509.RFC822Name("a@b.office.example"),
    ]
    named = self_signed(bench.folder, "named", issuer=bench.authority, hosts=sans)
    rules = [
        {"subject": "CN=ci-*,O=Example", "role": "push"},
        {"name": "*.office.example", "role": "pull"},
    ]
    rights = bench.rights(authorities=[bench.authority], rules=rules)
    assert [bench.grant(rights, each).role for each in (evil, named)] == [None, None]


def test_with_rules_the_first_that_fits_decides_and_no_fit_is_no_right(bench: Bench) -> None:
    sans = [x509.DNSName("a.ci.example"), x509.UniformResourceIdentifier("spiffe://x/build")]
    leaf = self_signed(bench.folder, "ci-1", issuer=bench.authority, hosts=sans)
    other = self_signed(bench.folder, "other", issuer=bench.authority, hosts=())
    print_ = fingerprint_of(ssl.PEM_cert_to_DER_cert(bench.pem(other).decode()))

    def roles(*rules: Rule) -> list[Role | None]:
        rights = bench.rights(authorities=[bench.authority], rules=rules)
        return [bench.grant(rights, each).role for each in (leaf, other)]

    assert roles({"subject": "CN=ci-*", "role": "push"}) == [Role.PUSH, None]
    assert roles({"name": "*.ci.example", "role": "push"}) == [Role.PUSH, None]
    assert roles({"name": "uri:spiffe://x/*", "role": "peer"}) == [Role.PEER, None]
    assert roles({"fingerprint": print_.lower(), "role": "admin"}) == [None, Role.ADMIN]
    both = {"subject": "CN=ci-*", "name": "*.other", "role": "push"}
    assert roles(both, {"subject": "*", "role": "pull"}) == [Role.PULL, Role.PULL]


def test_rules_say_where_and_hold_for_listed_certificates_too(bench: Bench) -> None:
    rules = [{"subject": "CN=alice", "role": "push", "instances": ["a"]}]
    rights = bench.rights(clients=[bench.alice], peers=[bench.authority], rules=rules)
    assert bench.grant(rights, bench.alice).instances.patterns == ("a",)
    assert bench.grant(rights, bench.authority).role is Role.PEER


def test_a_subject_is_matched_whole_so_that_a_part_of_it_is_no_match(bench: Bench) -> None:
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "CN=ci-1"),
            x509.NameAttribute(NameOID.COMMON_NAME, "evil"),
        ]
    )
    leaf = self_signed(bench.folder, "evil", issuer=bench.authority, subject=name)
    rights = bench.rights(
        authorities=[bench.authority], rules=[{"subject": "CN=ci-*", "role": "push"}]
    )
    assert bench.grant(rights, leaf).role is None


def test_what_is_no_certificate_is_refused(bench: Bench) -> None:
    rights = bench.rights(clients=[bench.alice])
    with pytest.raises(ClientRefused, match="no certificate was shown"):
        rights.grant(b"", b"", NOW_S)
    with pytest.raises(ClientRefused, match="a certificate of 70000 bytes"):
        rights.grant(b"x" * 70_000, b"", NOW_S)
    chain = b"x" * 70_000
    rights = bench.rights(authorities=[bench.authority])
    leaf = self_signed(bench.folder, "leaf", issuer=bench.authority)
    with pytest.raises(ClientRefused, match="with a chain of 70000 bytes"):
        rights.grant(bench.pem(leaf), chain, NOW_S)


def test_a_file_of_authorities_with_something_else_in_it_is_refused(bench: Bench) -> None:
    plain = self_signed(bench.folder, "plain")
    with pytest.raises(ConfigError, match=r"^here: CN=plain is not an authority's certificate"):
        Authorities(bench.pem(bench.authority, plain), "here")


@pytest.mark.parametrize("text", ["AA:BB", "zz" * 32, "00" * 33])
def test_a_fingerprint_is_what_openssl_prints(text: str) -> None:
    with pytest.raises(ValueError, match="32 bytes in hex"):
        ClientRule(fingerprint=text, role="push")


def test_a_rule_says_whom() -> None:
    with pytest.raises(ValueError, match="give subject"):
        ClientRule(role="push")
