"""Reads a changed configuration file, and changed TLS files, into a running node.

A reload is asked for by SIGHUP. Its outcome goes to the log, and into what the process publishes
of itself, where `federation reload` reads it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import structlog

from federation.access.setup import load_access
from federation.config.model import Config
from federation.config.reload import Changes, changes
from federation.core.clock import Clock, utc_text
from federation.core.errors import ConfigError
from federation.observability import logs
from federation.server import systemd
from federation.server.node import Node

_log = structlog.get_logger(__name__)

RELOAD = "reload"  # the key of what is published


class Reloader:
    """One reload at a time; all that are requested meanwhile become one more."""

    def __init__(self, config: Config, file: Path | None, node: Node, clock: Clock) -> None:
        """Take what the node runs with, and the file that it came from, if it was one."""
        self._running = config
        self._restart: list[str] = []  # keys whose new values wait for a restart
        self._file = file
        self._node = node
        self._clock = clock

    def __repr__(self) -> str:
        return f"<Reloader {self._file}>"

    async def run(self, asked: asyncio.Event) -> None:
        """Read everything again each time that the event is set, until cancelled."""
        while True:
            await asked.wait()
            asked.clear()
            _log.info("hangup", text="the configuration and the TLS files are read again")
            began_s = self._clock.monotonic_s()
            systemd.notify(f"RELOADING=1\nMONOTONIC_USEC={int(began_s * 1_000_000)}")
            outcome = await self._reload()
            at = utc_text(self._clock.wall_s())
            facts = {"began-monotonic-s": began_s, "at": at, **outcome}
            self._node.announce(**{RELOAD: facts})
            systemd.notify("READY=1")

    async def _reload(self) -> dict[str, Any]:
        try:
            found = await asyncio.to_thread(self._read)
            self._node.apply_config(found.config)
        except ConfigError as error:
            _log.error("reload_refused", text=str(error), still="everything as it was before")
            return self._outcome(error=str(error))
        except Exception as error:  # noqa: BLE001 - else no later reload would be served
            _log.exception("reload_failed")
            return self._outcome(error=f"unexpected {type(error).__name__}: {error}")
        # Behind what may refuse the file, so that a refused one changes nothing.
        logs.set_level(found.config.log.level)
        self._running, self._restart = found.config, found.restart
        self._node.reload_tls()
        _log.info("reloaded", file=_name(self._file), changed=found.now)
        if found.restart:
            _log.warning("restart_needed", keys=found.restart, still="their values as before")
        return self._outcome(changed=found.now)

    def _read(self) -> Changes:
        """Read and validate everything, and change nothing. Raises ConfigError."""
        # The files that a configuration names are read only to find mistakes: nothing may change
        # before every file is known to be good.
        if self._file is None:
            load_access(self._running)
            return Changes(self._running, [], [])
        # Not above: a node without a file need not import what reads YAML.
        from federation.config.file import lines_of, load  # noqa: PLC0415

        found = changes(self._running, load(self._file))
        with lines_of(self._file):
            load_access(found.config)
        return found

    def _outcome(self, *, changed: Sequence[str] = (), error: str | None = None) -> dict[str, Any]:
        return {"changed": changed, "needs-restart": self._restart, "error": error}


def _name(file: Path | None) -> str | None:
    return None if file is None else str(file)
