"""bst-artifact-server: the command line of BuildStream's old server, in front of `serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from federation import __version__
from federation.cli.command import Command
from federation.cli.flags import Flag, config_of
from federation.cli.run_node import run
from federation.config import Config

_EXAMPLES = """\b
Example:
  bst-artifact-server --port 11001 --server-key server.key --server-cert server.crt /srv/artifacts
"""


@click.command(cls=Command, epilog=_EXAMPLES)
@click.version_option(__version__, prog_name="bst-artifact-server")
@click.option(
    "--port",
    "-p",
    type=click.IntRange(0, 65535),
    required=True,
    help="Port to listen on, on every address of this machine; 0 picks one.",
)
@click.option("--server-key", help="Private key of the server for TLS (PEM).")
@click.option("--server-cert", help="Certificate of the server for TLS (PEM).")
@click.option(
    "--enable-push", is_flag=True, help="Let callers write. Whoever reaches the port may."
)
@click.option("--quota", help="Most bytes kept, e.g. 10G.  [default: the disk less a reserve]")
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="Least severe events logged.",
)
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
def artifact_server(**given: Any) -> None:
    """Serve the artifacts in DIR. The same node as `federation serve`, with the old options.

    Two of these on different ports may serve one DIR, as one for pulling and one for pushing. There
    is no HTTP listener; use `federation serve` for metrics and health.
    """
    run(_config(given), lambda _node: None)


def _config(given: dict[str, Any]) -> Config:
    flags = [
        Flag("--port", ("listeners", 0, "address"), f"[::]:{given['port']}"),
        Flag("--enable-push", ("listeners", 0, "push"), given["enable_push"]),
        Flag("--server-cert", ("listeners", 0, "tls", "server-cert"), given["server_cert"]),
        Flag("--server-key", ("listeners", 0, "tls", "server-key"), given["server_key"]),
        Flag("DIR", ("data-dir",), str(given["directory"])),
        Flag("--quota", ("storage", "quota"), given["quota"]),
        Flag("--log-level", ("log", "level"), given["log_level"]),
    ]
    no_http = Flag("", ("http", "address"), None)
    return config_of([*(flag for flag in flags if flag.value is not None), no_http])
