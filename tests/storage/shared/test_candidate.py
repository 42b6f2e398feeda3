"""When a node takes over a role from another one."""

from __future__ import annotations

from federation.storage.shared.catalogue.leads import SILENT_S, LeadCandidate
from federation.storage.shared.catalogue.rows import LeadRow, SiteRole


def is_due(candidate: LeadCandidate, node: str | None, term: int, beat: int, now_s: float) -> bool:
    return candidate.is_due(LeadRow(SiteRole.UPKEEP, node, term, beat), now_s, now_s)


def test_a_lead_that_beats_is_not_overtaken() -> None:
    candidate = LeadCandidate()
    for beat in range(100):
        assert not is_due(candidate, "a", 1, beat, beat * (SILENT_S - 0.1))


def test_a_silent_lead_is_overtaken_after_a_while_of_the_candidate_s_own_clock() -> None:
    candidate = LeadCandidate()
    assert not is_due(candidate, "a", 1, 7, 1000.0)
    assert not is_due(candidate, "a", 1, 7, 1000.0 + SILENT_S - 0.1)
    assert is_due(candidate, "a", 1, 7, 1000.0 + SILENT_S)


def test_a_new_term_counts_as_a_sign_of_life() -> None:
    candidate = LeadCandidate()
    is_due(candidate, "a", 1, 0, 0.0)
    assert not is_due(candidate, "b", 2, 0, SILENT_S)
    assert is_due(candidate, "b", 2, 0, 2 * SILENT_S)


def test_who_left_is_followed_at_once() -> None:
    assert is_due(LeadCandidate(), None, 4, 2, 0.0)


def test_silence_does_not_count_while_the_database_was_away() -> None:
    candidate = LeadCandidate()
    is_due(candidate, "a", 1, 7, 0.0)
    candidate.forget()
    assert not is_due(candidate, "a", 1, 7, 100.0)
    assert is_due(candidate, "a", 1, 7, 100.0 + SILENT_S)


def test_a_slow_answer_of_the_database_is_no_silence_of_the_lead() -> None:
    candidate = LeadCandidate()
    row = LeadRow(SiteRole.UPKEEP, "a", 1, 7)
    assert not candidate.is_due(row, 1000.0, 1000.0 + SILENT_S)
    assert not candidate.is_due(row, 1000.0 + SILENT_S + 0.1, 1000.0 + 3 * SILENT_S)
    assert candidate.is_due(row, 1000.0 + 2 * SILENT_S, 1000.0 + 3 * SILENT_S)
