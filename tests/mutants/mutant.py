"""What a mutant is."""

from __future__ import annotations

import io
import re
import tokenize
from typing import NamedTuple

_COMMENT_LINE = re.compile(r"^[ \t]*#.*\n", re.MULTILINE)


class Mutant(NamedTuple):
    """One mistake in the program that a test must notice."""

    name: str
    file: str  # below the project's folder
    old: str  # stands there exactly once, apart from comments on lines of their own
    new: str
    tests: tuple[str, ...]  # arguments of pytest, at least one of whose tests must fail
    why: str  # what would go wrong with it
    marked: str = ""  # their mark, where the plain suite leaves them out
    survives: str = ""  # why no test can notice, if that is so


class Stale(Exception):
    """The program is not any more what a mutant changes: the table has to be brought up to date."""


def mutated(mutant: Mutant, text: str) -> str:
    """Return a file's text with the mistake in it, without comments. Raises Stale."""
    # Comments come and go more often than the program, and must not make the table stale.
    if mutant.file.endswith(".py"):
        text = _without_comments(text)
    old, new = (_COMMENT_LINE.sub("", each) for each in (mutant.old, mutant.new))
    count = text.count(old)
    if count != 1:
        raise Stale(f"{mutant.name}: its old text stands {count} times in {mutant.file}")
    return text.replace(old, new)


def _without_comments(text: str) -> str:
    """Drop the comments that have a line of their own; one within a text in quotes is none."""
    lines: list[str] = text.splitlines(keepends=True)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        row, column = token.start
        if token.type == tokenize.COMMENT and not lines[row - 1][:column].strip():
            lines[row - 1] = ""
    return "".join(lines)
