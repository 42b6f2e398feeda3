"""federation serve."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from federation.cli.command import Command
from federation.cli.flags import Flag, config_of
from federation.cli.hints import hints
from federation.cli.run import run
from federation.config.model import Config
from federation.config.types import Location, parse_address

_DEFAULT_ADDRESS = "127.0.0.1:8980"
_EXAMPLES = """\b
Examples:
  federation serve
  federation serve --address 0.0.0.0:8980 --no-push --quota 200G
  federation serve --config /etc/federation.yaml
"""
_KEY_OF: dict[str, Location] = {
    "address": ("listeners", 0, "address"),
    "push": ("listeners", 0, "push"),
    "tls_cert": ("listeners", 0, "tls", "server-cert"),
    "tls_key": ("listeners", 0, "tls", "server-key"),
    "http": ("http", "address"),
    "quota": ("storage", "quota"),
    "data_dir": ("data-dir",),
    "node_name": ("node-name",),
    "workers": ("workers",),
    "log_level": ("log", "level"),
    "log_format": ("log", "format"),
}


@click.command(cls=Command, epilog=_EXAMPLES)
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Read everything from this file; no other option then.",
)
@click.option(
    "--address", help=f"host:port for gRPC, port 0 picks one.  [default: {_DEFAULT_ADDRESS}]"
)
@click.option(
    "--push/--no-push",
    default=None,
    help="Whether callers may write.  [default: only if the address is loopback]",
)
@click.option(
    "--http", help='host:port for metrics and health, or "none".  [default: 127.0.0.1:8981]'
)
@click.option("--quota", help="Most bytes kept, e.g. 500G.  [default: the disk less a reserve]")
@click.option(
    "--data-dir", help="Where to store.  [default: federation/ in the XDG data directory]"
)
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    help="Processes that serve the same ports, so that all cores do.  [default: 1]",
)
@click.option("--node-name", help="What people call this node.  [default: the host name]")
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    help="Least severe events logged; debug has one line per request.  [default: info]",
)
@click.option(
    "--log-format",
    type=click.Choice(["auto", "console", "json"]),
    help="auto: console on a terminal, JSON otherwise.  [default: auto]",
)
@click.option("--tls-cert", help="Serve TLS with this certificate (PEM, its chain behind it).")
@click.option("--tls-key", help="The private key of --tls-cert (PEM).")
def serve(config_path: Path | None, **flags: Any) -> None:
    """Run a node until SIGTERM or Ctrl-C, which let running calls finish first.

    Without any option it listens on 127.0.0.1:8980 (gRPC, anyone on this machine may push) and
    127.0.0.1:8981 (metrics and health), and stores under the XDG data directory.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    if config_path is not None and given:
        raise click.UsageError("--config takes everything from the file: give no other option")
    if config_path is not None:
        # Not above: a node without a file need not import what reads YAML.
        from federation.config.file import load  # noqa: PLC0415

        config = load(config_path)
    else:
        config = from_flags(given)

    def ready(addresses: list[str]) -> None:
        click.echo(hints(config, addresses))

    run(config, ready, config_path and config_path.absolute())


def from_flags(given: dict[str, Any]) -> Config:
    """Return the configuration that these flags describe. Raises ConfigError naming the flag."""
    address = given.setdefault("address", _DEFAULT_ADDRESS)
    given.setdefault("push", _is_loopback(address))
    if given.get("http") == "none":
        given["http"] = None
    return config_of(
        [Flag(f"--{name.replace('_', '-')}", _KEY_OF[name], given[name]) for name in given]
    )


def _is_loopback(address: str) -> bool:
    try:
        return parse_address(address).is_loopback
    except ValueError:
        return False  # the model will say what is wrong with it
