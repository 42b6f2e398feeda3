"""A value that was read from files and follows their changes.

Owns detecting a change and validating the new files; an invalid change is ignored and logged.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import structlog

from federation.core.clock import Clock
from federation.core.errors import ConfigError

_log = structlog.get_logger(__name__)
_TRIES = 3
_EVERY_S = 0.5  # a change is read at the second look: within 2 s in all

T = TypeVar("T")
Stamp = tuple[tuple[int | str, ...], ...]


class Watched(Protocol):
    """A value that follows files."""

    def refresh(self, *, asked: bool) -> None:
        """Read the files if they have changed; asked: in any case."""
        ...


async def follow(watched: Iterable[Watched], asked: asyncio.Event, clock: Clock) -> None:
    """Look at these files until cancelled; all of them at once when asked to."""
    watched = list(watched)
    while True:
        at_once = asked.is_set()
        asked.clear()
        for each in watched:
            # One after the other: refresh() is for one thread only, and a network folder may hang.
            await asyncio.to_thread(each.refresh, asked=at_once)
        await clock.sleep(_EVERY_S)


class LiveFile(Generic[T]):
    """The value of some files. refresh() is for one thread only, `value` for any."""

    def __init__(
        self,
        what: str,
        where: str,
        paths: Iterable[Path | None],
        load: Callable[[], T],
        value: T,
        facts: Callable[[T], dict[str, Any]] = lambda _: {},
    ) -> None:
        """Begin with a value that was read before.

        Args:
            what: begins the names of events: <what>_taken, <what>_refused.
            where: the place in the configuration, for messages.
            paths: the files; a change of any is a change.
            load: reads them all. Raises ConfigError.
            value: what it returned.
            facts: what is logged about a new value.
        """
        self.value = value  # replaced as a whole
        self._what = what
        self._where = where
        self._paths: Sequence[Path] = [path for path in paths if path is not None]
        self._load = load
        self._facts = facts
        self._seen: Stamp | None = None
        self._judged: Stamp | None = None
        self._asked = False

    def __repr__(self) -> str:
        return f"<LiveFile {self._what} {self._where}>"

    def refresh(self, *, asked: bool) -> None:
        """Look at the files and take what they say now; blocks.

        A change is taken once the files have been the same for two looks, as they may just be
        being written; so is what is asked for, which is read even if it looks unchanged.
        """
        self._asked = self._asked or asked
        stamp = self._stamp()
        if stamp == self._seen and (self._asked or stamp != self._judged):
            self._asked = False
            self._read()
        self._seen = stamp

    def _read(self) -> None:
        for _ in range(_TRIES):
            stamp = self._stamp()
            try:
                value = self._load()
            except ConfigError as error:
                trouble: str | None = str(error)
            except Exception as error:  # noqa: BLE001 - the watching must go on
                trouble = f"{self._where}: {type(error).__name__}: {error}"
            else:
                trouble = None
            if self._stamp() == stamp:  # else old and new contents may be mixed
                break
        else:
            return
        # Also of files that were refused: they are reported once, and again when they change.
        self._judged = stamp
        if trouble is not None:
            _log.error(f"{self._what}_refused", text=trouble, still="the files as they were before")
        # A file that was only touched changes nothing for those who compare by identity.
        elif value != self.value:
            self.value = value
            _log.info(f"{self._what}_taken", listener=self._where, **self._facts(value))

    def _stamp(self) -> Stamp:
        return tuple(stamp_of(path) for path in self._paths)


def stamp_of(path: Path) -> tuple[int | str, ...]:
    """Return what changes when a file does, or in a folder any of its files; blocks.

    One that is not there has a stamp of its own.
    """
    try:
        facts = path.stat()
        inside = sorted(path.iterdir()) if stat.S_ISDIR(facts.st_mode) else []
        # Hidden ones are temporary files of whoever is writing.
        parts = [each for each in inside if each.name[0] != "."]
        if not parts:
            return _stamp(facts)
        return tuple(fact for each in parts for fact in _named_stamp(each))
    except OSError as error:
        # A stamp like others, so that a file that goes, or comes back, counts as a change.
        return (error.errno or 0,)


def _named_stamp(path: Path) -> tuple[int | str, ...]:
    return (path.name, *_stamp(path.stat()))


def _stamp(facts: os.stat_result) -> tuple[int, ...]:
    # The ctime as well: it moves where a tool keeps the old date on purpose.
    return (facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)
