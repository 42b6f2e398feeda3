"""The peers as a table, printed once or updated live."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from federation.core.clock import SystemClock
from federation.server.status.formats import rounded, span
from federation.server.status.peer_facts import FINE_PEERS, notes_on

_EVERY_S = 1.0
_CTRL_C = {signal.SIGINT}
_PIPED_WIDTH = 140
_COLUMNS = ("peer", "state", "objects", "bytes", "age", "rate", "caught up in", "parked", "last ok")


def print_peers(peers: Sequence[Mapping[str, Any]]) -> None:
    """Print the table and the notes below it on standard output."""
    console = Console()
    if not console.is_terminal:
        # rich would take 80 columns for a pipe, and cut names.
        console = Console(width=_PIPED_WIDTH)
    console.print(shown(peers))


def watch(look: Callable[[], tuple[str, Sequence[Mapping[str, Any]]]]) -> None:
    """Show a headline and the peers, updated each second, until Ctrl-C."""

    def frame() -> RenderableType:
        headline, peers = look()
        return Group(Text(headline), shown(peers))

    # SIGINT is blocked and waited for: a KeyboardInterrupt could be raised where Python ignores
    # exceptions, and get lost.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _CTRL_C)
    try:
        with Live(frame(), auto_refresh=False) as live:
            while signal.sigtimedwait(_CTRL_C, _EVERY_S) is None:
                live.update(frame(), refresh=True)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


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
    style = "green" if state == "following" else "yellow" if state in FINE_PEERS else "red"
    rate = peer.get("objects-per-s")
    return [
        # Text, not str: rich would read [brackets] in a name as markup.
        Text(peer["name"]),
        Text(state, style=style),
        _or_dash(peer.get("lag-objects")),
        rounded(peer.get("lag-bytes")),
        span(peer.get("lag-s")),
        "-" if rate is None else f"{rate:g}/s",
        span(peer.get("caught-up-in-s")),
        _or_dash(peer.get("parked")),
        _ago(peer.get("last-success")),
    ]


def _or_dash(value: object) -> str:
    return "-" if value is None else str(value)


def _ago(text: str | None) -> str:
    if not text:
        return "never"
    then_s = datetime.fromisoformat(text).timestamp()
    return f"{span(max(0.0, SystemClock().wall_s() - then_s))} ago"
