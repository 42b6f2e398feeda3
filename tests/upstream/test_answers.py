from __future__ import annotations

from federation.core.digest import digest_of
from federation.upstream.answers import Answers

A, B, C = (digest_of(name) for name in (b"a", b"b", b"c"))


def test_answers_hold_for_their_time_and_no_longer() -> None:
    answers = Answers(present_s=10.0, absent_s=2.0)
    answers.note([A], present=True, now_s=0.0)
    answers.note([B], present=False, now_s=0.0)
    assert [answers.recall(d, 1.9) for d in (A, B, C)] == [True, False, None]
    assert [answers.recall(d, 2.0) for d in (A, B)] == [True, None]
    assert answers.recall(A, 10.0) is None


def test_the_latest_answer_counts_and_all_are_forgotten_together() -> None:
    answers = Answers(present_s=10.0, absent_s=10.0)
    answers.note([A], present=False, now_s=0.0)
    answers.note([A], present=True, now_s=1.0)
    assert answers.recall(A, 2.0) is True
    answers.forget()
    assert answers.recall(A, 2.0) is None


def test_the_oldest_answers_make_room() -> None:
    answers = Answers(present_s=10.0, absent_s=10.0, entries_max=2)
    for digest in (A, B, C):
        answers.note([digest], present=True, now_s=0.0)
    assert [answers.recall(d, 1.0) for d in (A, B, C)] == [None, True, True]
