"""The keys about who may do what on a listener: certificates, tokens, and rules about them."""

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, model_validator

from federation.config.certificate_patterns import NamePattern, SubjectPattern
from federation.config.section import Section
from federation.config.types import Address, Duration, FilePath, absolute

RoleName = Literal["pull", "push", "peer", "admin"]
Algorithm = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
    "HS256", "HS384", "HS512",
]  # fmt: skip
Pattern = Annotated[str, Field(min_length=1, max_length=1000)]

_HEADER = re.compile(r"[a-z0-9_-]{1,100}")
_FINGERPRINT = re.compile(r"(?:[0-9A-F]{2}:){31}[0-9A-F]{2}")


def _fingerprint(text: str) -> str:
    # Tools print them with and without colons, in both cases.
    plain = text.upper().replace(":", "")
    colons = ":".join(plain[at : at + 2] for at in range(0, len(plain), 2))
    if not _FINGERPRINT.fullmatch(colons):
        raise ValueError(
            "a fingerprint is 32 bytes in hex, as `openssl x509 -fingerprint -sha256` prints it"
        )
    return colons


def _subject(text: str) -> str:
    SubjectPattern(text)
    return text


def _name(text: str) -> str:
    NamePattern(text)
    return text


def _network(text: str) -> str:
    try:
        # Strictly: 10.0.0.5/24 may mean one address or a network.
        return str(ipaddress.ip_network(text))
    except ValueError:
        raise ValueError(
            "an address or a network, e.g. 127.0.0.1, 10.0.0.0/24 or ::1, with no bit set behind "
            "its length"
        ) from None


def _header(name: str) -> str:
    # gRPC keeps the first for itself, and sends the second as base64.
    if not _HEADER.fullmatch(name) or name.startswith("grpc-") or name.endswith("-bin"):
        raise ValueError("a header is small letters, digits, - and _; neither grpc-... nor ...-bin")
    return name


def _file_or_url(value: Any, info: ValidationInfo) -> Any:
    if not isinstance(value, str | Path):
        raise ValueError("must be a path or an https URL")  # noqa: TRY004 - pydantic's way
    if "://" not in str(value):
        # Before any look at it as a URL: a path may hold a colon.
        return absolute(Path(value), info)
    try:
        parts = urlsplit(str(value))
        # From another machine, plain HTTP could be answered by anybody on the way with other keys.
        is_local = Address(parts.hostname or "", parts.port or 0).is_loopback
    except ValueError:
        raise ValueError("not a URL") from None
    if parts.scheme != "https" and not (parts.scheme == "http" and is_local):
        raise ValueError(
            "keys decide who is let in, so their URL is https, or http on this machine itself"
        )
    if not parts.hostname or parts.username is not None or parts.fragment:
        raise ValueError("a URL of keys is https://HOST/PATH, without a password or a fragment")
    return parts.geturl()  # its scheme in small letters, as whoever fetches compares it


class GrantRule(Section):
    """What a rule allows, and where."""

    role: RoleName = Field(description="what they may do; each role includes those before it")
    instances: list[str] = Field(
        default=["*"],
        min_length=1,
        max_length=1000,
        description="patterns of the instance names that this applies to",
    )


class ClientRule(GrantRule):
    """What clients with matching certificates may do."""

    subject: Annotated[Pattern, AfterValidator(_subject)] | None = Field(
        default=None,
        description="the subject as `openssl x509 -subject -nameopt RFC2253` prints it, with "
        "patterns (*, ?, [...]) as values, e.g. CN=ci-*,O=Example; a part that is * alone stands "
        "for any parts",
    )
    name: Annotated[Pattern, AfterValidator(_name)] | None = Field(
        default=None,
        description="pattern of a subject alternative name: dns:PATTERN (also without dns:), "
        "email:PATTERN, uri:PATTERN, ip:ADDRESS or NETWORK",
    )
    fingerprint: Annotated[str, AfterValidator(_fingerprint)] | None = Field(
        default=None, description="SHA-256 of the certificate, in hex"
    )

    @model_validator(mode="after")
    def _says_whom(self) -> Self:
        # A rule without a condition would match everybody, most likely by a mistyped key.
        if self.subject is None and self.name is None and self.fingerprint is None:
            raise ValueError('give subject, name or fingerprint; subject: "*" is everybody')
        return self


class JwtRule(GrantRule):
    """What tokens with a matching claim may do."""

    claim: Annotated[str, Field(min_length=1, max_length=200)] = Field(
        description="the claim to match; a.b is b within a"
    )
    match: Pattern = Field(
        description="pattern (*, ?, [...]) of its value, or of one of its values if it is a list"
    )


class JwtConfig(Section):
    """JSON Web Tokens that are accepted."""

    keys: Annotated[Path | str, BeforeValidator(_file_or_url)] = Field(
        description="the https URL of a JWKS, or a file: a JWKS, a PEM public key or certificate, "
        "or the secret of HS256 to HS512"
    )
    keys_server_cert: FilePath | None = Field(
        default=None,
        description="PEM file: the authorities that the certificate at the URL must be signed by; "
        "default: the system's",
    )
    keys_refresh: Duration = Field(
        default=3600.0,
        ge=10,
        le=86400,
        description="how often the URL is asked; also, at most every 10 s, when a token is signed "
        "with a key that is not known",
    )
    keys_max_age: Duration = Field(
        default=86400.0,
        le=30 * 86400,
        description="how long keys are used after the URL has given them last; then no JSON Web "
        "Token is accepted until it answers",
    )
    algorithms: list[Algorithm] = Field(
        min_length=1,
        description="the accepted signature algorithms: RS256 to RS512, PS256 to PS512, ES256 to "
        "ES512, EdDSA, HS256 to HS512; other tokens are refused",
    )
    audience: Annotated[str, Field(min_length=1, max_length=1000)] = Field(
        description="the value that the claim aud must have or include"
    )
    issuer: str | None = Field(
        default=None, description="the value that the claim iss must have; default: any"
    )
    leeway: Duration = Field(
        default=30.0, le=600, description="tolerated difference to the issuer's clock"
    )
    role_claim: Annotated[str, Field(min_length=1)] = Field(
        default="role",
        description="without rules: the claim that names the role, or a list of roles",
    )
    instances_claim: Annotated[str, Field(min_length=1)] = Field(
        default="instances",
        description="without rules: the claim with patterns of instance names; absent: all",
    )
    rules: list[JwtRule] = Field(
        default=[],
        max_length=1000,
        description="the first rule that matches decides; a token without a match may do nothing",
    )

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        shared = [name for name in self.algorithms if name.startswith("HS")]
        # With both, whoever knows the public key could sign with it as the shared secret.
        if shared and len(shared) < len(self.algorithms):
            raise ValueError(
                "algorithms: HS256 to HS512 (a shared secret) and others (a public key) exclude "
                "each other"
            )
        return self

    @model_validator(mode="after")
    def _url_of_public_keys(self) -> Self:
        if self.keys_url is None:
            if self.keys_server_cert is not None:
                raise ValueError("keys-server-cert is for an https URL in keys")
            return self
        if self.algorithms[0].startswith("HS"):
            raise ValueError("a URL gives public keys: the secret of HS256 to HS512 is in a file")
        if self.keys_server_cert is not None and self.keys_url.startswith("http:"):
            raise ValueError("keys-server-cert is for an https URL in keys")
        if self.keys_max_age < self.keys_refresh:
            raise ValueError("keys-max-age is less than keys-refresh: keys would end in between")
        return self

    @property
    def keys_url(self) -> str | None:
        """Where the keys are fetched from; None: they are in a file."""
        return self.keys if isinstance(self.keys, str) else None

    @property
    def keys_file(self) -> Path | None:
        """The file with the keys; None: they come from a URL."""
        return self.keys if isinstance(self.keys, Path) else None


class ProxyConfig(Section):
    """A reverse proxy that terminates the clients' TLS and passes on their certificates."""

    addresses: list[Annotated[str, AfterValidator(_network)]] = Field(
        min_length=1,
        max_length=100,
        description="addresses and networks of the proxy; from others the header is ignored",
    )
    header: Annotated[str, AfterValidator(_header)] = Field(
        default="x-client-cert",
        description="the header with the client's certificate: PEM, percent-encoded, as nginx's "
        "$ssl_client_escaped_cert is",
    )
    client_certs: FilePath = Field(
        description="PEM file: the certificates of the clients that are allowed in; no others are"
    )
    secret: FilePath | None = Field(
        default=None,
        description="file with the secrets that the proxy may send in secret-header, one a line, "
        "so that no other program at its address can pass for it",
    )
    secret_header: Annotated[str, AfterValidator(_header)] = Field(
        default="x-proxy-secret", description="the header with the secret"
    )

    @model_validator(mode="after")
    def _differ(self) -> Self:
        if self.secret_header == self.header:
            raise ValueError("secret-header must differ from header")
        return self


class ListenerAuthConfig(Section):
    """How callers of a listener are authenticated, and what they may do."""

    anonymous: Literal["none", "pull", "push"] = Field(
        default="none", description="what callers without a token may do"
    )
    clients: list[ClientRule] = Field(
        default=[],
        max_length=1000,
        description="what callers with a certificate of tls.client-certs or tls.client-ca may do; "
        "the first rule that matches decides, a certificate without a match may do nothing; "
        "empty: push",
    )
    tokens: FilePath | None = Field(
        default=None, description="file that `federation token new` adds tokens to"
    )
    jwt: JwtConfig | None = Field(default=None, description="JSON Web Tokens that are accepted")
    proxy: ProxyConfig | None = Field(
        default=None, description="a reverse proxy that passes on clients' certificates"
    )

    @property
    def takes_tokens(self) -> bool:
        """Whether callers can authenticate with a token of either kind."""
        return self.tokens is not None or self.jwt is not None
