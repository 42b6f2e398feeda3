"""federation status."""

from __future__ import annotations

from pathlib import Path

import click

from federation.cli.command import Command, json_option
from federation.cli.options import place, place_options
from federation.cli.output import emit_json, lines
from federation.storage.offline import summary


@click.command(
    cls=Command, epilog="\b\nExamples:\n  federation status\n  federation status --json | jq .bytes"
)
@place_options
@json_option
def status(config_path: Path | None, data_dir: Path | None, as_json: bool) -> None:
    """Show what is stored, and which processes serve it at which addresses.

    Reads the data directory, beside a running node or without one, and changes nothing.
    """
    facts = summary(place(config_path, data_dir).data_dir)
    if as_json:
        emit_json(facts)
    else:
        click.echo("\n".join(lines(facts)))
