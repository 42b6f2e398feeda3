"""federation rebuild."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from federation.cli.command import Command, json_option
from federation.cli.options import place, place_options
from federation.cli.output import emit_report
from federation.cli.progress import progress
from federation.server.exit_codes import FOUND_PROBLEMS


@click.command(cls=Command, epilog="\b\nExample:\n  federation rebuild --data-dir /srv/federation")
@place_options
@json_option
def rebuild(config_path: Path | None, data_dir: Path | None, as_json: bool) -> None:
    """Create a new catalogue from the blob files, after the catalogue was lost or damaged.

    Reads and verifies every file. Small blobs, action results and assets, which are in the
    catalogue only, are taken from the old one as far as it can be read; clients push the rest
    again. The old catalogue is kept as catalogue.old.sqlite. Refused while a node serves the
    directory. An interrupted rebuild changes nothing. Exits with 1 if damaged files were set aside.
    """
    operations = place(config_path, data_dir).operations
    with progress("rebuilding") as report:
        done = operations.rebuild(report)
    emit_report(done, as_json=as_json)
    if done.damaged_files:
        sys.exit(FOUND_PROBLEMS)
