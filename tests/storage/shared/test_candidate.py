"""When a node takes over a role from another one."""

from __future__ import annotations

from federation.storage.shared.catalogue.leads import SILENT_S, LeadCandidate


def test_a_lead_that_beats_is_not_overtaken() -> None:
    candidate = LeadCandidate()
    for beat in range(100):
        assert not candidate.is_due("a", 1, beat, beat * (SILENT_S - 0.1))


def test_a_silent_lead_is_overtaken_after_a_while_of_the_candidate_s_own_clock() -> None:
    candidate = LeadCandidate()
    assert not candidate.is_due("a", 1, 7, 1000.0)
    assert not candidate.is_due("a", 1, 7, 1000.0 + SILENT_S - 0.1)
    assert candidate.is_due("a", 1, 7, 1000.0 + SILENT_S)


def test_a_new_term_counts_as_a_sign_of_life() -> None:
    candidate = LeadCandidate()
    candidate.is_due("a", 1, 0, 0.0)
    assert not candidate.is_due("b", 2, 0, SILENT_S)
    assert candidate.is_due("b", 2, 0, 2 * SILENT_S)


def test_who_left_is_followed_at_once() -> None:
    assert LeadCandidate().is_due(None, 4, 2, 0.0)


def test_silence_does_not_count_while_the_database_was_away() -> None:
    candidate = LeadCandidate()
    candidate.is_due("a", 1, 7, 0.0)
    candidate.forget()
    assert not candidate.is_due("a", 1, 7, 100.0)
    assert candidate.is_due("a", 1, 7, 100.0 + SILENT_S)
