"""federation backup and federation restore."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from federation.cli.command import DIRECTORY, Command, json_option
from federation.cli.options import place, place_options
from federation.cli.output import emit_report
from federation.cli.progress import progress
from federation.server.exit_codes import FOUND_PROBLEMS
from federation.storage.reports import BackupReport


@click.command(
    cls=Command,
    epilog="\b\nExamples:\n  federation backup /mnt/backup --config /etc/federation.yaml\n"
    "  federation backup /mnt/backup && federation verify --data-dir /mnt/backup",
)
@click.argument("folder", type=DIRECTORY)
@place_options
@json_option
def backup(folder: Path, config_path: Path | None, data_dir: Path | None, as_json: bool) -> None:
    """Copy all that is stored into FOLDER, as it is at one moment, while nodes serve.

    Run again, it copies what is new and removes what was evicted. Each blob is compared with its
    digest as it is copied. The backup changes at once, at the end: broken off, it stays as it was.
    FOLDER is a data directory itself, which `federation verify` checks. It has the certificates
    and keys of the mesh, but no configuration: keep that beside it.

    Exits with 1 if blobs were damaged, and so left out.
    """
    operations = place(config_path, data_dir).operations
    with progress("copying") as report:
        found = operations.backup(folder, report)
    _end(found, as_json=as_json)


@click.command(
    cls=Command,
    epilog="\b\nExample:\n  federation restore /mnt/backup --data-dir /var/lib/federation",
)
@click.argument("folder", type=DIRECTORY)
@place_options
@json_option
def restore(folder: Path, config_path: Path | None, data_dir: Path | None, as_json: bool) -> None:
    """Copy the backup in FOLDER into a data directory that holds nothing yet.

    Each blob is compared with its digest. The node has the id it had; if the original still runs,
    give this one another id by `federation new-id` before it starts. Peers are compared with once
    more, and get what they lack.

    Exits with 1 if blobs of the backup were damaged, and so left out.
    """
    operations = place(config_path, data_dir).operations
    with progress("restoring") as report:
        found = operations.restore(folder, report)
    _end(found, as_json=as_json)


def _end(found: BackupReport, *, as_json: bool) -> None:
    emit_report(found, as_json=as_json)
    if not found.ok:
        sys.exit(FOUND_PROBLEMS)
