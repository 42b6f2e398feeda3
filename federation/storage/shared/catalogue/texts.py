"""Texts as the columns of type text take them: without the character NUL."""

from __future__ import annotations

from collections.abc import Sequence


def clean(text: str) -> str:
    """Return a text that only people read in a form that the database takes."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")


def joined(via: Sequence[str]) -> str:
    """Return the ids of nodes as one text; split() is the inverse."""
    return clean(",".join(via))


def split(via: str) -> tuple[str, ...]:
    """Return the ids in a text that joined() made."""
    return tuple(via.split(",")) if via else ()
