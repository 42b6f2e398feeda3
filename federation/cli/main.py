"""The `federation` command and the list of its subcommands."""

from __future__ import annotations

from importlib import import_module
from typing import Final

import click

from federation import __version__
from federation.cli.command import EXIT_CODES

# Where each command is, in the order in which --help lists them.
_COMMANDS: Final = {
    "serve": "serve:serve",
    "check-config": "check_config:check_config",
    "reload": "reload:reload",
    "token": "token:token",
    "status": "status:status",
    "explain": "explain:explain",
    "offline": "offline:offline",
    "parked": "parked:parked",
    "reconcile": "reconcile:reconcile",
    "drop-peer": "drop_peer:drop_peer_command",
    "verify": "verify:verify",
    "worker": "worker:worker",
    "gc": "gc:gc",
    "rebuild": "rebuild:rebuild",
    "keygen": "keygen:keygen",
    "authorize": "authorize:authorize_command",
}


class _Commands(click.Group):
    """Loads a command when it is asked for.

    All of them together import most of the program: `federation token` took three times as long,
    and each start of a node half a second of CPU.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names, in the order of the list above."""
        del ctx
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command of this name; None if there is none."""
        del ctx
        where = _COMMANDS.get(cmd_name)
        if where is None:
            return None
        module, _, name = where.partition(":")
        command: click.Command = getattr(import_module(f"federation.cli.{module}"), name)
        return command


@click.group(cls=_Commands, epilog=EXIT_CODES, context_settings={"max_content_width": 100})
@click.version_option(__version__, prog_name="federation")
def main() -> None:
    """A durable build cache that BuildStream, Bazel and other REAPI clients use unchanged.

    \b
    federation serve                  a node on 127.0.0.1:8980, at once
    federation serve --config FILE    a node as the file describes it
    federation COMMAND --help         all about one command
    """
