"""federation serve."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from federation.cli.command import Command, config_option
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
@config_option("Read the configuration from this file; no other option is allowed then.")
@click.option(
    "--address", help=f"host:port for gRPC; port 0: any free one.  [default: {_DEFAULT_ADDRESS}]"
)
@click.option(
    "--push/--no-push",
    default=None,
    help="Whether clients may push.  [default: only if the address is loopback]",
)
@click.option(
    "--http", help='host:port for metrics and health, or "none".  [default: 127.0.0.1:8981]'
)
@click.option(
    "--quota", help="Most bytes to store, e.g. 500G.  [default: the disk minus a reserve]"
)
@click.option(
    "--data-dir", help="The data directory.  [default: federation/ in the XDG data directory]"
)
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    help="Number of processes that serve the same ports, to use several cores.  [default: 1]",
)
@click.option("--node-name", help="Name of this node in logs and pages.  [default: the host name]")
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    help="Log events of this level and above; debug: each request.  [default: info]",
)
@click.option(
    "--log-format",
    type=click.Choice(["auto", "console", "json"]),
    help="auto: console on a terminal, JSON otherwise.  [default: auto]",
)
@click.option("--tls-cert", help="Serve TLS with this certificate (PEM, followed by its chain).")
@click.option("--tls-key", help="The private key of --tls-cert (PEM).")
def serve(config_path: Path | None, **flags: Any) -> None:
    """Run a node until SIGTERM or Ctrl-C; running calls are completed first.

    Without options it listens on 127.0.0.1:8980 (gRPC; every program of this machine may push) and
    127.0.0.1:8981 (metrics and health), and stores in the XDG data directory.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    if config_path is not None and given:
        raise click.UsageError("--config cannot be combined with other options")

    def ready(addresses: list[str]) -> None:
        click.echo(hints(config, addresses))

    if config_path is None:
        config = from_flags(given)
        run(config, ready)
        return
    # Imported here, as a node without a file does not need the YAML parser.
    from federation.config.file import lines_of, load  # noqa: PLC0415

    config = load(config_path)
    with lines_of(config_path):
        if config.mesh.url is not None and prepare_mesh(config, config.mesh.url):
            config = load(config_path)  # with the listener that the new certificates are for
        # Absolute: the file is read again at a reload, whatever the working directory is.
        run(config, ready, config_path.absolute())


def prepare_mesh(config: Config, url: str) -> bool:
    """Make the certificates of a node that is in a mesh, if it has none yet; return if it did.

    Raises ConfigError if those that it has are for another name.
    """
    # Not above: few nodes need it.
    from federation.core.clock import SystemClock  # noqa: PLC0415
    from federation.mesh.folder import MeshFolder  # noqa: PLC0415

    return MeshFolder(config.data_dir).prepare(config.node_name, url, SystemClock().wall_s())


def from_flags(given: dict[str, Any]) -> Config:
    """Return the configuration that these flags describe. Raises ConfigError naming the flag."""
    address = given.setdefault("address", _DEFAULT_ADDRESS)
    # An open port that takes pushes has to be asked for.
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
        return False  # the model reports what is wrong with it
