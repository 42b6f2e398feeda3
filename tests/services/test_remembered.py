"""What requests were decoded to: which of them are remembered, and within which bounds."""

from __future__ import annotations

import pytest

from federation.services.remembered import REMEMBERED_MAX_BYTES, RememberedRequests

ROOM_BYTES = 4 * REMEMBERED_MAX_BYTES


class Counted:
    """Decodes a request to a new object each time."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []

    def decode(self, request: bytes) -> list[bytes]:
        if request == b"malformed":
            raise ValueError("no request")
        self.requests.append(request)
        return [request]


def remembered() -> tuple[RememberedRequests[list[bytes]], Counted]:
    counted = Counted()
    return RememberedRequests(counted.decode, ROOM_BYTES), counted


def test_a_repeated_request_is_decoded_once_and_gives_the_same_object() -> None:
    requests, counted = remembered()
    first = requests.decoded(b"one")
    assert requests.decoded(b"two") == [b"two"]
    assert requests.decoded(bytes(bytearray(b"one"))) is first
    assert counted.requests == [b"one", b"two"]


def test_the_requests_that_were_used_last_stay_within_the_room() -> None:
    requests, counted = remembered()
    for number in range(10):
        requests.decoded(b"%d" % number * 60_000)
        requests.decoded(b"hot")
    assert counted.requests.count(b"hot") == 1
    requests.decoded(b"9" * 60_000)
    requests.decoded(b"0" * 60_000)
    assert len(counted.requests) == 12, "the first was displaced, and the last was not"
    assert repr(requests) == "<RememberedRequests 9, 484503 bytes>"


def test_short_requests_count_more_than_their_bytes() -> None:
    requests, counted = remembered()
    for number in range(2000):
        requests.decoded(b"%d" % number)
    requests.decoded(b"0")
    assert len(counted.requests) == 2001


def test_a_long_request_is_decoded_each_time() -> None:
    requests, counted = remembered()
    for _ in range(2):
        requests.decoded(b"a" * (REMEMBERED_MAX_BYTES + 1))
    assert len(counted.requests) == 2


def test_a_request_that_takes_too_much_once_decoded_is_decoded_each_time() -> None:
    counted = Counted()
    requests = RememberedRequests(counted.decode, ROOM_BYTES, lambda new: new != [b"large"])
    for request in (b"large", b"small") * 2:
        requests.decoded(request)
    assert counted.requests == [b"large", b"small", b"large"]


def test_a_malformed_request_is_refused_each_time() -> None:
    requests, _ = remembered()
    for _ in range(2):
        with pytest.raises(ValueError, match="no request"):
            requests.decoded(b"malformed")
