"""What people write as sizes, durations and addresses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.config.types import (
    check_share,
    format_duration,
    format_size,
    parse_address,
    parse_duration,
    parse_size,
    share_of,
)


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("0", 0),
        (17, 17),
        ("16K", 16384),
        ("10G", 10 * 2**30),
        ("1.5M", 3 * 2**19),
        ("2 TiB", 2**41),
        ("3kb", 3072),
        ("12B", 12),
        ("0.1K", 102),
    ],
)
def test_sizes(text: str | int, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize(
    "text", [True, 1.5, "1.5", "-1", "10X", "G", "", "1e9", "0x10", "\u0661", None, [], "5 G B"]
)
def test_no_sizes(text: object) -> None:
    with pytest.raises(ValueError, match="a size is"):
        parse_size(text)


@given(st.integers(0, 2**63 - 1))
def test_a_size_shown_is_the_size_read(size_bytes: int) -> None:
    assert parse_size(format_size(size_bytes)) == size_bytes


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("200ms", 0.2), (90, 90.0), ("1.5h", 5400.0), ("2 d", 172800.0), (0.5, 0.5)],
)
def test_durations(text: str | float, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", [True, "", "5 weeks", "-1s", "1h30m", None, "s"])
def test_no_durations(text: object) -> None:
    with pytest.raises(ValueError, match="a duration is"):
        parse_duration(text)


@given(st.integers(0, 10**8))
def test_a_duration_shown_is_the_duration_read(milliseconds: int) -> None:
    seconds = milliseconds / 1000
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds, rel=1e-5)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:8980", "127.0.0.1", 8980),
        ("[::1]:0", "::1", 0),
        ("cache.example.com:65535", "cache.example.com", 65535),
        ("localhost:1", "localhost", 1),
        ("0.0.0.0:80", "0.0.0.0", 80),
    ],
)
def test_addresses(text: str, host: str, port: int) -> None:
    assert parse_address(text) == (host, port)
    assert str(parse_address(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "8980",
        ":8980",
        "localhost",
        "localhost:",
        "localhost:65536",
        "localhost:-1",
        "localhost:+1",
        "localhost:x",
        "::1:8980",
        "[::1]",
        "[127.0.0.1]:80",
        "*:80",
        "a b:80",
        "1.2.3.400:80",
        "-a.b:80",
        "a..b:80",
        "http://x:80",
        "a\n:80",
        "localhost:٣",
    ],
)
def test_no_addresses(text: str) -> None:
    with pytest.raises(ValueError, match="an address is host:port"):
        parse_address(text)


@pytest.mark.parametrize(
    ("text", "is_loopback", "is_wildcard"),
    [
        ("127.0.0.2:1", True, False),
        ("[::1]:1", True, False),
        ("localhost:1", True, False),
        ("0.0.0.0:1", False, True),
        ("[::]:1", False, True),
        ("10.0.0.1:1", False, False),
        ("localhost.example:1", False, False),
    ],
)
def test_what_an_address_reaches(text: str, is_loopback: bool, is_wildcard: bool) -> None:
    address = parse_address(text)
    assert (address.is_loopback, address.is_wildcard) == (is_loopback, is_wildcard)


@pytest.mark.parametrize(
    ("text", "of_1000"),
    [
        ("25%", 250),
        ("0.5 %", 5),
        ("100%", 1000),
        ("0", 0),
        (512, 512),
        ("2K", 2048),
        ("1.5K", 1536),
    ],
)
def test_shares(text: str | int, of_1000: int) -> None:
    assert share_of(check_share(text), 1000) == of_1000


@pytest.mark.parametrize("text", ["101%", "-1%", "%", "a", "", "1e9%", "\u0661", -5, True])
def test_no_shares(text: object) -> None:
    with pytest.raises(ValueError, match=r"share|size"):
        check_share(text)
