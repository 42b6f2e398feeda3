"""Writes finished log lines without ever blocking the process.

Standard error may be a closed pipe, a full disk or a terminal that somebody paused. Lines go
through a bounded queue to one thread; what does not fit, or cannot be written, is counted and
reported in the log once writing works again. Losing log lines is better than stopping the service.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

_QUEUED_MAX = 10_000


class LogWriter:
    """One thread that writes lines in the order they came."""

    def __init__(
        self,
        write: Callable[[bytes], object],
        lost_line: Callable[[int], str],
        queued_max: int = _QUEUED_MAX,
    ) -> None:
        """Start the thread.

        Args:
            write: takes one line's bytes and may raise OSError or ValueError.
            lost_line: makes the line that says how many lines were lost.
            queued_max: lines that wait at most.
        """
        self._write = write
        self._lost_line = lost_line
        self._queue: queue.Queue[str | threading.Event] = queue.Queue(queued_max)
        self._lost = 0
        self._lost_lock = threading.Lock()
        threading.Thread(target=self._run, name="log", daemon=True).start()

    def __repr__(self) -> str:
        return f"<LogWriter {self._queue.qsize()} waiting, {self._lost} lost>"

    def put(self, line: str) -> None:
        """Hand over one line (without its newline); from any thread, never waits."""
        try:
            self._queue.put_nowait(line)
        except queue.Full:
            self._lose(1)

    def flush(self, timeout_s: float) -> bool:
        """Wait until all queued lines are written; False if that took longer."""
        reached = threading.Event()
        try:
            self._queue.put(reached, timeout=timeout_s)
        except queue.Full:
            return False
        return reached.wait(timeout_s)

    def _lose(self, count: int) -> None:
        with self._lost_lock:
            self._lost += count

    def _run(self) -> None:
        while True:
            item = self._queue.get()
            if isinstance(item, threading.Event):
                item.set()
                continue
            with self._lost_lock:
                lost, self._lost = self._lost, 0
            lines = [self._lost_line(lost), item] if lost else [item]
            try:
                self._write("".join(f"{line}\n" for line in lines).encode(errors="replace"))
            except (OSError, ValueError):
                self._lose(lost + 1)
