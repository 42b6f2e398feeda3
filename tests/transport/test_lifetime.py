"""What is due on a connection, and when: stated in exact seconds, without waiting for any."""

from __future__ import annotations

from federation.transport.lifetime import (
    CLOSING_S,
    DEAD_S,
    FRAME_S,
    HANDSHAKE_S,
    IDLE_S,
    NOTICE_S,
    SILENT_S,
    Due,
    Lifetime,
)


def established(now_s: float = 0.0) -> Lifetime:
    life = Lifetime(now_s)
    life.is_established = True
    return life


def test_a_client_that_never_speaks_http2_is_closed() -> None:
    life = Lifetime(0.0)
    life.hear(HANDSHAKE_S - 1)  # however busily it speaks something else
    assert life.due(HANDSHAKE_S, has_calls=False) is Due.NOTHING
    assert life.due(HANDSHAKE_S + 0.1, has_calls=False) is Due.LATE_HANDSHAKE


def test_a_frame_has_its_time_and_a_client_is_asked_before() -> None:
    life = established()
    life.frames(1.0, whole=False)
    life.hear(FRAME_S)
    life.frames(FRAME_S, whole=False)  # more of the same frame does not help
    assert life.due(FRAME_S / 2 + 1.1, has_calls=True) is Due.ASK
    assert life.due(FRAME_S + 1.0, has_calls=True) is not Due.LATE_FRAME
    assert life.due(FRAME_S + 1.1, has_calls=True) is Due.LATE_FRAME


def test_a_frame_that_is_whole_in_time_has_no_consequence() -> None:
    life = established()
    life.frames(1.0, whole=False)
    life.frames(FRAME_S, whole=True)
    life.hear(FRAME_S)
    assert life.due(FRAME_S + 10, has_calls=True) is Due.NOTHING


def test_a_silent_client_is_asked_once_and_given_up_long_after() -> None:
    life = established()
    assert life.due(SILENT_S, has_calls=True) is Due.NOTHING
    assert life.due(SILENT_S + 0.1, has_calls=True) is Due.ASK
    assert life.due(SILENT_S + DEAD_S, has_calls=True) is Due.NOTHING
    assert life.due(SILENT_S + DEAD_S + 0.1, has_calls=True) is Due.DEAD


def test_a_client_that_answers_is_asked_again_after_the_next_silence() -> None:
    life = established()
    assert life.due(SILENT_S + 1, has_calls=True) is Due.ASK
    life.hear(SILENT_S + 2)
    assert life.due(2 * SILENT_S + 2, has_calls=True) is Due.NOTHING
    assert life.due(2 * SILENT_S + 3, has_calls=True) is Due.ASK


def test_a_connection_without_calls_is_drained_after_half_an_hour() -> None:
    life = established()
    life.idle(10.0)
    life.hear(IDLE_S + 10)
    assert life.due(IDLE_S + 10, has_calls=False) is Due.NOTHING
    assert life.due(IDLE_S + 11, has_calls=True) is Due.NOTHING
    assert life.due(IDLE_S + 11, has_calls=False) is Due.DRAIN


def test_a_drained_connection_takes_no_more_calls_a_second_later() -> None:
    life = established()
    life.drain(5.0)
    assert life.due(5.0 + NOTICE_S, has_calls=True) is Due.NOTHING
    assert life.due(5.1 + NOTICE_S, has_calls=True) is Due.END
    life.has_ended = True
    assert life.due(6.0 + NOTICE_S, has_calls=True) is Due.NOTHING


def test_a_closing_connection_whose_client_takes_nothing_is_aborted() -> None:
    life = established()
    life.close(5.0)
    life.close(9.0)  # it is not begun anew
    assert life.due(5.0 + CLOSING_S, has_calls=True) is Due.NOTHING
    assert life.due(5.1 + CLOSING_S, has_calls=True) is Due.DEAD
