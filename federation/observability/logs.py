"""Structured logs to standard error: what an event looks like, and what may be in it.

Event names are fixed snake_case words, facts are fields. Any field may contain text
that a client chose, so every value is escaped and clipped here, once for all callers.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections import deque
from collections.abc import Callable, Mapping, MutableMapping
from datetime import UTC, datetime
from typing import Any

import structlog
from structlog.typing import Processor

from federation.config import model
from federation.core.clock import Clock, SystemClock
from federation.observability.log_writer import LogWriter

_TEXT_MAX = 400
_EXCEPTION_MAX = 20_000
_ITEMS_MAX = 20
_NESTING_MAX = 3
_WARNINGS_KEPT = 30
_NUMBERS, _LISTS = (bool, int, float), (list, tuple)
_WORRYING = frozenset({"warning", "error", "critical"})

_CLOCK = SystemClock()

Flush = Callable[[float], bool]


def configure(
    settings: model.LogConfig, *, for_good: bool = True, worker: int | None = None
) -> Flush:
    """Send structlog's events, and warnings of the libraries below us, to standard error.

    for_good: nobody configures again in this process, which makes each event cheaper.
    worker: the number of this worker; it is in every event.

    Returns a function to call before the process ends: it waits until all is written, for at most
    the given number of seconds.
    """
    on_terminal = sys.stderr is not None and sys.stderr.isatty()
    as_json = settings.format == "json" or (settings.format == "auto" and not on_terminal)
    # no-color.org: any value but an empty one counts.
    colours = on_terminal and not os.environ.get("NO_COLOR")
    writer = LogWriter(_write_stderr, _lost_line, _CLOCK)
    set_level(settings.level)
    structlog.configure(
        processors=[*_said_by(worker), *processors(as_json=as_json, colours=colours)],
        wrapper_class=_Levelled,
        logger_factory=lambda *_: _Line(writer),
        cache_logger_on_first_use=for_good,
    )
    # asyncio reports failures of tasks and slow callbacks there.
    logging.basicConfig(handlers=[_Forward()], level=logging.WARNING, force=True)
    return writer.flush


class RecentWarnings:
    """The last events that an operator may have to look at. For any thread."""

    def __init__(self) -> None:
        self._kept: deque[dict[str, str]] = deque(maxlen=_WARNINGS_KEPT)

    def __call__(
        self, _logger: Any, _method: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        """Keep an event that is harmless by now; a processor of structlog."""
        if event.get("level") in _WORRYING:
            hidden = {"event", "level", "timestamp", "exception"}
            facts = [f"{key}={value}" for key, value in event.items() if key not in hidden]
            kept = {"at": event.get("timestamp"), "level": event["level"], "event": event["event"]}
            shown = {key: str(value) for key, value in kept.items()}
            self._kept.append({**shown, "text": ", ".join(facts)[:_TEXT_MAX]})
        return event

    def newest_first(self) -> list[dict[str, str]]:
        """Return what is kept: "at", "level", "event" and "text" of each."""
        return list(reversed(self._kept))


recent_warnings = RecentWarnings()  # of this process, as its log is


def _said_by(worker: int | None) -> list[Processor]:
    def add(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
        # An event about another worker names that one itself.
        event.setdefault("worker", worker)
        return event

    return [] if worker is None else [add]


def set_level(level: str) -> None:
    """Log events of this level and above from now on."""
    filtering = structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()])
    for name in _METHODS:
        # Into the class, as loggers that were made before keep it.
        setattr(_Levelled, name, getattr(filtering, name))


class _Levelled(structlog.make_filtering_bound_logger(logging.INFO)):  # type: ignore[misc]
    """What loggers are made of: theirs once made, so that a new level is put into the class.

    An event below the level costs one empty call.
    """


# Also those for which there is no asynchronous code here: together they are a logger's levels.
_METHODS = [
    name
    for name in dir(_Levelled)
    if name.removeprefix("a")
    in {"debug", "info", "warn", "warning", "err", "error", "critical", "fatal", "exception", "log"}
]


def processors(*, as_json: bool, colours: bool, clock: Clock = _CLOCK) -> list[Processor]:
    """Return structlog's processors, from an event to its line."""
    render: Processor = _as_json
    if not as_json:
        render = structlog.dev.ConsoleRenderer(colors=colours, sort_keys=False)
    return [
        structlog.processors.add_log_level,
        _Stamp(clock),
        structlog.processors.format_exc_info,
        harmless,
        recent_warnings,
        render,
    ]


class _Stamp:
    """Adds the time, of which only the microseconds are written anew for each event of a second."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._second = 0, "1970-01-01T00:00:00"

    def __call__(
        self, _logger: Any, _method: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        second, micros = divmod(int(self._clock.wall_s() * 1_000_000), 1_000_000)
        known, text = self._second  # both at once: events come from several threads
        if known != second:
            text = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
            self._second = second, text
        event["timestamp"] = f"{text}.{micros:06}Z"
        return event


# Made once, as making one takes longer than to encode an event.
_encode = json.JSONEncoder().encode


def _as_json(_logger: Any, _method: str, event: Mapping[str, Any]) -> str:
    return _encode(event)  # harmless() has left nothing else than JSON has


def harmless(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
    """Escape control characters in, and clip, every value: log lines cannot be forged."""
    for key, value in event.items():
        if key == "exception":
            # From the end, where the error itself is.
            lines = str(value)[-_EXCEPTION_MAX:].split("\n")
            # Indented, so that a line break in an error's text cannot pass for an event.
            event[key] = "\n".join(f"    {escape(line)}" for line in lines)
        elif type(value) is not str or len(value) > _TEXT_MAX or not value.isprintable():
            event[key] = _harmless(value, _NESTING_MAX)  # nearly all text needs nothing
    return event


def _harmless(value: Any, nesting: int) -> Any:
    if value is None or isinstance(value, _NUMBERS):
        return value
    # By exact type: a Digest is a tuple, too, but has a better text of its own.
    if type(value) in _LISTS and nesting:
        return [_harmless(item, nesting - 1) for item in value[:_ITEMS_MAX]]
    if isinstance(value, Mapping) and nesting:
        items = list(value.items())[:_ITEMS_MAX]
        return {clip(str(k)): _harmless(v, nesting - 1) for k, v in items}
    return clip(str(value))


def clip(text: str) -> str:
    """Return text on one line, free of control characters, and not longer than a log needs."""
    if len(text) > _TEXT_MAX:
        return f"{escape(text[:_TEXT_MAX])}… ({len(text)} characters)"
    return escape(text)


def escape(text: str) -> str:
    """Return text with everything that is not printable written as Python would (\\n, \\x1b)."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class _Line:
    """What structlog calls with a finished line; all levels go the same way."""

    def __init__(self, writer: LogWriter) -> None:
        self._writer = writer

    def msg(self, line: str) -> None:
        self._writer.put(line)

    debug = info = warning = error = critical = exception = fatal = warn = log = msg


# What gRPC says when a connection broke while an answer was being sent; nothing failed here.
_CALLER_GONE = "ExecuteBatchError raised in core by servicer method"


class _Forward(logging.Handler):
    """Turns log records of libraries (asyncio, aiohttp) into our form."""

    def emit(self, record: logging.LogRecord) -> None:
        """See logging.Handler."""
        log, text = structlog.get_logger(record.name), record.getMessage()
        level, trace = record.levelno, record.exc_info
        if text.startswith(_CALLER_GONE):
            level, trace = logging.DEBUG, None
        log.log(level, "library_message", library=record.name, text=text, exc_info=trace)


class _Target:
    """Where lines go: standard error, or what it was before something else took its place."""

    number = 2


def write_to(number: int) -> None:
    """Write lines to this descriptor from now on."""
    _Target.number = number


def write_all(number: int, data: bytes) -> None:
    """Write everything; raises OSError."""
    while data:
        data = data[os.write(number, data) :]


def _write_stderr(data: bytes) -> None:
    write_all(_Target.number, data)


def _lost_line(count: int) -> str:
    return json.dumps({"event": "log_lines_lost", "level": "warning", "lines": count})
