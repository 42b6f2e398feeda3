"""federation invite."""

from __future__ import annotations

import hashlib
import secrets
from pathlib import Path

import click

from federation.cli.command import Command, config_option, json_option
from federation.cli.mesh_options import mesh_node
from federation.cli.output import emit_json
from federation.config.mesh import authority_of
from federation.config.types import format_duration, parse_duration
from federation.core.clock import SystemClock, utc_text
from federation.core.errors import ConfigError
from federation.mesh.invitation import HOURS_MAX, SECRET_BYTES, Invitation

_EXAMPLES = """\b
Examples:
  federation invite --config /etc/federation.yaml
  federation invite --config /etc/federation.yaml --expires 10m --json
"""
_HOUR_S = 3600


@click.command(cls=Command, epilog=_EXAMPLES)
@click.option(
    "--expires",
    default="1h",
    show_default=True,
    help="How long the code may be used, e.g. 10m or 2d; at most 7d.",
)
@config_option("The configuration of this node, with `mesh.url`.")
@json_option
def invite(expires: str, config_path: Path | None, as_json: bool) -> None:
    """Print a code with which one other node can join this node's mesh.

    Members of a mesh replicate to each other. At the other site `federation join CODE` shows what
    it is about to do, exchanges certificates with this node, and writes the entries of both nodes.
    This node then introduces the new member to all members that it invited before, and those to
    the new one. So five nodes need four joins; have one node invite all others.

    The code is good once, until it expires. Whoever has it can join in place of the node that it
    is meant for: send it over a channel that you trust. Somebody who merely reads or changes the
    traffic between the sites learns nothing, and cannot join. `federation members` shows who did.

    This node must be serving, and reachable under `mesh.url`, when the other one joins. The
    configuration file is not changed: members are files in mesh/members in the data directory.
    """
    node = mesh_node(config_path)
    now_s = SystemClock().wall_s()
    until_s = int(now_s + _checked(expires))
    invitation = Invitation(
        authority_of(node.me.url),
        # By this the joiner recognises this node, before either trusts anything else.
        hashlib.sha256(node.me.server_der).digest(),
        secrets.token_bytes(SECRET_BYTES),
        until_s,
    )
    node.folder.add_invitation(invitation.pair(), now_s)
    introduced = [each.name for each in node.folder.members()]
    if as_json:
        emit_json(
            {
                "code": invitation.code(),
                "expires": utc_text(until_s),
                "inviter": {"name": node.me.name, "url": node.me.url},
                "introduced": introduced,
                "served": node.is_served,
            }
        )
        return
    lasts = format_duration(until_s - int(now_s))
    click.echo(f"One node may join {node.me.name} ({node.me.url}) within {lasts}. At its site:\n")
    click.echo(f"    federation join --config FILE {invitation.code()}\n")
    if introduced:
        click.echo(f"It will also become a peer of: {', '.join(introduced)}")
    # Said here: the other site would only see that nobody answers.
    if not node.is_served:
        click.echo("No process serves this node now: start it before the other one joins", err=True)


def _checked(expires: str) -> float:
    """Return seconds. Raises ConfigError."""
    try:
        seconds = parse_duration(expires)
    except ValueError as error:
        raise ConfigError(f"--expires {expires}: {error}") from None
    if not 1 <= seconds <= HOURS_MAX * _HOUR_S:
        raise ConfigError(f"--expires {expires}: between 1 second and {HOURS_MAX // 24} days")
    return float(seconds)
