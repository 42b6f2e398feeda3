"""Notifies the service manager of progress and of not being hung (the sd_notify protocol)."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping

import structlog

from federation.core.clock import Clock

_log = structlog.get_logger(__name__)
_FEEDS = 3  # in the time after which the manager takes us for hung


def notify(state: str) -> None:
    """Send e.g. "READY=1" to the socket that NOTIFY_SOCKET names, if it is set."""
    name = os.environ.get("NOTIFY_SOCKET", "")
    if not name.startswith(("/", "@")):
        return
    # @ stands for the abstract namespace (sd_notify(3)).
    address = f"\0{name[1:]}" if name.startswith("@") else name
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
            # A manager that hangs must not hang the event loop.
            out.setblocking(False)
            out.sendto(state.encode(), address)
    except OSError as error:
        _log.warning("service_manager_not_told", state=state, reason=str(error))


def watchdog_s(environment: Mapping[str, str], pid: int) -> float | None:
    """Return after how long without a keep-alive the manager ends this service; None: never.

    pid: of the process that the manager has started.
    """
    text = environment.get("WATCHDOG_USEC", "")
    # isdecimal() alone takes digits of other scripts, too.
    if not (text.isascii() and text.isdecimal()) or int(text) == 0:
        return None
    if environment.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    return int(text) / 1_000_000


async def feed_watchdog(
    within_s: float, is_alive: Callable[[], bool], clock: Clock, tell: Callable[[], None]
) -> None:
    """Send keep-alives as long as the service is alive; never returns.

    It runs on the event loop, so that a hung one sends none.
    """
    is_told = False
    while True:
        if is_alive():
            tell()
            is_told = False
        elif not is_told:
            is_told = True
            _log.error("watchdog_not_fed", within_s=within_s)
        await clock.sleep(within_s / _FEEDS)


def notify_alive() -> None:
    """Feed the manager's watchdog once."""
    notify("WATCHDOG=1")
