from __future__ import annotations

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from federation.core.errors import InvalidRequest
from federation.wire.upload import Upload


def begun(size_bytes: int, *, compressed: bool = False) -> Upload:
    upload = Upload(size_bytes, compressed)
    assert upload.begin_stream("name", 0) is False
    return upload


def refused(upload: Upload, name: str, offset: int, data_bytes: int, finish: bool) -> None:
    before = copy.copy(upload)
    with pytest.raises(InvalidRequest):
        upload.receive(name, offset, data_bytes, finish)
    assert upload == before


def test_messages_in_order_finish_the_upload() -> None:
    upload = begun(10)
    upload.receive("name", 0, 4, False)
    upload.receive("", 4, 0, False)
    upload.receive("name", 4, 6, True)
    assert upload.finished
    assert upload.received_bytes == 10


def test_w08_a_later_message_may_name_nothing_but_not_another() -> None:
    upload = begun(10)
    refused(upload, "other", 0, 1, False)
    upload.receive("", 0, 1, False)


@pytest.mark.parametrize("offset", [6, 4, 0, -1, 2**63 - 1])
def test_w09_gap_and_overlap_are_refused(offset: int) -> None:
    upload = begun(10)
    upload.receive("", 0, 5, False)
    refused(upload, "", offset, 1, False)


@pytest.mark.parametrize("offset", [1, -1, 10])
def test_w09_an_unknown_upload_begins_at_0(offset: int) -> None:
    with pytest.raises(InvalidRequest):
        Upload(10).begin_stream("name", offset)


def test_w10_nothing_comes_after_finish_write() -> None:
    upload = begun(2)
    upload.receive("", 0, 2, True)
    refused(upload, "", 2, 0, True)


def test_w05_one_byte_too_many_is_refused_at_once() -> None:
    refused(begun(10), "", 0, 11, False)


def test_w05_finish_with_too_few_bytes_is_refused() -> None:
    refused(begun(10), "", 0, 9, True)


def test_w13_a_later_stream_goes_on_or_starts_over() -> None:
    upload = begun(10)
    upload.receive("", 0, 6, False)
    assert upload.resumable_bytes == 6
    with pytest.raises(InvalidRequest):
        upload.begin_stream("name", 5)
    assert upload.begin_stream("name", 6) is False
    upload.receive("", 6, 1, False)
    assert upload.begin_stream("name", 0) is True
    assert upload.received_bytes == 0
    upload.receive("", 0, 10, True)


def test_a_zstd_upload_counts_compressed_bytes_and_only_starts_over() -> None:
    upload = begun(10, compressed=True)
    upload.receive("", 0, 6, False)
    assert upload.resumable_bytes == 0
    with pytest.raises(InvalidRequest):
        upload.begin_stream("name", 6)
    assert upload.begin_stream("name", 0) is True
    upload.receive("", 0, 200, True)
    assert upload.finished


def test_w21_a_zstd_upload_that_never_ends_is_stopped() -> None:
    upload = begun(10, compressed=True)
    upload.receive("", 0, upload.most_bytes, False)
    refused(upload, "", upload.most_bytes, 1, False)


@given(st.binary(max_size=50), st.lists(st.integers(1, 9)))
def test_any_cut_into_messages_gives_the_whole(data: bytes, cuts: list[int]) -> None:
    upload = begun(len(data))
    at = 0
    for cut in [*cuts, len(data)]:
        piece = data[at : at + cut]
        upload.receive("", at, len(piece), False)
        at += len(piece)
    upload.receive("", at, 0, True)
    assert upload.finished
    assert upload.received_bytes == len(data)


class AnyEvents(RuleBasedStateMachine):
    """Whatever a client does, the counts stay within the blob, and refusals change nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.upload = begun(20)

    @rule(offset=st.integers(-1, 21), size=st.integers(0, 21), finish=st.booleans())
    def receive(self, offset: int, size: int, finish: bool) -> None:
        before = copy.copy(self.upload)
        try:
            self.upload.receive("", offset, size, finish)
        except InvalidRequest:
            assert self.upload == before
        else:
            assert self.upload.received_bytes == before.received_bytes + size

    @rule(offset=st.integers(-1, 21))
    def begin_stream(self, offset: int) -> None:
        before = copy.copy(self.upload)
        try:
            restarted = self.upload.begin_stream("name", offset)
        except InvalidRequest:
            assert self.upload == before
        else:
            kept = 0 if restarted else before.received_bytes
            assert self.upload.received_bytes == kept

    @invariant()
    def never_more_than_the_blob(self) -> None:
        assert 0 <= self.upload.received_bytes <= 20
        assert not self.upload.finished or self.upload.received_bytes == 20


TestAnyEvents = AnyEvents.TestCase
