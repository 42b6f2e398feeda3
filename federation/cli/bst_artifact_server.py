"""bst-artifact-server: the command line of BuildStream's old server, in front of `serve`."""

from __future__ import annotations

from typing import Any

import click

from federation import __version__
from federation.cli.command import DIRECTORY, Command
from federation.cli.flags import Flag, config_of
from federation.cli.run import run
from federation.config.model import Config
from federation.core.errors import ConfigError

_EXAMPLES = """\b
Examples:
  bst-artifact-server --port 11001 --server-key server.key --server-cert server.crt /srv/artifacts
  bst-artifact-server --port 11002 --server-key server.key --server-cert server.crt \\
    --client-certs authorized.crt --enable-push /srv/artifacts
"""


@click.command(cls=Command, epilog=_EXAMPLES)
@click.version_option(__version__, prog_name="bst-artifact-server")
@click.option(
    "--port",
    "-p",
    type=click.IntRange(0, 65535),
    required=True,
    help="Port to listen on, on every address of this machine; 0: any free one.",
)
@click.option("--server-key", help="Private key of the server for TLS (PEM).")
@click.option("--server-cert", help="Certificate of the server for TLS (PEM).")
@click.option(
    "--client-certs",
    help="File with the certificates of the clients that are allowed in (PEM); no others are.",
)
@click.option(
    "--enable-push",
    is_flag=True,
    help="Let clients push: those of --client-certs; without that option, everybody.",
)
@click.option(
    "--head-room-min",
    type=click.IntRange(min=0),
    metavar="BYTES",
    help="Disk space that is always left free.  [default: 2G, at most 5 % of the disk]",
)
@click.option(
    "--head-room-max",
    type=click.IntRange(min=0),
    metavar="BYTES",
    help="Disk space to free once little more than --head-room-min is left.",
)
@click.option("--quota", help="Most bytes to store, e.g. 10G.  [default: the disk minus a reserve]")
@click.option(
    "--index-only",
    is_flag=True,
    help="Serve the index only, for clients whose blobs are on a `type: storage` server.",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    help="Number of processes that serve the port.  [default: 1]",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="Log events of this level and above.",
)
@click.argument("directory", metavar="DIR", type=DIRECTORY)
def bst_artifact_server(**given: Any) -> None:
    """Serve the artifacts in DIR: `federation serve` with the options of BuildStream's old server.

    Two of these on different ports may serve the same DIR, for example one for pulling and one for
    pushing. There is no HTTP listener; use `federation serve` for metrics and health.
    """
    run(_config(given), lambda _addresses: None)


def _config(given: dict[str, Any]) -> Config:
    least, most = given["head_room_min"], given["head_room_max"]
    if least is not None and most is not None and least > most:
        raise ConfigError("--head-room-min is more than --head-room-max")
    flags = [
        # As the old server: every address, over IPv6 and IPv4.
        Flag("--port", ("listeners", 0, "address"), f"[::]:{given['port']}"),
        Flag("--enable-push", ("listeners", 0, "push"), given["enable_push"]),
        Flag("--server-cert", ("listeners", 0, "tls", "server-cert"), given["server_cert"]),
        Flag("--server-key", ("listeners", 0, "tls", "server-key"), given["server_key"]),
        Flag("--client-certs", ("listeners", 0, "tls", "client-certs"), given["client_certs"]),
        Flag("DIR", ("data-dir",), str(given["directory"])),
        Flag("--head-room-min", ("storage", "reserve"), given["head_room_min"]),
        Flag("--head-room-max", ("storage", "reserve-max"), given["head_room_max"]),
        Flag("--index-only", ("listeners", 0, "type"), "index" if given["index_only"] else None),
        Flag("--quota", ("storage", "quota"), given["quota"]),
        Flag("--workers", ("workers",), given["workers"]),
        Flag("--log-level", ("log", "level"), given["log_level"]),
    ]
    # The old server had none, and two of these beside each other would both want its port.
    no_http = Flag("", ("http", "address"), None)
    return config_of([*(flag for flag in flags if flag.value is not None), no_http])
