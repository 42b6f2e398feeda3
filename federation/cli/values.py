"""Values on the command line that several commands read: sizes, digests, windows, qualifiers."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from federation.config.types import check_window, parse_duration, parse_size
from federation.core.digest import Digest
from federation.core.wanted import parse_wanted
from federation.core.window import Window


class SizeType(click.ParamType[int]):
    """A size as the configuration file has it."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """See click.ParamType."""
        try:
            return parse_size(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class DurationType(click.ParamType[float]):
    """A time as the configuration file has it, in seconds."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """See click.ParamType."""
        try:
            return parse_duration(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class DateType(click.ParamType[float]):
    """A day, whose end is meant, or a moment, in UTC; seconds of the wall clock."""

    name = "date"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """See click.ParamType."""
        try:
            return parse_date(value)
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is not YYYY-MM-DD or YYYY-MM-DDTHH:MM[:SS]", param, ctx)


def parse_date(text: str) -> float:
    """Return the end of a day, or a moment, in UTC unless it says otherwise.

    Raises ValueError, and OverflowError for what is beyond the calendar.
    """
    moment = datetime.fromisoformat(text)
    if len(text) == len("YYYY-MM-DD"):
        # A date without a time stands for the end of that day.
        moment += timedelta(days=1)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


class DigestType(click.ParamType[Digest]):
    """A digest with its size."""

    name = "digest"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Digest:
        """See click.ParamType."""
        try:
            digest = parse_wanted(value).blob
        except ValueError:
            digest = None
        if digest is None:
            self.fail(f"{value!r} is not HASH/SIZE or blake3/HASH/SIZE", param, ctx)
        return digest


class WindowType(click.ParamType[Window]):
    """Times of the day."""

    name = "HH:MM-HH:MM"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Window:
        """See click.ParamType."""
        try:
            return Window.parse(check_window(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


def qualifiers_of(given: Sequence[str]) -> dict[str, str]:
    """Read NAME=VALUE texts. Raises UsageError."""
    found = {}
    for each in given:
        name, equals, value = each.partition("=")
        if not equals:
            raise click.UsageError(f"--qualifier {each}: not NAME=VALUE")
        found[name] = value
    return found
