"""What a long operation shows: a progress bar on a terminal, and warnings everywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from federation.config import model
from federation.observability import logs

Report = Callable[[int, int], None]
Tell = Callable[[int, int, str], None]

_FLUSH_S = 1.0


@contextmanager
def warnings_only() -> Iterator[None]:
    """Write only warnings and errors to standard error."""
    flush = logs.configure(model.LogConfig(level="warning"), for_good=False)
    try:
        yield
    finally:
        flush(_FLUSH_S)


@contextmanager
def progress(what: str) -> Iterator[Report]:
    """Yield a function that is called with (done, total) any number of times; total 0: unknown."""
    with progress_with_text(what) as tell:
        yield lambda done, total: tell(done, total, "")


@contextmanager
def progress_with_text(what: str) -> Iterator[Tell]:
    """Yield the same function with one argument more, a text that is shown beside the numbers."""
    console = Console(stderr=True)
    with warnings_only():
        if console.is_terminal:
            with _bar(what, console) as tell:
                yield tell
        else:
            yield _say_nothing


@contextmanager
def _bar(what: str, console: Console) -> Iterator[Tell]:
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    text = TextColumn("{task.fields[text]}")
    with Progress(*columns, text, console=console, transient=True) as bar:
        task = bar.add_task(what, total=None, text="")

        def tell(done: int, total: int, text: str) -> None:
            bar.update(task, completed=done, total=total or None, text=text)

        yield tell


def _say_nothing(_done: int, _total: int, _text: str) -> None:
    """Show nothing: standard error is not a terminal."""
