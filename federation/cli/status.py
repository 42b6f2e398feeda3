"""federation status."""

from __future__ import annotations

from pathlib import Path

import click

from federation.cli.command import Command, json_option
from federation.cli.options import place, place_options
from federation.cli.output import emit
from federation.cli.processes import facts_of_processes
from federation.storage.offline import summary


@click.command(
    cls=Command, epilog="\b\nExamples:\n  federation status\n  federation status --json | jq .bytes"
)
@place_options
@json_option
def status(config_path: Path | None, data_dir: Path | None, as_json: bool) -> None:
    """Show what is stored, which processes serve it where, and how their upstreams are.

    Reads the data directory, beside a running node or without one, and asks each process over
    HTTP for what only it knows; one that does not answer within a second is shown as such.
    Changes nothing.
    """
    where = place(config_path, data_dir).data_dir
    emit({**summary(where), "processes": facts_of_processes(where)}, as_json=as_json)
