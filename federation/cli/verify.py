"""federation verify."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from federation.cli.command import Command, json_option
from federation.cli.options import place, place_options
from federation.cli.output import emit_report
from federation.cli.progress import progress
from federation.server.exit_codes import FOUND_PROBLEMS


@click.command(
    cls=Command, epilog="\b\nExamples:\n  federation verify\n  federation verify --repair"
)
@place_options
@click.option(
    "--repair",
    is_flag=True,
    help="Set damaged blobs aside; a node fetches them again, or clients push them.",
)
@json_option
def verify(config_path: Path | None, data_dir: Path | None, repair: bool, as_json: bool) -> None:
    """Read every stored blob and compare it with its digest, and check the catalogue.

    Can run beside a serving node. Exits with 1 if anything is wrong, repaired or not.
    """
    operations = place(config_path, data_dir).operations
    with progress("verifying") as report:
        found = operations.verify(report, repair=repair)
    emit_report(found, as_json=as_json)
    if not found.ok:
        sys.exit(FOUND_PROBLEMS)
