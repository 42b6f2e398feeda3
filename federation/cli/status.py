"""federation status."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from federation.cli.command import Command, json_option
from federation.cli.options import Place, place, place_options
from federation.cli.output import emit
from federation.cli.peers_table import print_peers, watch
from federation.cli.processes import facts_of_processes
from federation.core.clock import SystemClock
from federation.server.status.facts import gather
from federation.server.status.formats import rounded
from federation.server.status.overview import overview


@click.command(
    cls=Command,
    epilog="\b\nExamples:\n  federation status\n  federation status --all\n"
    "  federation status --watch\n  federation status --json | jq .statistics.day",
)
@click.option("--all", "shows_all", is_flag=True, help="Show all details below the eight lines.")
@click.option("--watch", "watches", is_flag=True, help="Show the peers live, until Ctrl-C.")
@place_options
@json_option
def status(
    shows_all: bool,
    watches: bool,
    config_path: Path | None,
    data_dir: Path | None,
    as_json: bool,
) -> None:
    """Show how a node is: what it holds, how much it helps, its upstreams and peers, and what needs
    attention.

    The first eight lines are for people; --all adds every detail, and --json has all of it for
    scripts. Hit rates are those of reads and of look-ups of action results and assets; "saved" is
    what a link to an upstream or peer did not have to carry.

    Reads the data directory, whether or not a node is running, and asks each serving process; one
    that does not answer within a second is shown as such. Changes nothing.
    """
    where = place(config_path, data_dir)
    if watches:
        if as_json or shows_all or not sys.stdout.isatty():
            raise click.UsageError(
                "--watch needs a terminal, and neither --json nor --all; scripts can repeat the "
                "command"
            )
        watch(lambda: _glance(_facts(where)))
        return
    facts = _facts(where)
    if as_json:
        emit(facts, as_json=True)
        return
    _print_overview(facts)
    if shows_all:
        # As a table at the end: a record of thirty lines for each peer tells nobody anything.
        peers = facts.pop("peers")
        click.echo()
        emit(facts, as_json=False)
        if peers:
            click.echo("peers:")
            print_peers(peers)


def _facts(where: Place) -> dict[str, Any]:
    processes = facts_of_processes(where.operations)
    # None is not "no peers": without a file nobody knows which are still wanted.
    configured = None if where.file is None else [peer.name for peer in where.file.peers]
    wall_s = SystemClock().wall_s()
    return gather(where.operations, where.data_dir, processes, configured, wall_s)


def _print_overview(facts: dict[str, Any]) -> None:
    for line in overview(facts, SystemClock().wall_s()):
        text = line.text if line.fine else click.style(line.text, fg="yellow")
        click.echo(f"{line.label + ':':<11}{text}")
    for further in facts["attention"][1:]:
        click.echo(f"{'':<11}{click.style(further, fg='yellow')}")


def _glance(facts: dict[str, Any]) -> tuple[str, list[dict[str, Any]]]:
    serving = ", ".join(
        f"{each.get('node', each['pid'])} {each.get('status', each.get('not-known', ''))}".strip()
        for each in facts["processes"]
    )
    held = f"{facts['blobs']} blobs, {facts['entries']} entries, {rounded(facts['bytes'])}"
    return f"{serving or 'nothing serves'}; {held}", facts["peers"]
