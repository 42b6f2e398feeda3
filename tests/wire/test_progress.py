from __future__ import annotations

from federation.wire.upload import StreamProgress


def test_silence_and_a_drip_are_stalls_and_a_slow_sender_is_not() -> None:
    progress = StreamProgress(window_s=10, begun_s=0, least_bytes=100)
    assert progress.saw(1, 5)
    assert not progress.saw(1, 11)
    assert progress.saw(50, 15)
    assert progress.saw(50, 22)


def test_each_window_counts_for_itself() -> None:
    progress = StreamProgress(window_s=10, begun_s=0, least_bytes=100)
    assert progress.saw(10_000, 1)
    assert progress.saw(0, 10)
    assert not progress.saw(0, 20)
