"""Patterns of what a certificate says of its owner: its subject, and its alternative names.

A subject is compared part by part (RFC 4514's relative distinguished names), so that no value of a
part can pass for two parts. An alternative name is compared with patterns of its own kind.
"""

from __future__ import annotations

import fnmatch
import ipaddress
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

# What RFC 4514 and `openssl x509 -nameopt RFC2253` call the types of attributes.
_TYPES = {
    "CN": "2.5.4.3", "SN": "2.5.4.4", "SERIALNUMBER": "2.5.4.5", "C": "2.5.4.6", "L": "2.5.4.7",
    "ST": "2.5.4.8", "S": "2.5.4.8", "STREET": "2.5.4.9", "O": "2.5.4.10", "OU": "2.5.4.11",
    "TITLE": "2.5.4.12", "GN": "2.5.4.42", "UID": "0.9.2342.19200300.100.1.1",
    "DC": "0.9.2342.19200300.100.1.25", "EMAILADDRESS": "1.2.840.113549.1.9.1",
    "E": "1.2.840.113549.1.9.1",
}  # fmt: skip
_OID = re.compile(r"(?:OID\.)?([0-2](?:\.[0-9]+)+)", re.IGNORECASE)
_HEX = re.compile(r"(?:\\[0-9A-Fa-f]{2})+")
_WILD = "*?["
_TO_BE_ESCAPED = '";<>'
_ANY = "*"
_KINDS = ("dns", "email", "uri", "ip")

Attribute = tuple[str, str]  # an object identifier with dots, and its value
Parts = Sequence[Sequence[Attribute]]  # of a subject, the most specific first, as it is written


class _Value(NamedTuple):
    oid: str
    pattern: re.Pattern[str]


class SubjectPattern:
    """A pattern such as CN=ci-*,O=Example; a part that is * alone stands for any parts, or none."""

    def __init__(self, text: str) -> None:
        """Raises ValueError, which says what is wrong with it."""
        self.text = text
        self._parts: list[list[_Value] | None] = [
            None if part == [_ANY] else [_value(each, text) for each in part]
            for part in _split(text)
        ]

    def __repr__(self) -> str:
        return f"<SubjectPattern {self.text}>"

    def matches(self, parts: Parts) -> bool:
        """Whether a subject has just these parts in this order."""
        # All places at once: trying them one after the other takes exponential time with many *.
        reached = {0}  # how many parts may be behind what was compared so far
        for wanted in self._parts:
            if wanted is None:
                reached = set(range(min(reached, default=len(parts) + 1), len(parts) + 1))
            else:
                reached = {at + 1 for at in reached if at < len(parts) and _fits(wanted, parts[at])}
        return len(parts) in reached


def _fits(wanted: Sequence[_Value], part: Sequence[Attribute]) -> bool:
    values = dict(part)
    if len(values) != len(part) or len(part) != len(wanted):
        return False  # one type twice in a part: nobody can tell which is meant
    return all(
        each.oid in values and each.pattern.fullmatch(values[each.oid]) is not None
        for each in wanted
    )


def _split(text: str) -> Iterator[list[str]]:
    """Yield the parts, each as its attributes, with their escapes."""
    part: list[str] = []
    begin = at = 0
    while at < len(text):
        # What is escaped separates nothing.
        if text[at] == "\\":
            at += 1
        elif text[at] in _TO_BE_ESCAPED:
            raise ValueError(f"{text!r}: write \\{text[at]} for {text[at]}, as RFC 4514 does")
        elif text[at] in ",+":
            part.append(_stripped(text[begin:at]))
            if text[at] == ",":
                yield part
                part = []
            begin = at + 1
        at += 1
    part.append(_stripped(text[begin:]))
    yield part


def _stripped(text: str) -> str:
    """Drop spaces around, but for one at the end that is escaped."""
    stripped = text.strip(" ")
    # An even number of backslashes are backslashes, and escape no space.
    escapes = len(stripped) - len(stripped.rstrip("\\"))
    return f"{stripped} " if escapes % 2 and text.endswith(" ") else stripped


def _value(text: str, whole: str) -> _Value:
    name, is_there, pattern = text.partition("=")
    name = name.strip(" ")
    oid = _OID.fullmatch(name)
    found = oid[1] if oid else _TYPES.get(name.upper())
    if not is_there or found is None:
        raise ValueError(
            f"{whole!r}: {text!r} is no TYPE=VALUE with a type among {', '.join(_TYPES)} or an "
            "object identifier; a part that is * alone stands for any parts"
        )
    return _Value(found, _regex(pattern.lstrip(" "), whole))


def _regex(text: str, whole: str) -> re.Pattern[str]:
    """Read *, ?, [...] as wildcards, and what is escaped as itself."""
    if text.startswith("#"):
        raise ValueError(f"{whole!r}: values in hex (#...) are not known here; write \\# for #")
    plain, at = "", 0
    while at < len(text):
        # RFC 4514, 2.4: several pairs may be the bytes of one character of UTF-8.
        if found := _HEX.match(text, at):
            octets = bytes.fromhex(found[0].replace("\\", ""))
            try:
                plain += "".join(map(_literal, octets.decode()))
            except UnicodeDecodeError:
                raise ValueError(f"{whole!r}: {found[0]} is no UTF-8") from None
            at = found.end()
        elif text[at] == "\\":
            if at + 1 == len(text):
                raise ValueError(f"{whole!r}: a backslash without what it escapes")
            plain += _literal(text[at + 1])
            at += 2
        else:
            plain += text[at]
            at += 1
    return re.compile(fnmatch.translate(plain))


def _literal(character: str) -> str:
    # fnmatch has no other way to write one that means itself.
    return f"[{character}]" if character in _WILD else character


class NamePattern:
    """A pattern of one kind of alternative name: dns:, email:, uri:, ip:; without one of DNS."""

    def __init__(self, text: str) -> None:
        """Raises ValueError, which says what is wrong with it."""
        self.text = text
        kind, is_there, pattern = text.partition(":")
        if is_there and kind in _KINDS:
            self.kind, self._pattern = kind, pattern
        else:
            self.kind, self._pattern = "dns", text
            _check_is_dns(text)
        if not self._pattern:
            raise ValueError(f"{text!r}: no pattern behind {kind}:")
        if self.kind == "dns":
            # RFC 4343: names of DNS have no case.
            self._pattern = self._pattern.lower()
        self._network = _network(self._pattern) if self.kind == "ip" else None

    def __repr__(self) -> str:
        return f"<NamePattern {self.text}>"

    def matches(self, kind: str, name: str) -> bool:
        """Whether a name of this kind (dns, email, uri, ip) is meant."""
        if kind != self.kind:
            return False
        if self._network is not None:
            return ipaddress.ip_address(name) in self._network
        return fnmatch.fnmatchcase(name.lower() if kind == "dns" else name, self._pattern)


def _check_is_dns(text: str) -> None:
    """Refuse a pattern that is no DNS name; it may be from when patterns had no kinds."""
    if "@" in text:
        raise ValueError(f"{text!r}: a name without a kind is one of DNS; write email:{text}")
    if ":" in text or "/" in text:
        raise ValueError(
            f"{text!r}: a name without a kind is one of DNS; write uri:{text}, or ip:{text}"
        )
    if _network(text) is not None:
        raise ValueError(f"{text!r}: a name without a kind is one of DNS; write ip:{text}")


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        return None
