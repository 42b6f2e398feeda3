"""The `federation` command and the list of its subcommands."""

from __future__ import annotations

from importlib import import_module
from typing import Final, NamedTuple

import click

from federation import __version__
from federation.cli.command import EXIT_CODES


class _Listed(NamedTuple):
    """A command: where it is, and what --help says of it beside the others; "": nothing."""

    where: str
    help: str


_COMMANDS: Final = {
    "serve": _Listed("serve:serve", "Run a node."),
    "check-config": _Listed("check_config:check_config", "Say whether a configuration is good."),
    "reload": _Listed("reload:reload", "Have the processes read their configuration again."),
    "status": _Listed("status:status", "Show what is stored, who serves it, upstreams and peers."),
    "explain": _Listed("explain:explain", "Tell all about a blob, an asset or an action result."),
    "offline": _Listed("offline:offline", "Stop asking upstreams, or ask them again."),
    "parked": _Listed("parked:parked", "List what a peer refuses, or have it tried again."),
    "reconcile": _Listed("reconcile:reconcile", "Offer a peer all that is held here."),
    "drop-peer": _Listed(
        "drop_peer:drop_peer_command", "Forget a peer that has left the configuration."
    ),
    "verify": _Listed("verify:verify", "Read every blob and compare it with its digest."),
    "gc": _Listed("gc:gc", "Evict down to the low watermark of the quota, or further."),
    "rebuild": _Listed("rebuild:rebuild", "Make a new catalogue from the blob files."),
    "new-id": _Listed("new_id:new_id_command", "Give a copy of a data directory its own id."),
    "keygen": _Listed("keygen:keygen", "Make a certificate and its key, for a server or a client."),
    "authorize": _Listed(
        "authorize:authorize_command", "Add clients' certificates to those that are let in."
    ),
    "token": _Listed("token:token", "Make, list and revoke what callers show instead of them."),
    "worker": _Listed("worker:worker", ""),
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
        listed = _COMMANDS.get(cmd_name)
        if listed is None:
            return None
        module, _, name = listed.where.partition(":")
        command: click.Command = getattr(import_module(f"federation.cli.{module}"), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list without importing all of them."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, each.help) for name, each in _COMMANDS.items() if each.help])


@click.group(cls=_Commands, epilog=EXIT_CODES, context_settings={"max_content_width": 100})
@click.version_option(__version__, prog_name="federation")
def main() -> None:
    """A durable build cache that BuildStream, Bazel and other REAPI clients use unchanged.

    \b
    federation serve                  a node on 127.0.0.1:8980, at once
    federation serve --config FILE    a node as the file describes it
    federation COMMAND --help         all about one command
    """
