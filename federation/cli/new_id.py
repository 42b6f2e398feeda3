"""federation new-id."""

from __future__ import annotations

from pathlib import Path

import click

from federation.cli.command import Command, json_option
from federation.cli.options import place, place_options
from federation.cli.output import emit


@click.command(
    "new-id",
    cls=Command,
    epilog="\b\nExample:\n  cp -r /srv/node /mnt/copy && federation new-id --data-dir /mnt/copy",
)
@place_options
@json_option
def new_id_command(config_path: Path | None, data_dir: Path | None, as_json: bool) -> None:
    """Give a copy of a data directory an id of its own.

    Nodes recognise each other by the ids in their data directories. Two nodes with the same id take
    each other for themselves, and exchange nothing. The stored objects stay. Refused while a node
    serves the directory.
    """
    done = place(config_path, data_dir).operations.new_id()
    emit({"node-id-before": done.before, "node-id": done.now}, as_json=as_json)
