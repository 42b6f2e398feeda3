"""federation status."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from federation.cli.command import Command, json_option
from federation.cli.options import Place, place, place_options
from federation.cli.output import emit, rounded
from federation.cli.peer_facts import peers_together, without_peers
from federation.cli.peers_table import print_peers, watch
from federation.cli.processes import facts_of_processes


@click.command(
    cls=Command,
    epilog="\b\nExamples:\n  federation status\n  federation status --watch\n"
    "  federation status --json | jq .bytes",
)
@click.option("--watch", "watches", is_flag=True, help="Show the peers live, until Ctrl-C.")
@place_options
@json_option
def status(watches: bool, config_path: Path | None, data_dir: Path | None, as_json: bool) -> None:
    """Show what is stored, which processes serve it, and the state of their upstreams and peers.

    Reads the data directory, whether or not a node is running, and asks each serving process over
    HTTP; one that does not answer within a second is shown as such. Changes nothing.
    """
    where = place(config_path, data_dir)
    if watches:
        if as_json or not sys.stdout.isatty():
            raise click.UsageError(
                "--watch needs a terminal and no --json; scripts can repeat the command"
            )
        watch(lambda: _glance(_facts(where)))
        return
    facts = _facts(where)
    if as_json:
        emit(facts, as_json=True)
        return
    peers = facts.pop("peers")
    emit(facts, as_json=False)
    if peers:
        click.echo("peers:")
        print_peers(peers)


def _facts(where: Place) -> dict[str, Any]:
    facts = where.operations.summary()
    processes = facts_of_processes(where.operations)
    configured = None if where.file is None else [peer.name for peer in where.file.peers]
    return {
        **facts,
        "processes": [without_peers(process) for process in processes],
        "peers": peers_together(facts["peers"], processes, configured),
    }


def _glance(facts: dict[str, Any]) -> tuple[str, list[dict[str, Any]]]:
    serving = ", ".join(
        f"{each.get('node', each['pid'])} {each.get('status', each.get('not-known', ''))}".strip()
        for each in facts["processes"]
    )
    held = f"{facts['blobs']} blobs, {facts['entries']} entries, {rounded(facts['bytes'])}"
    return f"{serving or 'nothing serves'}; {held}", facts["peers"]
