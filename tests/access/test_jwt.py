"""JSON Web Tokens count with the right signature, dates, audience and issuer, and not otherwise."""

import base64
import json
from collections.abc import Callable, Mapping
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st

from federation.access.jwt_keys import grant_of, identity_of, parse_keys, until_s
from federation.access.rights import Role
from federation.config.auth import JwtConfig
from federation.core.clock import SystemClock
from federation.core.errors import ConfigError, NotAuthenticated

RSA, OTHER_RSA = (rsa.generate_private_key(65537, 2048) for _ in range(2))
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()
SECRET = b"s" * 48
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


def now_s() -> int:
    return int(SystemClock().wall_s())


def settings(**kwargs: object) -> JwtConfig:
    facts = {"keys": "/keys", "algorithms": ["RS256"], "audience": "cache", **kwargs}
    return JwtConfig.model_validate(facts, by_alias=True, by_name=True)


def pem(key: PrivateKey) -> bytes:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.PEM, form)


def jwk(key: PrivateKey, **facts: object) -> dict[str, object]:
    made = jwt.algorithms.get_default_algorithms()
    name = {rsa.RSAPrivateKey: "RS256", ec.EllipticCurvePrivateKey: "ES256"}
    kind = next((n for k, n in name.items() if isinstance(key, k)), "EdDSA")
    return {**json.loads(made[kind].to_jwk(key.public_key())), **facts}


def jwks(*keys: Mapping[str, object]) -> bytes:
    return json.dumps({"keys": list(keys)}).encode()


def claims(**more: object) -> dict[str, object]:
    facts = {"sub": "ci", "aud": "cache", "exp": now_s() + 600, "role": "push"}
    return {k: v for k, v in {**facts, **more}.items() if v is not None}


def token(
    key: PrivateKey | bytes = RSA, algorithm: str = "RS256", kid: str | None = None, **more: object
) -> str:
    headers = {"kid": kid} if kid else None
    return jwt.encode(claims(**more), key, algorithm, headers)


def read(data: bytes, **kwargs: object) -> Callable[[str], Mapping[str, Any]]:
    wanted = settings(**kwargs)
    keys = parse_keys(data, wanted, "here")
    return lambda shown: keys.claims_of(shown, wanted)


def refused(shown: str, data: bytes | None = None, **kwargs: object) -> str:
    with pytest.raises(NotAuthenticated) as caught:
        read(data or pem(RSA), **kwargs)(shown)
    return str(caught.value)


@pytest.mark.parametrize(
    ("key", "algorithm", "data"),
    [
        (RSA, "RS256", pem(RSA)),
        (RSA, "PS384", pem(RSA)),
        (EC, "ES256", pem(EC)),
        (ED, "EdDSA", pem(ED)),
        (SECRET, "HS256", SECRET + b"\n"),
        (RSA, "RS256", jwks(jwk(RSA))),
        (EC, "ES256", json.dumps(jwk(EC)).encode()),
        (ED, "EdDSA", jwks(jwk(ED))),
    ],
    ids=["RSA", "PSS", "EC", "Ed25519", "secret", "RSA JWKS", "EC JWK", "Ed25519 JWKS"],
)
def test_a_good_token_is_taken_with_each_kind_of_key(
    key: PrivateKey | bytes, algorithm: str, data: bytes
) -> None:
    found = read(data, algorithms=[algorithm])(token(key, algorithm))
    assert found["sub"] == "ci"


def test_a15_alg_none_is_refused_whatever_the_rest_says() -> None:
    for shown in (
        jwt.encode(claims(), "", "none"),
        token().rpartition(".")[0] + ".",
        _with_header(token(), {"alg": "none"}),
        _with_header(token(), {"alg": "NONE"}),
        _with_header(token(), {"alg": ["RS256"]}),
        _with_header(token(), {"typ": "JWT"}),
    ):
        assert "token" in refused(shown)
    assert "or not at all" in refused(jwt.encode(claims(), "", "none"))


def _with_header(shown: str, header: Mapping[str, object]) -> str:
    packed = base64.urlsafe_b64encode(json.dumps(header).encode()).rstrip(b"=").decode()
    return f"{packed}.{shown.partition('.')[2]}"


def test_a15_an_algorithm_that_is_not_configured_is_refused_though_the_key_fits() -> None:
    assert "algorithm other than RS256" in refused(token(RSA, "RS512"))
    # The public key as a shared secret: the oldest trick there is.
    forged = jwt.api_jws.PyJWS().encode(json.dumps(claims()).encode(), b"x" * 64, "HS256")
    assert "algorithm other than RS256" in refused(forged)


def test_a15_wrong_signatures_dates_audience_and_issuer_each_say_so() -> None:
    assert "signature is not from a key known here" in refused(token(OTHER_RSA))
    assert "the token expired (exp 20" in refused(token(exp=now_s() - 60))
    assert "not valid yet (nbf 20" in refused(token(nbf=now_s() + 600))
    assert "has no claim exp" in refused(token(exp=None))
    assert "not for the audience 'cache'" in refused(token(aud="other"))
    assert "has no claim aud" in refused(token(aud=None))
    assert "not from the issuer 'https://idp'" in refused(token(iss="evil"), issuer="https://idp")
    assert "has no claim iss" in refused(token(), issuer="https://idp")
    good = token(iss="https://idp", nbf=now_s(), aud=["other", "cache"])
    assert read(pem(RSA), issuer="https://idp")(good)["aud"] == ["other", "cache"]


def test_a_clock_that_is_off_by_less_than_the_leeway_is_forgiven() -> None:
    late = token(exp=now_s() - 10)
    assert read(pem(RSA))(late)["sub"] == "ci"
    assert "expired" in refused(late, leeway="1s")
    assert until_s({"exp": 600}, settings()) == 630


def test_a_key_id_chooses_among_keys_and_an_unknown_one_is_refused() -> None:
    data = jwks(jwk(OTHER_RSA, kid="old"), jwk(RSA, kid="new"))
    take = read(data)
    assert take(token(RSA, kid="new"))["sub"] == "ci"
    assert take(token(RSA))["sub"] == "ci"
    for shown in (token(RSA, kid="old"), token(RSA, kid="unknown")):
        assert "key" in refused(shown, data)


def test_keys_of_a_jwks_for_other_uses_are_left_aside() -> None:
    data = jwks(jwk(OTHER_RSA, use="enc"), jwk(EC), jwk(RSA, alg="RS512"), jwk(RSA, alg="RS256"))
    wanted = settings()
    assert len(parse_keys(data, wanted, "here")) == 1


@given(st.text(alphabet='abc.={}"[]:,0-_ é', max_size=60))
def test_a15_no_text_makes_trouble(shown: str) -> None:
    with pytest.raises(NotAuthenticated):
        _KEYS.claims_of(shown, _SETTINGS)


_SETTINGS = settings()
_KEYS = parse_keys(pem(RSA), _SETTINGS, "here")


def test_a15_damage_anywhere_in_a_token_is_refused() -> None:
    good = token()
    for at in range(0, len(good), 7):
        spoilt = good[:at] + ("A" if good[at] != "A" else "B") + good[at + 1 :]
        if spoilt.rpartition(".")[2][-1] != good[-1]:
            continue  # the last character has spare bits
        with pytest.raises(NotAuthenticated):
            _KEYS.claims_of(spoilt, _SETTINGS)
    deep = base64.urlsafe_b64encode(b"[" * 5000).decode().rstrip("=")
    assert refused(f"{deep}.{deep}.x")


@pytest.mark.parametrize(
    ("data", "wanted", "says"),
    [
        (b"", {}, "here: neither a JWKS nor a PEM"),
        (b"{", {}, "here: not a JWKS"),
        (b'{"keys": 1}', {}, "here: not a JWKS"),
        (jwks(), {}, "here: no key for RS256"),
        (jwks(jwk(EC)), {}, "here: no key for RS256"),
        (pem(EC), {}, "here: its kind of key is not for RS256"),
        (pem(EC), {"algorithms": ["ES384"]}, "here: its kind of key is not for ES384"),
        (pem(RSA), {"algorithms": ["HS256"]}, "here: a public key, which everybody may know"),
        (b"short", {"algorithms": ["HS256"]}, "here: a secret of 5 bytes"),
        (jwks({"kty": "RSA"}), {}, "here: keys[0]: not a usable key"),
        (jwks({"kty": "RSA", "d": "x"}), {}, "here: keys[0]: a private key"),
        (b"-----BEGIN PRIVATE KEY-----\n", {}, "here: a private key"),
        (b"-----BEGIN PUBLIC KEY-----\nAA\n-----END PUBLIC KEY-----", {}, "here: not a PEM"),
        (jwks(*[{"kty": "x"}] * 101), {}, "here: 101 keys"),
        (pem(rsa.generate_private_key(65537, 1024)), {}, "here: an RSA key of 1024 bits"),
        (b" " * 2**21, {}, "here: larger than"),
    ],
)
def test_a_key_file_that_cannot_be_meant_is_refused_in_words(
    data: bytes, wanted: Mapping[str, object], says: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_keys(data, settings(**wanted), "here")
    assert str(caught.value).startswith(says)


def test_shared_and_public_algorithms_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="exclude each other"):
        settings(algorithms=["HS256", "RS256"])


@pytest.mark.parametrize(
    ("facts", "role", "patterns"),
    [
        ({"role": "push"}, Role.PUSH, ("*",)),
        ({"role": ["pull", "peer", "cook"]}, Role.PEER, ("*",)),
        ({"role": "cook"}, None, ("*",)),
        ({"role": 4}, None, ("*",)),
        ({}, None, ("*",)),
        ({"role": "pull", "instances": ["a", "b/*", 1]}, Role.PULL, ("a", "b/*")),
        ({"role": "pull", "instances": "a"}, Role.PULL, ("a",)),
        ({"role": "pull", "instances": []}, Role.PULL, ()),
    ],
)
def test_without_rules_the_claims_name_role_and_instances(
    facts: Mapping[str, object], role: Role | None, patterns: tuple[str, ...]
) -> None:
    found, instances = grant_of(facts, settings())
    assert (found, instances.patterns) == (role, patterns)


def test_with_rules_the_first_that_matches_decides_alone() -> None:
    rules = [
        {"claim": "sub", "match": "repo:org/*:ref:refs/heads/main", "role": "push"},
        {"claim": "groups", "match": "builders", "role": "pull", "instances": ["ci"]},
        {"claim": "realm.roles", "match": "adm?n", "role": "admin"},
    ]
    wanted = settings(rules=rules)

    def role_of(**facts: object) -> Role | None:
        return grant_of(facts, wanted)[0]

    assert role_of(sub="repo:org/x:ref:refs/heads/main", groups=["builders"]) is Role.PUSH
    assert role_of(sub="repo:org/x:ref:refs/heads/evil", role="admin") is None
    assert role_of(groups=["a", "builders"]) is Role.PULL
    assert grant_of({"groups": "builders"}, wanted)[1].patterns == ("ci",)
    assert role_of(realm={"roles": ["admin"]}) is Role.ADMIN
    assert role_of(realm=["roles"]) is None


def test_who_shows_a_token_has_a_name() -> None:
    assert identity_of({"sub": "ci", "iss": "https://idp"}) == "jwt ci of https://idp"
    assert identity_of({}) == "jwt without a subject"
