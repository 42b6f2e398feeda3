"""federation join."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any, Protocol

import click

from federation.access.allowlist import fingerprint_of
from federation.cli.command import Command, config_option, json_option
from federation.cli.mesh_options import MeshNode, mesh_node
from federation.cli.output import emit_json
from federation.core.clock import SystemClock, utc_text
from federation.core.errors import ConfigError
from federation.mesh.invitation import Invitation, parse_code
from federation.mesh.joining import Inviter, Taken, problems_of, take
from federation.remote.credentials import Certificates
from federation.server.exit_codes import FOUND_PROBLEMS
from federation.services.status_codes import clean
from federation.wire.mesh import Joining, Member


class Joins(Protocol):
    """What an Inviter does for this command."""

    async def join(self) -> Joining:
        """See Inviter."""
        ...


_EXAMPLES = """\b
Examples:
  federation join --config /etc/federation.yaml fed-AWtJ0g...
  federation join --config /etc/federation.yaml --dry-run - < code.txt
"""


@click.command(cls=Command, epilog=_EXAMPLES)
@click.argument("code")
@click.option("--yes", is_flag=True, help="Join without asking.")
@click.option("--dry-run", is_flag=True, help="Show what joining would do, and do not join.")
@config_option("The configuration of this node, with `mesh.url`.")
@json_option
def join(code: str, yes: bool, dry_run: bool, config_path: Path | None, as_json: bool) -> None:
    """Join the mesh of the node that has printed CODE (`federation invite`).

    Shows who has invited this node, whom that node introduces, and what this node sends about
    itself; then asks. Both nodes then write each other's entry, and the inviter tells its other
    members. From then on all of them replicate to each other, and this node takes further members
    that the inviter introduces. A serving node takes this over by itself within seconds.

    The inviter is recognised by the fingerprint in the code, and this node by the secret in it. A
    code that was used, has expired or was made for another node changes nothing. If the connection
    breaks while joining, run the same command again. `-` reads the code from standard input, which
    keeps it out of the list of processes.
    """
    # Checked first: the code is good once, and must not be lost on a question that nobody can
    # answer.
    if not (yes or dry_run) and (as_json or not sys.stdin.isatty() or code == "-"):
        raise ConfigError("nobody can be asked here: give --yes to join, or --dry-run to look")
    invitation = parse_code(sys.stdin.readline() if code == "-" else code)
    now_s = SystemClock().wall_s()
    if invitation.until_s < now_s:
        raise ConfigError(
            f"the code expired on {utc_text(invitation.until_s)}; ask for another one"
        )
    node = mesh_node(config_path)
    inviter = Inviter(invitation, node.me, _own(node), SystemClock())
    # Preview changes nothing at the inviter: the code stays good until somebody agrees.
    found = asyncio.run(inviter.preview())
    problems = problems_of(found, now_s)
    if not as_json:
        _show(node, found, invitation, problems)
    # Without the inviter nothing can be taken; of others, those that can be.
    if found.inviter.name in problems:
        raise ConfigError(f"nothing was changed: {problems[found.inviter.name]}")
    if dry_run:
        taken = Taken([], [])
    elif yes or click.confirm("\nJoin?", err=True):
        taken = _join(node, inviter, found, now_s)
    else:
        raise ConfigError("nothing was changed")
    if as_json:
        emit_json(_facts(node, found, taken, dry_run=dry_run))
    elif not dry_run:
        click.echo(f"\njoined: {', '.join(taken.added) or 'no new members'}")
        for each in taken.refused:
            click.echo(f"not taken: {clean(each)}", err=True)
        if not node.is_served:
            click.echo(f"start this node now: federation serve --config {config_path}", err=True)
    if problems or taken.refused:
        sys.exit(FOUND_PROBLEMS)


def _own(node: MeshNode) -> Certificates:
    files = node.folder.files
    return Certificates(key=files.client_key.read_bytes(), chain=files.client_cert.read_bytes())


def _join(node: MeshNode, inviter: Joins, shown: Joining, now_s: float) -> Taken:
    own_peers = node.own_peers  # before the inviter may have done anything
    found = asyncio.run(inviter.join())
    # What was agreed to is what was shown.
    if found.inviter != shown.inviter:
        raise ConfigError("the inviter is another one than was shown; nothing was changed here")
    return take(node.folder, node.me, found, own_peers, now_s)


def _show(node: MeshNode, found: Joining, invitation: Invitation, problems: dict[str, str]) -> None:
    click.echo(f"{clean(found.inviter.name)} invites this node to its mesh.\n")
    click.echo("Entries here, of nodes that this one sends to and accepts objects from:")
    for member in (found.inviter, *found.others):
        click.echo(_line(member, problems.get(member.name)))
    click.echo("\nEntry that they get, of this node:")
    click.echo(_line(node.me, None))
    click.echo(f"\nMembers that {clean(found.inviter.name)} introduces later are taken, too.")
    click.echo(f"The code is good until {utc_text(invitation.until_s)}.")


def _line(member: Member, problem: str | None) -> str:
    # What others say of themselves must not draw on the operator's terminal.
    said = "" if problem is None else f"\n    cannot be taken: {clean(problem)}"
    certificate = f"certificate SHA-256 {fingerprint_of(member.client_der)}"
    return f"  {clean(member.name)}  {clean(member.url)}\n    {certificate}{said}"


def _facts(node: MeshNode, found: Joining, taken: Taken, *, dry_run: bool) -> dict[str, Any]:
    return {
        "inviter": _of(found.inviter),
        "others": [_of(each) for each in found.others],
        "this-node": _of(node.me),
        "dry-run": dry_run,
        "added": taken.added,
        "not-taken": taken.refused,
        "served": node.is_served,
    }


def _of(member: Member) -> dict[str, str]:
    return {
        "name": member.name,
        "url": member.url,
        "fingerprint-sha256": fingerprint_of(member.client_der),
    }
