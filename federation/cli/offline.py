"""federation offline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from federation.cli.command import Command, json_option
from federation.cli.options import Place, place, place_options
from federation.cli.output import emit
from federation.cli.processes import BECAUSE, facts_of_processes, wait_for_switch
from federation.core.clock import utc_text

_SHOWN = ("pid", "http", "offline", BECAUSE, "not-known")


@click.command(
    cls=Command,
    epilog="\b\nExamples:\n  federation offline on\n  federation offline off\n  federation offline",
)
@click.argument("state", type=click.Choice(["on", "off"]), required=False)
@place_options
@json_option
def offline(
    state: str | None, config_path: Path | None, data_dir: Path | None, as_json: bool
) -> None:
    """Stop asking upstreams (on), ask them again (off), or show the current state and its reason.

    Every process that serves the data directory follows within about a second, which the command
    waits for. Running reads are completed. The switch stays as it is over restarts. The command
    needs no network. With `offline: true` in the configuration, the node is offline whatever the
    switch says.
    """
    where = place(config_path, data_dir)
    if state is not None:
        where.operations.turn_offline(on=state == "on")
        # So that a script which unplugs the network next does not meet calls that began before.
        wait_for_switch(where.operations, on=state == "on")
    emit(_facts(where), as_json=as_json)


def _facts(where: Place) -> dict[str, Any]:
    since_s = where.operations.offline_since_s()
    by_config = where.file is not None and where.file.offline
    facts: dict[str, Any] = {
        "offline": by_config or since_s is not None,
        "switch": "off" if since_s is None else "on",
        "switched-on-at": None if since_s is None else utc_text(since_s),
    }
    if where.file is not None:
        facts["config"] = "offline: true" if by_config else "offline: false"
    facts["processes"] = [
        {name: process[name] for name in _SHOWN if name in process}
        for process in facts_of_processes(where.operations)
    ]
    return facts
