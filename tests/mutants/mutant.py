"""What a mutant is."""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    """One mistake in the program that a test must notice."""

    name: str
    file: str  # below the project's folder
    old: str  # stands there exactly once
    new: str
    tests: tuple[str, ...]  # arguments of pytest, at least one of whose tests must fail
    why: str  # what would go wrong with it
    marked: str = ""  # their mark, where the plain suite leaves them out
    survives: str = ""  # why no test can notice, if that is so


class Stale(Exception):
    """The program is not any more what a mutant changes: the table has to be brought up to date."""


def mutated(mutant: Mutant, text: str) -> str:
    """Return a file's text with the mistake in it. Raises Stale."""
    count = text.count(mutant.old)
    if count != 1:
        raise Stale(f"{mutant.name}: its old text stands {count} times in {mutant.file}")
    return text.replace(mutant.old, mutant.new)
