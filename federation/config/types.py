"""The types of values in the configuration file: sizes, durations, addresses, paths.

Each reads what people write; its error message says what is allowed.
"""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo

Location = tuple[str | int, ...]  # of a key, e.g. ("listeners", 0, "address")

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(?:([KMGT])(?:i?B)?|B)?", re.IGNORECASE)
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(ms|s|m|h|d)?")
_SIZE_UNIT = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_DURATION_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION_MAX_S = 3650 * 86400.0  # ten years: far above use, far below what a timer takes
_SIZE_MAX = 2**62  # more than any disk, and any sum of two fits in 63 bits
_SIZE_HELP = "a size is a whole number of bytes, or a number with K, M, G or T, e.g. 500G"
_DURATION_HELP = "a duration is a number of seconds, or a number with ms, s, m, h or d, e.g. 90s"
_ADDRESS_HELP = 'an address is host:port, e.g. 127.0.0.1:8980 or "[::1]:8980", port 0 to 65535'
_SHARE = re.compile(r"([0-9]{1,3}(?:\.[0-9]+)?)\s*%")
_WINDOW = re.compile(r"([01][0-9]|2[0-3]):[0-5][0-9]-([01][0-9]|2[0-3]):[0-5][0-9]")
_HOST_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")


RATE_MIN_BYTES_S = 64 * 1024  # with less, a blob would seem to stall


class Address(NamedTuple):
    """A host (name or IP address, without brackets) and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only programs of this machine can connect."""
        # RFC 6761, 6.3: it always means this machine.
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def is_ip(self) -> bool:
        """Whether the host is an IP address, not a name."""
        return _is_ip(self.host, 4) or _is_ip(self.host, 6)

    @property
    def is_wildcard(self) -> bool:
        """Whether this means every address of the machine."""
        return self.host in ("0.0.0.0", "::")  # noqa: S104 - compared, not bound


def parse_size(value: Any) -> int:
    """Turn "10G", "16K" or a number of bytes into bytes (units are powers of 1024).

    Raises ValueError, whose text says what is allowed.
    """
    # bool is an int in Python, and `quota: yes` is no size.
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    # Half a byte is nothing that could be meant.
    if match is None or ("." in match[1] and match[2] is None):
        raise ValueError(_SIZE_HELP)
    whole, _, part = match[1].partition(".")
    unit = _SIZE_UNIT[match[2].upper()] if match[2] else 1
    # In whole numbers: a float loses bytes from 2^53 on.
    return int(whole) * unit + (int(part) * unit // 10 ** len(part) if part else 0)


def format_size(size_bytes: int) -> str:
    """Return the shortest text that parse_size reads back as this number."""
    for letter in "TGMK":
        if size_bytes and size_bytes % _SIZE_UNIT[letter] == 0:
            return f"{size_bytes // _SIZE_UNIT[letter]}{letter}"
    return str(size_bytes)


def parse_duration(value: Any) -> float:
    """Turn "90s", "10m", "1h", "200ms" or a number of seconds into seconds.

    Raises ValueError, whose text says what is allowed.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    match = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError(_DURATION_HELP)
    return float(match[1]) * _DURATION_UNIT_S[match[2] or "s"]


def format_duration(seconds: float) -> str:
    """Return a text that parse_duration reads back as this number of seconds."""
    for unit in ("d", "h", "m"):
        count, rest = divmod(seconds, _DURATION_UNIT_S[unit])
        if count and not rest:
            return f"{count:g}{unit}"
    return f"{seconds:g}s"


def parse_address(text: str) -> Address:
    """Split "host:port" or "[v6]:port".

    Raises ValueError, whose text says what is allowed.
    """
    # The last colon: an IPv6 address has more of them.
    host, colon, port = text.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise ValueError(_ADDRESS_HELP)
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        if not _is_ip(host, 6):
            raise ValueError(_ADDRESS_HELP)
    elif not (_is_ip(host, 4) or _is_host_name(host)):
        raise ValueError(_ADDRESS_HELP + "; for every address of the machine say 0.0.0.0 or [::]")
    return Address(host, int(port))


def _is_ip(text: str, version: int) -> bool:
    try:
        return ipaddress.ip_address(text).version == version
    except ValueError:
        return False


def _is_host_name(text: str) -> bool:
    labels = text.removesuffix(".").split(".")
    if len(text) > 253 or labels[-1].isdigit():  # 1.2.3.400 is a mistyped address, not a name
        return False
    return all(_HOST_LABEL.fullmatch(label) for label in labels)


def _check_address(text: str) -> str:
    return str(parse_address(text))


def check_window(text: str) -> str:
    """Return the text if it is HH:MM-HH:MM. Raises ValueError, whose text says what is allowed."""
    if not _WINDOW.fullmatch(text):
        raise ValueError("a window is HH:MM-HH:MM, for example 20:00-06:00")
    return text


def check_share(text: object) -> str:
    """Return the text if it is a size, or a share as 25%. Raises ValueError."""
    share = str(text)
    # Only for its checks.
    share_of(share, 0)
    return share


def share_of(text: str, whole_bytes: int) -> int:
    """Return how many bytes a share of something is, or a size: at most the whole, for a share.

    Raises ValueError, whose text says what is allowed.
    """
    match = _SHARE.fullmatch(text.strip())
    if match is None:
        return parse_size(text)
    percent = float(match[1])
    if percent > 100:
        raise ValueError("a share is at most 100%")
    return int(whole_bytes * percent / 100)


def absolute(path: Path, info: ValidationInfo) -> Path:
    """Make a path absolute; relative ones start at the context's "base", else at the cwd."""
    base = (info.context or {}).get("base", Path.cwd())
    # Every system call would fail later, with a message that names no key.
    if "\0" in str(path):
        raise ValueError("a path cannot contain a NUL byte")
    try:
        return Path(base, path.expanduser())
    except RuntimeError:
        raise ValueError("the home folder behind ~ is not known; write the whole path") from None


def _printable(text: str) -> str:
    if not text.isprintable() or text != text.strip():
        raise ValueError("a name has printable characters only, and no space around it")
    return text


Size = Annotated[int, BeforeValidator(parse_size), Field(ge=0, le=_SIZE_MAX)]
Duration = Annotated[
    float,
    BeforeValidator(parse_duration),
    Field(ge=0, le=_DURATION_MAX_S, allow_inf_nan=False),
]
Count = Annotated[int, Field(strict=True)]
Fraction = Annotated[float, Field(strict=True, gt=0, le=1, allow_inf_nan=False)]
Flag = Annotated[bool, Field(strict=True)]
AddressText = Annotated[str, AfterValidator(_check_address)]
ShareText = Annotated[str, BeforeValidator(check_share)]  # share_of() reads it
WindowText = Annotated[str, AfterValidator(check_window)]
FilePath = Annotated[Path, AfterValidator(absolute)]
InstanceName = Annotated[str, Field(max_length=1000)]
Name = Annotated[str, AfterValidator(_printable), Field(min_length=1, max_length=100)]
