"""Where calls come from, as gRPC writes it."""

import pytest

from federation.access.incoming_call import parse_peer


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("ipv4:1.2.3.4:5", "1.2.3.4", 5),
        ("ipv6:%5B::1%5D:5", "::1", 5),
        ("ipv6:[::ffff:1.2.3.4]:5", "1.2.3.4", 5),
        ("ipv6:%5Bfe80::1%25eth0%5D:5", "fe80::1", 5),
        ("unix:/run/x", "unix:/run/x", 0),
        ("ipv4:1.2.3.4", "ipv4:1.2.3.4", 0),
        ("", "", 0),
    ],
)
def test_an_address_is_read_from_its_text(text: str, host: str, port: int) -> None:
    found = parse_peer(text)
    assert (found.text, found.host, found.port) == (text, host, port)
    assert found.caller == f"address {host}"


def test_callers_are_told_apart_by_host_alone() -> None:
    one, same, other = (parse_peer(f"ipv4:10.0.0.{n}") for n in ("1:1000", "1:2000", "2:1000"))
    assert one.caller == same.caller != other.caller
