"""The `federation` command and the list of its subcommands."""

from __future__ import annotations

from importlib import import_module
from typing import Final, NamedTuple

import click

from federation import __version__
from federation.cli.command import EXIT_CODES


class _Listed(NamedTuple):
    """Where a command is, and its line in --help; "": it is not listed."""

    where: str
    help: str


_COMMANDS: Final = {
    "serve": _Listed("serve:serve", "Run a node."),
    "check-config": _Listed("check_config:check_config", "Check a configuration file."),
    "reload": _Listed(
        "reload:reload", "Make the serving processes read their configuration again."
    ),
    "status": _Listed(
        "status:status", "Show what is stored, the serving processes, upstreams and peers."
    ),
    "explain": _Listed(
        "explain:explain", "Show everything about a blob, an asset or an action result."
    ),
    "offline": _Listed("offline:offline", "Stop asking upstreams, or start again."),
    "pull": _Listed("pull:pull", "Bring assets, action results and blobs here in advance."),
    "parked": _Listed("parked:parked", "List objects that peers refuse, or retry them."),
    "reconcile": _Listed("reconcile:reconcile", "Send a peer everything that it lacks."),
    "drop-peer": _Listed(
        "drop_peer:drop_peer_command", "Delete the records of a peer that was removed."
    ),
    "verify": _Listed("verify:verify", "Read every blob and compare it with its digest."),
    "purge": _Listed("purge:purge", "Delete a blob or entries for good, here and at every peer."),
    "pin": _Listed("pin:pin", "Keep objects from eviction, for good or until a date."),
    "unpin": _Listed("pin:unpin", "Remove pins."),
    "pins": _Listed("pin:pins", "List pins, and what they take."),
    "gc": _Listed("gc:gc", "Evict down to the low watermark of the quota, or further."),
    "rebuild": _Listed("rebuild:rebuild", "Create a new catalogue from the blob files."),
    "backup": _Listed("backup:backup", "Copy all that is stored into a folder."),
    "restore": _Listed("backup:restore", "Copy a backup into a data directory."),
    "new-id": _Listed("new_id:new_id_command", "Give a copy of a data directory an id of its own."),
    "keygen": _Listed(
        "keygen:keygen", "Create a certificate and its key, for a server or a client."
    ),
    "authorize": _Listed(
        "authorize:authorize_command", "Add certificates to the list of allowed clients."
    ),
    "invite": _Listed("invite:invite", "Print a code with which one node can join the mesh."),
    "join": _Listed("join:join", "Join the mesh of the node that has printed a code."),
    "members": _Listed("members:members", "List the members of the mesh, or remove one."),
    "token": _Listed("token:token", "Create, list and revoke access tokens."),
    "manual": _Listed("manual:manual", "Install the man page and completions for shells."),
    "worker": _Listed("worker:worker", ""),
}


class _Commands(click.Group):
    """Imports a command when it is used.

    All commands together import most of the program, which would take half a second of CPU.
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

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command of these arguments. Raises UsageError, which names similar commands."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from difflib import get_close_matches  # noqa: PLC0415 - most commands exist

            # Hidden ones are not for people.
            known = [name for name, each in _COMMANDS.items() if each.help]
            similar = get_close_matches(args[0], known)
            if not similar:
                raise
            text = f"{error.message} Did you mean {' or '.join(map(repr, similar))}?"
            raise click.UsageError(text, ctx) from None

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
    federation serve                  run a node on 127.0.0.1:8980
    federation serve --config FILE    run a node with this configuration
    federation COMMAND --help         show the options of a command
    """
