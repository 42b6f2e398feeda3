"""Log lines cannot be forged by clients, and a stuck standard error stops nothing."""

import json
import logging
import threading
from typing import Any

import pytest
import structlog

from federation.core.clock import ManualClock, SystemClock
from federation.core.digest import EMPTY
from federation.observability import logs
from federation.observability.log_writer import LogWriter


def render(*, as_json: bool, event: str = "something", **fields: object) -> str:
    line: Any = {"event": event, **fields}
    for step in logs.processors(as_json=as_json, colours=False):
        line = step(None, "info", line)
    assert isinstance(line, str)
    return line


def test_a18_control_characters_are_escaped_and_long_text_is_clipped() -> None:
    found = json.loads(render(as_json=True, peer="a\n\x1b[31mb\u202e", name="x" * 70_000))
    assert found["peer"] == "a\\n\\x1b[31mb\\u202e"
    assert found["name"] == "x" * 400 + "… (70000 characters)"


def test_a18_a_console_line_stays_one_line() -> None:
    line = render(as_json=False, peer="a\nlevel=info event=forged\x1b[2J")
    assert "\n" not in line
    assert "\x1b" not in line


def test_a18_an_error_text_cannot_pass_for_an_event() -> None:
    try:
        raise ValueError("bad\n2026-01-01 [info] forged\x1b[2J")
    except ValueError as error:
        line = render(as_json=False, exc_info=error)
    assert "\x1b" not in line
    assert "\n    2026-01-01 [info] forged" in line


def test_a18_an_error_of_one_line_cannot_either() -> None:
    assert render(as_json=False, exception="[info] forged").endswith("\n    [info] forged")


def test_a18_nothing_nests_or_lists_without_end() -> None:
    deep: list[object] = []
    for _ in range(50):
        deep = [deep, "\n"]
    found = json.loads(render(as_json=True, deep=deep, many=list(range(1000)), of={"\n": b"\0"}))
    assert found["many"] == list(range(20))
    assert found["of"] == {"\\n": "b'\\x00'"}
    assert len(json.dumps(found["deep"])) < 1000


def test_values_say_themselves_how_they_look() -> None:
    found = json.loads(render(as_json=True, digest=EMPTY, count=3, ratio=0.5, none=None, yes=True))
    assert found["digest"] == str(EMPTY)
    assert (found["count"], found["ratio"], found["none"], found["yes"]) == (3, 0.5, None, True)


def test_each_event_has_the_time_of_its_own_microsecond() -> None:
    clock = ManualClock(wall_s=1_800_000_000.25)
    steps = logs.processors(as_json=True, colours=False, clock=clock)

    def stamped() -> object:
        line: Any = {"event": "something"}
        for step in steps:
            line = step(None, "info", line)
        return json.loads(line)["timestamp"]

    assert stamped() == "2027-01-15T08:00:00.250000Z"
    clock.advance(0.5)
    assert stamped() == "2027-01-15T08:00:00.750000Z"
    clock.advance(0.5)
    assert stamped() == "2027-01-15T08:00:01.250000Z"


def test_what_libraries_log_becomes_an_event() -> None:
    with structlog.testing.capture_logs() as events:
        record = logging.makeLogRecord(
            {"name": "asyncio", "levelno": logging.ERROR, "msg": "task %s", "args": ("died",)}
        )
        logs._Forward().emit(record)
    assert events[0]["event"] == "library_message"
    assert (events[0]["library"], events[0]["text"]) == ("asyncio", "task died")


def test_a_caller_that_left_while_it_was_answered_is_no_error() -> None:
    text = "ExecuteBatchError raised in core by servicer method [/Service/Method]"
    with structlog.testing.capture_logs() as events:
        record = logging.makeLogRecord(
            {
                "name": "grpc._cython.cygrpc",
                "levelno": logging.ERROR,
                "msg": text,
                "exc_info": (ValueError, ValueError("x"), None),
            }
        )
        logs._Forward().emit(record)
    assert (events[0]["log_level"], events[0]["exc_info"]) == ("debug", None)


class Target:
    """Where a writer writes: may refuse, may hang."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.writes_bytes: list[int] = []
        self.refuses = False
        self.open = threading.Event()
        self.open.set()

    def write(self, data: bytes) -> None:
        self.open.wait(20)
        if self.refuses:
            raise BrokenPipeError
        assert data.endswith(b"\n")
        self.writes_bytes.append(len(data))
        self.lines += data.decode().splitlines()


@pytest.fixture
def target() -> Target:
    return Target()


def writer(target: Target, **kwargs: int) -> LogWriter:
    return LogWriter(target.write, lambda lost: f"lost {lost}", SystemClock(), **kwargs)


def test_lines_come_out_in_order(target: Target) -> None:
    log = writer(target)
    for i in range(100):
        log.put(str(i))
    assert log.flush(10)
    assert target.lines == [str(i) for i in range(100)]


def test_lines_of_a_burst_are_written_together_as_a_pipe_takes_them_whole(target: Target) -> None:
    log = writer(target)
    target.open.clear()
    lines = [f"{i:04d}{'x' * 96}" for i in range(200)]
    for line in lines:
        log.put(line)
    log.put("y" * 10_000)
    target.open.set()
    assert log.flush(10)
    assert target.lines == [*lines, "y" * 10_000]
    assert max(target.writes_bytes) == 10_001
    assert sorted(target.writes_bytes)[-2] <= 4096
    assert len(target.writes_bytes) < 12


def test_o19_a_closed_standard_error_loses_lines_and_counts_them(target: Target) -> None:
    log = writer(target)
    target.refuses = True
    log.put("a")
    log.put("b")
    assert log.flush(10)
    target.refuses = False
    log.put("c")
    assert log.flush(10)
    assert target.lines == ["lost 2", "c"]


def test_o19_a_stuck_standard_error_makes_nobody_wait(target: Target) -> None:
    log = writer(target, queued_max=10)
    target.open.clear()
    for i in range(1000):
        log.put(str(i))
    assert not log.flush(0.01)
    assert "lost" in repr(log)
    target.open.set()
    assert log.flush(10)
    log.put("end")
    assert log.flush(10)
    lost = [line for line in target.lines if line.startswith("lost")]
    written = [line for line in target.lines if line.isdigit()]
    assert len(written) + sum(int(line.split()[1]) for line in lost) == 1000
    assert target.lines[-1] == "end"
