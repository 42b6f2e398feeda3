"""Which connections are too many, without any."""

from __future__ import annotations

from collections import Counter

from federation.server.connection_guard import excess
from federation.services.tcp import TcpAddress, TcpConnection


def from_host(host: str, count: int) -> list[TcpConnection]:
    return [TcpConnection(at, TcpAddress(host, at), 1) for at in range(count)]


def hosts(found: list[tuple[TcpConnection, str]]) -> dict[str, int]:
    return dict(Counter(each.peer.host for each, _ in found))


def test_one_address_keeps_half_and_the_youngest_go() -> None:
    found = excess(from_host("a", 90), 100, 0)
    assert [each.number for each, _ in found] == list(range(50, 90))
    assert {limit for _, limit in found} == {"connections-per-address"}


def test_others_find_room_behind_a_flood() -> None:
    found = excess([*from_host("a", 90), *from_host("b", 20), *from_host("c", 10)], 100, 0)
    assert hosts(found) == {"a": 40}


def test_a_number_for_each_address_is_kept_and_the_total_is() -> None:
    assert hosts(excess([*from_host("a", 9), *from_host("b", 3)], 100, 5)) == {"a": 4}
    found = excess([*from_host("a", 5), *from_host("b", 5)], 8, 5)
    assert (hosts(found), {limit for _, limit in found}) == ({"b": 2}, {"connections"})
