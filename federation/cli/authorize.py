"""federation authorize."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from federation.access.allowlist import LIST_MAX_BYTES
from federation.access.allowlist_edit import Authorized, Candidate, authorize, candidate
from federation.access.new_files import alone, replace_file
from federation.cli.command import FILE, Command, config_option, json_option
from federation.cli.output import emit_json
from federation.config.file import load
from federation.core.clock import SystemClock, utc_text
from federation.core.errors import ConfigError

_EXAMPLES = """\b
Examples:
  federation authorize alice.crt --list /etc/federation/authorized.crt
  federation authorize alice.crt bob.crt --config /etc/federation.yaml
"""


@click.command("authorize", cls=Command, epilog=_EXAMPLES)
@click.argument(
    "certificates", nargs=-1, required=True, metavar="CERTIFICATE...", type=click.Path()
)
@click.option(
    "--list",
    "list_path",
    type=FILE,
    help="The list; created if it does not exist.  [default: authorized.crt]",
)
@config_option("Use the list that this configuration names (client-certs).")
@json_option
def authorize_command(
    certificates: tuple[str, ...], list_path: Path | None, config_path: Path | None, as_json: bool
) -> None:
    """Add certificates to the list of clients that are allowed in.

    Each CERTIFICATE is a PEM file with one certificate. All of them are checked before anything is
    written: a private key, an expired certificate or a damaged list is refused. A certificate that
    is on the list already is reported and not added again. The list is replaced as a whole; a
    running node takes it over within 2 s.
    """
    where = _list(list_path, config_path).resolve()  # a symbolic link stays a link
    now_s = SystemClock().wall_s()
    # All before the lock is taken: one that is refused leaves the list as it is.
    candidates = [candidate(_read(Path(name)), name, now_s) for name in certificates]
    # Reading, adding and replacing are one step, or two commands at once would lose an entry.
    with alone(where.parent):
        before = _read(where) if where.exists() else b""
        done = authorize(before, str(where), candidates)
        if done.added:
            # The operator's permissions stay; certificates of a new list are no secret.
            mode = where.stat().st_mode & 0o7777 if where.exists() else 0o644
            replace_file(where, done.text, mode)
    _report(where, done, now_s, as_json=as_json)


def _list(list_path: Path | None, config_path: Path | None) -> Path:
    if config_path is None:
        return list_path or Path("authorized.crt")
    if list_path is not None:
        raise click.UsageError("give either --list or --config")
    config = load(config_path)
    lists = {x.tls.client_certs for x in config.listeners if x.tls and x.tls.client_certs}
    if len(lists) != 1:
        named = ", ".join(sorted(map(str, lists))) or "no list"
        raise ConfigError(f"{config_path}: its listeners name {named}: say which with --list")
    return lists.pop()


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        # One byte more than is taken, so that a larger file is refused and not cut.
        return file.read(LIST_MAX_BYTES + 1)


def _report(where: Path, done: Authorized, now_s: float, *, as_json: bool) -> None:
    if as_json:
        emit_json(
            {
                "list": str(where),
                "added": [_facts(each) for each in done.added],
                "listed-already": [_facts(each) for each in done.known],
            }
        )
        return
    for each in done.added:
        since_s = each.listed.since_s
        early = f"; let in from {utc_text(since_s)} on" if now_s < since_s else ""
        click.echo(f"{each.where}: added {each.listed.subject} {each.fingerprint}{early}")
    for each in done.known:
        click.echo(f"{each.where}: listed already: {each.listed.subject} {each.fingerprint}")


def _facts(each: Candidate) -> dict[str, Any]:
    return {
        "file": each.where,
        "subject": each.listed.subject,
        "fingerprint-sha256": each.fingerprint,
        "not-before": utc_text(each.listed.since_s),
        "not-after": utc_text(each.listed.until_s),
    }
