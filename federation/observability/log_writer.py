"""Writes finished log lines without ever blocking the process.

Standard error may be a closed pipe, a full disk or a terminal that somebody paused. Lines go
through a bounded queue to one thread; what does not fit, or cannot be written, is counted and
reported in the log once writing works again. Losing log lines is better than stopping the service.

A line is written at once if none was written just before; the lines of a burst are written
together. Waking the thread for each line took a twentieth of the CPU time of a small upload.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence

from federation.core.clock import Clock

_QUEUED_MAX = 10_000
_PAUSE_S = 0.02  # between two writes
# PIPE_BUF: a pipe takes that much as a whole, so lines of several workers never mix.
_WRITTEN_AT_ONCE_BYTES = 4096


class LogWriter:
    """One thread that writes lines in the order they came."""

    def __init__(
        self,
        write: Callable[[bytes], object],
        lost_line: Callable[[int], str],
        clock: Clock,
        queued_max: int = _QUEUED_MAX,
    ) -> None:
        """Start the thread.

        Args:
            write: takes the bytes of whole lines and may raise OSError or ValueError.
            lost_line: makes the line that says how many lines were lost.
            clock: says when the last write was.
            queued_max: lines that wait at most.
        """
        self._write = write
        self._lost_line = lost_line
        self._clock = clock
        self._queued_max = queued_max
        # SimpleQueue: its put() may be called in signal handlers and finalizers.
        self._queue: queue.SimpleQueue[str | threading.Event] = queue.SimpleQueue()
        self._flushing = threading.Event()  # ends the pause
        self._lost = 0
        self._lost_lock = threading.Lock()
        # A daemon: a pipe that nobody reads must not keep the process from ending.
        threading.Thread(target=self._run, name="log", daemon=True).start()

    def __repr__(self) -> str:
        return f"<LogWriter {self._queue.qsize()} waiting, {self._lost} lost>"

    def put(self, line: str) -> None:
        """Hand over one line (without its newline); from any thread, never waits."""
        # Not exact, as several threads put lines; the bound need not be.
        if self._queue.qsize() < self._queued_max:
            self._queue.put(line)
        else:
            self._lose(1)

    def flush(self, timeout_s: float) -> bool:
        """Wait until all queued lines are written; False if that took longer."""
        reached = threading.Event()
        self._queue.put(reached)
        # Behind the queue's event: the thread must find that when it wakes.
        self._flushing.set()
        return reached.wait(timeout_s)

    def _lose(self, count: int) -> None:
        with self._lost_lock:
            self._lost += count

    def _run(self) -> None:
        written_s = -_PAUSE_S
        while True:
            item: str | threading.Event | None = self._queue.get()
            pause_s = written_s + _PAUSE_S - self._clock.monotonic_s()
            if pause_s > 0:
                self._flushing.wait(pause_s)
                self._flushing.clear()
            while item is not None:
                item = self._write_from(item)
            written_s = self._clock.monotonic_s()

    def _write_from(self, item: str | threading.Event | None) -> str | threading.Event | None:
        """Write lines together, from this one on; return what comes next, None: nothing yet."""
        lines: list[bytes] = []
        size_bytes = 0
        while isinstance(item, str):
            # A lone surrogate in a file's name must not end the thread.
            line = f"{item}\n".encode(errors="replace")
            size_bytes += len(line)
            if lines and size_bytes > _WRITTEN_AT_ONCE_BYTES:
                break
            lines.append(line)
            item = self._next()
        if lines:
            self._write_all(lines)
        if isinstance(item, threading.Event):
            item.set()
            return self._next()
        return item

    def _next(self) -> str | threading.Event | None:
        try:
            return self._queue.get_nowait()
        except queue.Empty:
            return None

    def _write_all(self, lines: Sequence[bytes]) -> None:
        with self._lost_lock:
            lost, self._lost = self._lost, 0
        told = f"{self._lost_line(lost)}\n".encode() if lost else b""
        try:
            self._write(told + b"".join(lines))
        except (OSError, ValueError):
            # What was counted as told was not told either.
            self._lose(lost + len(lines))
