"""The `federation` command and the list of its subcommands."""

from __future__ import annotations

import click

from federation import __version__
from federation.cli.authorize import authorize_command
from federation.cli.check_config import check_config
from federation.cli.command import EXIT_CODES
from federation.cli.drop_peer import drop_peer_command
from federation.cli.explain import explain
from federation.cli.gc import gc
from federation.cli.keygen import keygen
from federation.cli.offline import offline
from federation.cli.parked import parked
from federation.cli.rebuild import rebuild
from federation.cli.reconcile import reconcile
from federation.cli.reload import reload
from federation.cli.serve import serve
from federation.cli.status import status
from federation.cli.token import token
from federation.cli.verify import verify
from federation.cli.worker import worker


@click.group(epilog=EXIT_CODES, context_settings={"max_content_width": 100})
@click.version_option(__version__, prog_name="federation")
def main() -> None:
    """A durable build cache that BuildStream, Bazel and other REAPI clients use unchanged.

    \b
    federation serve                  a node on 127.0.0.1:8980, at once
    federation serve --config FILE    a node as the file describes it
    federation COMMAND --help         all about one command
    """


for command in (
    serve,
    check_config,
    reload,
    token,
    status,
    explain,
    offline,
    parked,
    reconcile,
    drop_peer_command,
    verify,
    worker,
    gc,
    rebuild,
    keygen,
    authorize_command,
):
    main.add_command(command)
