"""federation check-config FILE."""

from __future__ import annotations

from pathlib import Path

import click

from federation.access.setup import load_access
from federation.cli.command import FILE, Command, json_option
from federation.cli.output import emit_json
from federation.config.file import lines_of, load
from federation.server.config_warnings import advice
from federation.server.server_factory import check_installed


@click.command(
    "check-config",
    cls=Command,
    epilog="\b\nExample:\n  federation check-config /etc/federation.yaml && systemctl restart ...",
)
@click.argument("file", type=FILE)
@json_option
def check_config(file: Path, as_json: bool) -> None:
    """Check the configuration FILE, and report every problem with its line.

    Makes the checks that `serve` makes before it changes anything: the file itself, and the
    certificates, keys and lists that it names.
    """
    config = load(file)
    with lines_of(file):
        check_installed(config.transport)
        load_access(config)
    warnings = [item.text for item in advice(config, file)]
    if as_json:
        shown = config.model_dump(mode="json", by_alias=True)
        emit_json({"file": str(file), "problems": [], "warnings": warnings, "config": shown})
        return
    for text in warnings:
        click.echo(f"{file}: warning: {text}", err=True)
    click.echo(f"{file}: good")
