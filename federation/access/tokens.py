"""Static tokens: making them, the file that keeps their hashes, and comparing a token of a call.

A token is fed_ID_SECRET; the ID finds its line in the file, the secret is 32 random bytes. That is
why a plain SHA-256 is enough: 256 random bits cannot be guessed, so a slow hash would gain nothing.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, NamedTuple

from pydantic import AwareDatetime, Field, ValidationError

from federation.access.rights import Instances, Role
from federation.config.auth import Pattern, RoleName
from federation.config.complaints import allowed
from federation.config.section import Section
from federation.config.types import Name
from federation.core.errors import ConfigError

TOKENS_MAX_BYTES = 16 * 2**20
PREFIX = "fed_"
_ID_BYTES, _SECRET_BYTES = 6, 32
RANDOM_BYTES = _ID_BYTES + _SECRET_BYTES

_TOKEN = re.compile(r"fed_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")
_ABSENT = bytes(32)
_LINE_SHOWN = "one JSON object, as `federation token new` writes it"


class Token(NamedTuple):
    """One token of the file."""

    id: str
    sha256: bytes
    role: Role
    instances: Instances
    name: str
    until_s: float | None  # seconds since 1970 UTC; None: for ever

    @property
    def identity(self) -> str:
        """The identity of its bearer, for logs and limits."""
        return f"token {self.name or self.id}" + (f" ({self.id})" if self.name else "")


class TokenTable:
    """The tokens of one file."""

    def __init__(self, tokens: Mapping[str, Token], data: bytes) -> None:
        self._tokens = tokens
        self._data = data  # what it was read from: equal texts make equal tables

    def __repr__(self) -> str:
        return f"<TokenTable {len(self._tokens)}>"

    def __len__(self) -> int:
        return len(self._tokens)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TokenTable) and self._data == other._data

    __hash__ = None  # type: ignore[assignment]  # never a key

    def find(self, shown: str) -> Token | None:
        """Return the matching token, expired or not; None: there is none.

        The time it takes does not depend on how much of the secret is right.
        """
        match = _TOKEN.fullmatch(shown)
        token = self._tokens.get(match[1]) if match else None
        # Compared in any case, so an id that does not exist takes as long as a wrong secret.
        right = hmac.compare_digest(_hash(shown), token.sha256 if token else _ABSENT)
        return token if right else None

    def __iter__(self) -> Iterator[Token]:
        return iter(self._tokens.values())


class _Line(Section):
    id: Annotated[str, Field(pattern="^[0-9a-f]{12}$")]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    role: RoleName
    instances: list[Pattern] = Field(default=["*"], min_length=1, max_length=1000)
    name: Name | None = None
    created: AwareDatetime | None = None
    expires: AwareDatetime | None = None


class NewToken(NamedTuple):
    """A new token; its text is not stored anywhere."""

    text: str
    id: str
    line: str  # for the file, without its newline

    def __repr__(self) -> str:
        return f"<NewToken {self.id}>"


def make_token(
    role: Role,
    random: bytes,
    now_s: float,
    *,
    instances: tuple[str, ...] = ("*",),
    name: str | None = None,
    expires_after_s: float | None = None,
) -> NewToken:
    """Make a token from RANDOM_BYTES random bytes."""
    if len(random) != RANDOM_BYTES:
        raise ValueError(f"{len(random)} random bytes, not {RANDOM_BYTES}")
    number = random[:_ID_BYTES].hex()
    # Without padding and without characters that shells, URLs or headers treat specially.
    secret = base64.urlsafe_b64encode(random[_ID_BYTES:]).decode().rstrip("=")
    text = f"{PREFIX}{number}_{secret}"
    facts: dict[str, Any] = {
        "id": number,
        "sha256": _hash(text).hex(),
        "role": role.name.lower(),
        "instances": list(instances),
        "name": name,
        "created": _date(now_s),
        "expires": None if expires_after_s is None else _date(now_s + expires_after_s),
    }
    # Keys without a value are left out, so the file stays readable for people.
    line = json.dumps({key: value for key, value in facts.items() if value is not None})
    return NewToken(text, number, line)


def parse_tokens(data: bytes, where: str) -> TokenTable:
    """Read a file; empty lines and those that begin with # are skipped. None at all is fine.

    Raises ConfigError, which begins with `where` and names the line that is wrong; it never
    repeats the line, which could contain a token.
    """
    if len(data) > TOKENS_MAX_BYTES:
        raise ConfigError(f"{where}: larger than {TOKENS_MAX_BYTES} bytes")
    found: dict[str, Token] = {}
    for number, line in enumerate(data.split(b"\n"), 1):
        text = line.strip()
        if not text or text.startswith(b"#"):
            continue
        place = f"{where}:{number}"
        token = _read_line(text, place)
        # Their order would decide which line counts, and one of them may be meant to be gone.
        if token.id in found:
            raise ConfigError(f"{place}: id {token.id} is there twice; take one of the lines out")
        found[token.id] = token
    return TokenTable(found, data)


def without_token(data: bytes, number: str) -> bytes:
    """Return a good file's text without the line of this token; all else stays as it is."""
    kept = []
    for line in data.split(b"\n"):
        text = line.strip()
        # In a good file every such line is JSON with an id.
        if text and not text.startswith(b"#") and json.loads(text)["id"] == number:
            continue
        kept.append(line)
    return b"\n".join(kept)


def _read_line(text: bytes, place: str) -> Token:
    # A token that was pasted here is as good as published to whoever reads backups.
    if text.startswith(PREFIX.encode()):
        raise ConfigError(
            f"{place}: a token itself, which does not belong here: only its hash does. Take it "
            "out, and make a new one with `federation token new`"
        )
    try:
        facts = json.loads(text)
    except (ValueError, RecursionError):
        raise ConfigError(f"{place}: not {_LINE_SHOWN}") from None
    if not isinstance(facts, dict):
        raise ConfigError(f"{place}: not {_LINE_SHOWN}")
    try:
        line = _Line.model_validate(facts, by_alias=True, by_name=False)
    except ValidationError as error:
        (first, *_) = error.errors(include_url=False)
        key = ".".join(map(str, first["loc"]))[:100]
        says = "unknown key" if first["type"] == "extra_forbidden" else allowed(first)
        if first["type"] == "missing":
            says = "missing"
        raise ConfigError(f"{place}: {key}: {says}; a line is {_LINE_SHOWN}") from None
    return Token(
        line.id,
        bytes.fromhex(line.sha256),
        Role.named(line.role),
        Instances(line.instances),
        line.name or "",
        line.expires.timestamp() if line.expires else None,
    )


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


def _date(wall_s: float) -> str:
    return datetime.fromtimestamp(wall_s, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
