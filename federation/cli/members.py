"""federation members."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from federation.cli.command import Command, json_option
from federation.cli.options import place, place_options
from federation.cli.output import emit
from federation.cli.parked import Group
from federation.mesh.folder import KnownMember, MeshFolder


@click.group(
    cls=Group,
    invoke_without_command=True,
    epilog="\b\nExamples:\n  federation members --config /etc/federation.yaml\n"
    "  federation members remove tokyo --config /etc/federation.yaml",
)
@place_options
@json_option
@click.pass_context
def members(
    context: click.Context, config_path: Path | None, data_dir: Path | None, as_json: bool
) -> None:
    """List the other members of this node's mesh: who they are, and how they came to be.

    `via` is `invited` for nodes that this one invited, `inviter` for the one that invited this
    node, and `introduced` for those that the inviter introduced. `federation status` shows how far
    behind each is.
    """
    if context.invoked_subcommand is not None:
        # click would take them silently and ignore them.
        if config_path or data_dir or as_json:
            raise click.UsageError(f"options go after {context.invoked_subcommand}")
        return
    folder = MeshFolder(place(config_path, data_dir).data_dir)
    emit({"members": [_shown(each) for each in folder.members()]}, as_json=as_json)


def _shown(known: KnownMember) -> dict[str, Any]:
    by = known.config.introduced_by
    return {
        "name": known.name,
        "url": known.config.peer.url,
        "via": known.config.via,
        **({} if by is None else {"introduced-by": by}),
        "introduces": known.config.introduces,
        "fingerprint-sha256": known.fingerprint if known.member.client_der else None,
    }


@members.command(
    cls=Command,
    epilog="\b\nExample:\n  federation members remove tokyo --config /etc/federation.yaml",
)
@click.argument("name")
@place_options
@json_option
def remove(name: str, config_path: Path | None, data_dir: Path | None, as_json: bool) -> None:
    """Stop replicating to a member, and accept nothing from it any more.

    A serving node follows within 2 s, and refuses the member's next call. Introductions of it are
    not taken any more; an invitation brings it back. Other members keep it: run this at each of
    them. `federation drop-peer` then deletes what is recorded about how far it was replicated to.
    """
    folder = MeshFolder(place(config_path, data_dir).data_dir)
    folder.remove(name)
    emit({"removed": name}, as_json=as_json)
