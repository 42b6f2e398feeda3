"""What several tasks that work together failed of."""

from __future__ import annotations


def first_of(error: BaseException) -> BaseException:
    """Return the first failure in a group, however deep; the others are like it or followed."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
