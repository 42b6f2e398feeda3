"""JSON Web Tokens: the keys that may have signed them, what is checked, and what claims allow.

Checked are signature, expiry, not-before, audience and issuer. Which algorithms count is the
configuration's word alone: a token that names another is refused before any key is touched.
"""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import get_default_algorithms

from federation.access.rights import Instances, Role
from federation.config.auth import JwtConfig
from federation.core.clock import utc_text
from federation.core.errors import ConfigError, NotAuthenticated

KEYS_MAX_BYTES = 2**20
_KEYS_MAX = 100
_SECRET_MIN_BYTES = 32
_RSA_BITS = range(2048, 8193)
_CURVES = {"ES256": ec.SECP256R1, "ES384": ec.SECP384R1, "ES512": ec.SECP521R1}
_PATTERNS_MAX = 100


class Key(NamedTuple):
    """One key and the algorithms that it is for."""

    id: str | None
    algorithms: frozenset[str]
    key: Any

    def __repr__(self) -> str:
        return f"<Key {self.id} {', '.join(sorted(self.algorithms))}>"  # it may be a secret


class UnknownKey(NotAuthenticated):
    """A token is signed with a key that is not known here."""


class JwtKeys:
    """The keys of one file, or of one URL."""

    def __init__(self, keys: Sequence[Key], data: bytes) -> None:
        self._keys = keys
        self._data = data  # what it was read from: equal texts make equal keys

    def __repr__(self) -> str:
        return f"<JwtKeys {len(self._keys)}>"

    def __len__(self) -> int:
        return len(self._keys)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, JwtKeys) and self._data == other._data

    __hash__ = None  # type: ignore[assignment]  # never a key

    def claims_of(self, shown: str, settings: JwtConfig) -> Mapping[str, Any]:
        """Return the claims of a token that is valid now.

        Raises NotAuthenticated with the reason, which contains no part of the token; UnknownKey if
        other keys could make it valid.
        """
        try:
            # Only to choose a key. Nothing of it is believed: decode() below checks all.
            header = jwt.get_unverified_header(shown)
        except (jwt.InvalidTokenError, RecursionError):
            raise NotAuthenticated("the token is no JSON Web Token") from None
        algorithm = header.get("alg")
        if algorithm not in settings.algorithms:
            allowed = ", ".join(settings.algorithms)
            raise NotAuthenticated(
                f"the token is signed with an algorithm other than {allowed}, or not at all"
            )
        key_id = header.get("kid")
        wrong: NotAuthenticated | None = None
        for key in self._fitting(str(algorithm), key_id):
            try:
                claims: Mapping[str, Any] = jwt.decode(
                    shown,
                    key.key,
                    # One, which the configuration allows: "none" and a confused key type end there.
                    algorithms=[str(algorithm)],
                    audience=settings.audience,
                    issuer=settings.issuer,
                    leeway=settings.leeway,
                    # A token without an end could never be taken back.
                    options={"require": ["exp"]},
                )
            except jwt.InvalidSignatureError:
                # Only where an id tells that this is the key, no newer one can be meant.
                is_named = key_id is not None and key.id is not None
                if is_named or wrong is None:
                    kind = NotAuthenticated if is_named else UnknownKey
                    wrong = kind("the token's signature is not from a key known here")
            # Its claims are whatever their sender wrote, such as a date beyond all dates.
            except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
                raise NotAuthenticated(_reason(error, shown, settings)) from None
            else:
                return claims
        raise wrong or UnknownKey("the token is signed with a key that is not known here")

    def _fitting(self, algorithm: str, key_id: object) -> Iterator[Key]:
        for key in self._keys:
            # A key without an id may be the one that is named: many issuers leave ids out of files.
            if algorithm in key.algorithms and (key_id is None or key.id in (None, key_id)):
                yield key


def _reason(error: Exception, shown: str, settings: JwtConfig) -> str:
    if isinstance(error, jwt.ExpiredSignatureError):
        return f"the token expired{_when(shown, 'exp')}"
    if isinstance(error, jwt.ImmatureSignatureError):
        return f"the token is not valid yet{_when(shown, 'nbf')}"
    if isinstance(error, jwt.InvalidAudienceError):
        return f"the token is not for the audience {settings.audience!r}"
    if isinstance(error, jwt.InvalidIssuerError):
        return f"the token is not from the issuer {settings.issuer!r}"
    if isinstance(error, jwt.MissingRequiredClaimError):
        return f"the token has no claim {error.claim}"
    return "the token is malformed"


def _when(shown: str, claim: str) -> str:
    """Return the date in a claim, for an error about a token with a valid signature."""
    try:
        # Verified a moment ago; decode() keeps the claims to itself where they are out of date.
        value = jwt.decode(shown, options={"verify_signature": False})[claim]
        return f" ({claim} {utc_text(float(value))})"
    except (jwt.InvalidTokenError, KeyError, ValueError, TypeError, OverflowError, OSError):
        return ""


def until_s(claims: Mapping[str, Any], settings: JwtConfig) -> float:
    """Return until when these claims are valid, in seconds since 1970 UTC."""
    # As decode() judges it, so that what is remembered ends when the token does.
    return float(claims["exp"]) + settings.leeway


def identity_of(claims: Mapping[str, Any]) -> str:
    """Return the identity of the token's bearer, for logs and limits."""
    subject = claims.get("sub") or claims.get("jti") or "without a subject"
    issuer = claims.get("iss")
    return f"jwt {subject}" + (f" of {issuer}" if issuer else "")


def grant_of(claims: Mapping[str, Any], settings: JwtConfig) -> tuple[Role | None, Instances]:
    """Return what these claims allow, and where; None: nothing."""
    if settings.rules:
        for rule in settings.rules:
            if any(fnmatch.fnmatchcase(each, rule.match) for each in _texts(claims, rule.claim)):
                return Role.named(rule.role), Instances(rule.instances)
        return None, Instances()
    names = {role.name.lower(): role for role in Role}
    roles = [names[each] for each in _texts(claims, settings.role_claim) if each in names]
    patterns = list(_texts(claims, settings.instances_claim))
    # No claim means every instance; a claim of another type names none.
    if _value(claims, settings.instances_claim) is None:
        patterns = ["*"]
    # The roles are in a row, and each includes those before it.
    return max(roles, default=None), Instances(patterns[:_PATTERNS_MAX])


def _texts(claims: Mapping[str, Any], name: str) -> Iterator[str]:
    value = _value(claims, name)
    for each in value if isinstance(value, list) else [value]:
        if isinstance(each, str):
            yield each


def _value(claims: Mapping[str, Any], name: str) -> Any:
    # Claims of some issuers are URLs, with dots in them, so the whole name comes first.
    if name in claims:
        return claims[name]
    value: Any = claims
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def parse_keys(data: bytes, settings: JwtConfig, where: str) -> JwtKeys:
    """Read a key file: a JWKS, a PEM public key or certificate, or a shared secret.

    Raises ConfigError, which begins with `where`, for one without a key for these algorithms.
    """
    if len(data) > KEYS_MAX_BYTES:
        raise ConfigError(f"{where}: larger than {KEYS_MAX_BYTES} bytes")
    text = data.strip()
    if text.startswith(b"{"):
        jwks = _jwks_in(text, where)
        keys = [key for at, each in jwks for key in _read_jwk(each, settings.algorithms, at)]
    elif b"-----BEGIN" in text:
        keys = [_read_pem(text, settings.algorithms, where)]
    else:
        keys = [_read_secret(text, settings.algorithms, where)]
    return _known_by(keys, data, settings, where)


def parse_published(data: bytes, settings: JwtConfig, where: str) -> JwtKeys:
    """Read a JWKS that an issuer publishes; keys in it that are of no use here are left out.

    Raises ConfigError, which begins with `where`, for one without a key for these algorithms.
    """
    keys: list[Key] = []
    for at, each in _jwks_in(data, where):
        # The issuer publishes keys for others, too, and changes them without asking.
        with suppress(ConfigError):
            keys += _read_jwk(each, settings.algorithms, at)
    return _known_by(keys, data, settings, where)


def _known_by(keys: Sequence[Key], data: bytes, settings: JwtConfig, where: str) -> JwtKeys:
    if not keys:
        wanted = ", ".join(settings.algorithms)
        raise ConfigError(f"{where}: no key for {wanted} in it; see algorithms")
    return JwtKeys(keys, data)


def _jwks_in(text: bytes, where: str) -> list[tuple[str, dict[str, Any]]]:
    """Return each key of a JWKS, after its place for messages."""
    try:
        facts = json.loads(text)
        keys = facts.get("keys", [facts]) if isinstance(facts, dict) else None
        if not isinstance(keys, list) or not all(isinstance(key, dict) for key in keys):
            raise ValueError("keys is not a list of mappings")
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: not a JWKS: {error}") from None
    if len(keys) > _KEYS_MAX:
        raise ConfigError(f"{where}: {len(keys)} keys; at most {_KEYS_MAX} are allowed")
    return [(f"{where}: keys[{at}]", each) for at, each in enumerate(keys)]


def _read_jwk(facts: dict[str, Any], algorithms: Sequence[str], where: str) -> Iterator[Key]:
    """Yield the key once for each family of algorithms that it can be used with."""
    # RFC 7517, 4.2: a key for encryption does not verify.
    if facts.get("use", "sig") != "sig":
        return
    # RFC 7518 and 8037: the private part of RSA, EC and OKP keys alike.
    if "d" in facts:
        raise ConfigError(f"{where}: a private key. It belongs to the issuer alone: take it out")
    if facts.get("kty") not in ("RSA", "EC", "OKP", "oct"):
        return
    named = facts.get("alg")
    for family in sorted({name[:2] for name in algorithms}):
        fitting = [x for x in algorithms if x.startswith(family) and named in (None, x)]
        # A key of one kind must never be taken for another: a public key is no HMAC secret.
        if not fitting or _FAMILY_OF.get(family) != facts["kty"]:
            continue
        try:
            key = get_default_algorithms()[fitting[0]].from_jwk(facts)
        except (jwt.InvalidKeyError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{where}: not a usable key ({error})") from None
        if usable := _usable(key, fitting, where):
            identifier = facts.get("kid")
            yield Key(identifier if isinstance(identifier, str) else None, usable, key)


_FAMILY_OF = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP", "HS": "oct"}


def _read_pem(text: bytes, algorithms: Sequence[str], where: str) -> Key:
    if b"PRIVATE KEY" in text:
        raise ConfigError(
            f"{where}: a private key. It belongs to the issuer alone: put the public key here"
        )
    # The classical confusion: whoever has the public key could sign with it.
    if algorithms[0].startswith("HS"):
        raise ConfigError(
            f"{where}: a public key, which everybody may know, cannot be the secret of "
            f"{algorithms[0]}; see algorithms"
        )
    try:
        if b"CERTIFICATE" in text:
            key: Any = x509.load_pem_x509_certificate(text).public_key()
        else:
            key = serialization.load_pem_public_key(text)
    except (ValueError, x509.InvalidVersion) as error:
        raise ConfigError(f"{where}: not a PEM public key or certificate ({error})") from None
    usable = _usable(key, algorithms, where)
    if not usable:
        raise ConfigError(f"{where}: its kind of key is not for {', '.join(algorithms)}")
    return Key(None, usable, key)


def _read_secret(text: bytes, algorithms: Sequence[str], where: str) -> Key:
    if not algorithms[0].startswith("HS"):
        raise ConfigError(f"{where}: neither a JWKS nor a PEM public key or certificate")
    usable = _usable(text, algorithms, where)
    return Key(None, usable, text)


def _usable(key: Any, algorithms: Sequence[str], where: str) -> frozenset[str]:
    """Return those of the algorithms that this key is for. Raises ConfigError for a weak one."""
    if isinstance(key, bytes):
        if len(key) < _SECRET_MIN_BYTES:
            raise ConfigError(
                f"{where}: a secret of {len(key)} bytes; at least {_SECRET_MIN_BYTES} are needed, "
                "e.g. from `openssl rand -base64 48`"
            )
        return frozenset(name for name in algorithms if name.startswith("HS"))
    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size not in _RSA_BITS:
            raise ConfigError(f"{where}: an RSA key of {key.key_size} bits; 2048 to 8192 are taken")
        return frozenset(name for name in algorithms if name.startswith(("RS", "PS")))
    if isinstance(key, ec.EllipticCurvePublicKey):
        return frozenset(
            name for name in algorithms if isinstance(key.curve, _CURVES.get(name, type(None)))
        )
    if isinstance(key, ed25519.Ed25519PublicKey):
        return frozenset(name for name in algorithms if name == "EdDSA")
    return frozenset()
