"""federation gc."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from federation.cli.command import Command, json_option
from federation.cli.options import place, place_options
from federation.cli.output import emit_report
from federation.cli.progress import progress
from federation.cli.values import SizeType
from federation.server.exit_codes import FOUND_PROBLEMS


@click.command(cls=Command, epilog="\b\nExamples:\n  federation gc\n  federation gc --to 100G")
@place_options
@click.option(
    "--to", "target_bytes", type=SizeType(), help="Evict until at most this much is kept."
)
@json_option
def gc(
    config_path: Path | None, data_dir: Path | None, target_bytes: int | None, as_json: bool
) -> None:
    """Evict down to the low watermark of the quota, or to --to, and remove left-over files.

    The least recently used goes first, never what is leased: then less is freed than was asked
    for, and the exit code is 1. A serving node does this by itself; beside one, it does the work.
    """
    operations = place(config_path, data_dir).operations
    with progress("evicting") as report:
        done = operations.collect(report, target_bytes=target_bytes)
    emit_report(done, as_json=as_json)
    if done.held_back:
        sys.exit(FOUND_PROBLEMS)
