"""Peers as a table for people, once or live."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import cycle
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from federation.cli.output import rounded
from federation.cli.peer_facts import notes_on
from federation.clock import SystemClock

_EVERY_S = 1.0
_LOOKS = 10  # for Ctrl-C, in that time
_PIPED_WIDTH = 140
_COLUMNS = ("peer", "state", "objects", "bytes", "age", "rate", "caught up in", "parked", "last ok")
_GOOD, _BUSY = {"following"}, {"reconciling", "meeting", "starting"}
_UNITS = ((86400.0, "d"), (3600.0, "h"), (60.0, "m"))


def print_peers(peers: Sequence[Mapping[str, Any]]) -> None:
    """Print the table and what there is to say about it on standard output."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=_PIPED_WIDTH)
    console.print(shown(peers))


def watch(look: Callable[[], tuple[str, Sequence[Mapping[str, Any]]]]) -> None:
    """Show a headline and the peers, again each second until Ctrl-C."""

    def frame() -> RenderableType:
        headline, peers = look()
        return Group(Text(headline), shown(peers))

    looks = cycle(range(_LOOKS))
    with _until_interrupted() as is_interrupted, Live(frame(), auto_refresh=False) as live:
        while not is_interrupted():
            time.sleep(_EVERY_S / _LOOKS)
            if next(looks) == 0:
                live.update(frame(), refresh=True)


@contextmanager
def _until_interrupted() -> Iterator[Callable[[], bool]]:
    """Give what tells whether Ctrl-C was pressed within, which then raises nothing.

    An exception that comes at any moment can get lost in one in which Python ignores exceptions.
    """
    pressed: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _frame: pressed.append(number))
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, before)


def shown(peers: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Return the table, with notes below it."""
    if not peers:
        return Text("no peers")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in _COLUMNS:
        left = column in {"peer", "state"}
        table.add_column(column, justify="left" if left else "right", no_wrap=True)
    for peer in peers:
        table.add_row(*_row(peer))
    notes = [Text(note) for peer in peers for note in notes_on(peer)]
    return Group(table, *notes)


def _row(peer: Mapping[str, Any]) -> list[str | Text]:
    state = peer["state"]
    style = "green" if state in _GOOD else "yellow" if state in _BUSY else "red"
    rate, lag_bytes = peer.get("objects-per-s"), peer.get("lag-bytes")
    return [
        Text(peer["name"]),
        Text(state, style=style),
        _or_dash(peer.get("lag-objects")),
        "-" if lag_bytes is None else rounded(lag_bytes),
        span(peer.get("lag-s")),
        "-" if rate is None else f"{rate:g}/s",
        span(peer.get("caught-up-in-s")),
        _or_dash(peer.get("parked")),
        _ago(peer.get("last-success")),
    ]


def _or_dash(value: object) -> str:
    return "-" if value is None else str(value)


def span(seconds: float | None) -> str:
    """Return a time as people say it: 12s, 3.5h."""
    if seconds is None:
        return "-"
    for unit_s, letter in _UNITS:
        if seconds >= unit_s:
            return f"{seconds / unit_s:.1f}{letter}"
    return f"{seconds:.0f}s"


def _ago(text: str | None) -> str:
    if not text:
        return "never"
    then_s = datetime.fromisoformat(text).timestamp()
    return f"{span(max(0.0, SystemClock().wall_s() - then_s))} ago"
