"""Digests as protobuf messages and resource names carry them, checked before anything uses them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial
from itertools import repeat
from operator import attrgetter
from struct import Struct
from typing import NoReturn, Protocol, TypeVar

from federation.core.digest import HASH_BYTES, MAX_SIZE_BYTES, Digest, DigestFunction
from federation.core.errors import InvalidRequest
from federation.wire.protobuf import length_field, varint_field

MALFORMED_MAX = 1000
_HEX_DIGITS = 2 * HASH_BYTES
# 0 is UNKNOWN: clients from before the field leave it unset and mean SHA-256.
_FUNCTIONS = {int(function): function for function in DigestFunction} | {0: DigestFunction.SHA256}
_new = partial(tuple.__new__, Digest)  # in half the time of its constructor
_hashes_in = Struct(f"{HASH_BYTES}s").iter_unpack
_fields = attrgetter("hash", "size_bytes")


class WireDigest(Protocol):
    """build.bazel.remote.execution.v2.Digest."""

    @property
    def hash(self) -> str:
        """The hash in hex."""
        ...

    @property
    def size_bytes(self) -> int:
        """The blob's size."""
        ...


_W = TypeVar("_W", bound=WireDigest)
_T = TypeVar("_T")


def function_of(value: int) -> DigestFunction:
    """Return the digest function of a request; unset is SHA-256.

    Raises InvalidRequest for one that this node does not store under.
    """
    function = _FUNCTIONS.get(value)
    if function is None:
        served = ", ".join(each.name for each in DigestFunction)
        raise InvalidRequest(f"digest_function {value} is not served; these are: {served}")
    return function


def to_digest(message: WireDigest, function: DigestFunction) -> Digest:
    """Check and convert. Raises InvalidRequest unless it is 64 lower-case hex digits and a size."""
    text, size_bytes = message.hash, message.size_bytes
    try:
        raw = bytes.fromhex(text)
    except ValueError:
        _refuse(text, size_bytes)
    # fromhex lets white space and upper case pass.
    if len(text) != _HEX_DIGITS or len(raw) != HASH_BYTES or text.lower() != text or size_bytes < 0:
        _refuse(text, size_bytes)
    return _new((raw, size_bytes, function))


def to_digests(messages: Iterable[WireDigest], function: DigestFunction) -> list[Digest] | None:
    """Convert many at once, in half the time; None when one of them is malformed."""
    fields = list(map(_fields, messages))
    if not fields:
        return []
    texts, sizes = zip(*fields, strict=True)
    text = "".join(texts)
    try:
        raw = bytes.fromhex(text)
    except ValueError:
        return None
    # Each by itself: two hashes of wrong lengths may have the right length together.
    if set(map(len, texts)) != {_HEX_DIGITS} or len(raw) * 2 != len(text) or text.lower() != text:
        return None
    if min(sizes) < 0:
        return None
    hashes = [one for (one,) in _hashes_in(raw)]
    return list(map(_new, zip(hashes, sizes, repeat(function))))


def to_digests_or(
    messages: Sequence[_W], function: DigestFunction, malformed: Callable[[_W, InvalidRequest], _T]
) -> Sequence[Digest | _T]:
    """Convert many; each malformed one is replaced by what malformed() returns.

    Raises InvalidRequest for more than MALFORMED_MAX of those: each costs an error of its own.
    """
    together = to_digests(messages, function)
    if together is not None:
        return together
    converted: list[Digest | _T] = []
    wrong = 0
    for message in messages:
        try:
            converted.append(to_digest(message, function))
        except InvalidRequest as error:
            wrong += 1
            if wrong > MALFORMED_MAX:
                raise InvalidRequest(f"more than {MALFORMED_MAX} malformed digests") from None
            converted.append(malformed(message, error))
    return converted


def parse_digest(hash_text: str, size_text: str, function: DigestFunction) -> Digest:
    """Check and convert the two components of a resource name. Raises InvalidRequest."""
    # isdigit() alone also takes digits of other scripts, which int() reads, too.
    if not (size_text.isascii() and size_text.isdigit()) or len(size_text) > 19:
        raise InvalidRequest("the size in a resource name is a decimal number")
    size_bytes = int(size_text)
    # One blob, one name: with leading zeros an upload would have many.
    if size_bytes > MAX_SIZE_BYTES or (size_text[0] == "0" and len(size_text) > 1):
        raise InvalidRequest("the size in a resource name has a leading zero or is above 2^63-1")
    return to_digest(_Parsed(hash_text, size_bytes), function)


class _Parsed:
    __slots__ = ("hash", "size_bytes")

    def __init__(self, hash_text: str, size_bytes: int) -> None:
        self.hash = hash_text
        self.size_bytes = size_bytes


def _refuse(text: str, size_bytes: int) -> NoReturn:
    if size_bytes < 0:
        raise InvalidRequest(f"digest with the negative size {size_bytes}")
    if not text:
        raise InvalidRequest("a digest is missing or has no hash")
    raise InvalidRequest(f"digest hash {text[:80]!r} is not 64 lower-case hex digits")


def encode_digest(digest: Digest) -> bytes:
    """Return the serialized Digest message."""
    return b"\x0a\x40" + digest[0].hex().encode() + _size_field(digest[1])


@lru_cache(maxsize=4096)  # sizes repeat, and this is most of what a digest costs
def _size_field(size_bytes: int) -> bytes:
    return varint_field(2, size_bytes)


def digest_field(number: int, digest: Digest) -> bytes:
    """Return a Digest as a field of another message."""
    return length_field(number, encode_digest(digest))


# Encoding thousands of digests at once. Apart from its hash, an encoded item depends on the blob's
# size only, and sizes repeat: each frame is encoded once, and all hashes are formatted together.
# That takes a third of the time of encoding field after field.

Frame = tuple[bytes, bytes]  # the bytes before a hash, and those after it


def cut_frame(item: bytes) -> Frame:
    """Return the frame of an item that was encoded for blank(...)."""
    # Nothing else in an item has 64 zeros: sizes and tags are a few bytes.
    before, after = item.split(b"0" * 2 * HASH_BYTES)
    return before, after


def blank(size_bytes: int) -> Digest:
    """Return a digest of zeros, which cut_frame finds in an encoded item."""
    return Digest(bytes(HASH_BYTES), size_bytes)


def framed(digests: Sequence[Digest], frame: Callable[[int], Frame]) -> list[bytes]:
    """Return each digest's hash in hex digits, between the two parts of its size's frame."""
    # One call formats all hashes, with a space between them to cut at.
    text = b"".join([raw for raw, _, _ in digests]).hex(" ", HASH_BYTES).encode()
    frames = [frame(size_bytes) for _, size_bytes, _ in digests]
    return [
        before + hash_hex + after
        for hash_hex, (before, after) in zip(text.split(), frames, strict=True)
    ]


def digest_list(digests: Sequence[Digest]) -> bytes:
    """Encode digests as field 2, which is their field in every message with a list of them."""
    return b"".join(framed(digests, _listed))


@lru_cache(maxsize=4096)
def _listed(size_bytes: int) -> Frame:
    return cut_frame(digest_field(2, blank(size_bytes)))
