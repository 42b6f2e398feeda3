"""What people name for a node to fetch: a blob, the result of an action, or an asset."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from federation.core.digest import Digest, DigestFunction

URI_MAX_BYTES = 8 * 1024
_DIGEST = re.compile(r"(action\s+)?(?:(sha256|blake3)/)?([0-9a-fA-F]{64})/([0-9]{1,18})")
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[^\x00-\x20\x7f-\x9f]+")
_HELP = "give a URI, a digest as HASH/SIZE or blake3/HASH/SIZE, or: action HASH/SIZE"


class Wanted(NamedTuple):
    """One name: the URI of an asset, or a digest, of a blob or of an action whose result it is."""

    uri: str = ""
    digest: Digest | None = None
    is_action: bool = False

    def __str__(self) -> str:
        return self.uri or f"{'action ' if self.is_action else ''}{self.digest}"

    @property
    def blob(self) -> Digest | None:
        """The digest, if it is that of a blob."""
        return None if self.is_action else self.digest


def parse_wanted(text: str) -> Wanted:
    """Read one name. Raises ValueError, whose text says what is allowed."""
    # Lists come from other programs, with spaces and line ends of all kinds.
    text = text.strip()
    if (match := _DIGEST.fullmatch(text)) is not None:
        function = DigestFunction[(match[2] or "sha256").upper()]
        digest = Digest(bytes.fromhex(match[3]), int(match[4]), function)
        return Wanted(digest=digest, is_action=match[1] is not None)
    # A word without a scheme is a mistyped digest more often than a URI.
    if _URI.fullmatch(text) is None or len(text.encode()) > URI_MAX_BYTES:
        raise ValueError(f"{text[:100]!r} cannot be fetched: {_HELP}")
    return Wanted(uri=text)


def parse_list(lines: Iterable[str]) -> list[Wanted]:
    """Read one name a line; empty lines and those that begin with # are left out.

    Raises ValueError with the number of the line.
    """
    found = []
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        try:
            found.append(parse_wanted(text))
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
    return found
