"""federation parked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from federation.cli.command import Command, json_option
from federation.cli.options import check_peer, place, place_options
from federation.cli.output import emit
from federation.core.clock import utc_text
from federation.core.replication_log import Parked

_SHOWN = 1000


class Group(Command, click.Group):
    """A command that also has commands of its own."""


@click.group(
    cls=Group,
    invoke_without_command=True,
    epilog="\b\nExamples:\n  federation parked\n  federation parked --peer tokyo --json\n"
    "  federation parked retry --peer tokyo",
)
@click.option("--peer", help="Only what is parked for this peer.  [default: all]")
@place_options
@json_option
@click.pass_context
def parked(
    context: click.Context,
    peer: str | None,
    config_path: Path | None,
    data_dir: Path | None,
    as_json: bool,
) -> None:
    """List the objects that a peer refuses permanently, or that cannot be sent, with the reasons.

    Parked objects do not delay others. Each is retried about once an hour, and at once after
    `federation parked retry`. The list shows the oldest thousand.
    """
    if context.invoked_subcommand is not None:
        # click would take them silently and ignore them.
        if peer or config_path or data_dir or as_json:
            raise click.UsageError(f"options go after {context.invoked_subcommand}")
        return
    where = place(config_path, data_dir)
    if peer is not None:
        check_peer(where, peer)
    rows = where.operations.parked(peer, _SHOWN)
    emit({"parked": [_shown(row) for row in rows]}, as_json=as_json)


def _shown(row: Parked) -> dict[str, Any]:
    kind = "blob" if row.key is None else row.key.kind.name.lower().replace("_", " ")
    return {
        "object": row.label or str(row.digest),
        "kind": kind,
        **({} if row.key is None else {"instance": row.key.instance}),
        "peer": row.peer,
        "reason": row.reason,
        "parked-at": utc_text(row.parked_at_s),
        "tries": row.tries,
        "retry-asked": row.retry,
    }


@parked.command(
    cls=Command,
    epilog="\b\nExamples:\n  federation parked retry\n  federation parked retry --peer tokyo",
)
@click.option("--peer", help="Only what is parked for this peer.  [default: all]")
@place_options
@json_option
def retry(peer: str | None, config_path: Path | None, data_dir: Path | None, as_json: bool) -> None:
    """Ask for parked objects to be retried.

    The process that replicates does so within seconds. An object that is refused again stays
    parked, with the new reason. The command itself needs no network.
    """
    where = place(config_path, data_dir)
    if peer is not None:
        check_peer(where, peer)
    asked = where.operations.retry_parked(peer)
    # Told because nothing is retried while no process serves.
    serving = len(where.operations.processes())
    emit({"retry-asked": asked, "processes": serving}, as_json=as_json)
