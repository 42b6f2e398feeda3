"""federation purge."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import click

from federation.cli.command import Command, json_option
from federation.cli.options import Place, asked_by, place, place_options
from federation.cli.output import emit
from federation.cli.values import DigestType, DurationType
from federation.core.clock import SystemClock
from federation.core.digest import Digest
from federation.core.purges import Purgeable, PurgeOutcome
from federation.server.exit_codes import FOUND_PROBLEMS
from federation.server.status.explained import DIGEST, action_in, digest_in
from federation.storage.reports import EntrySelection
from federation.wire.action_result import key_of
from federation.wire.keyed_entry import action_of, split_name

_SHOWN = 1000
_AT_ONCE = 1000
_LISTED = 10  # before it is asked whether to go on
_NOTHING = (
    "nothing here matches; the name of a keyed entry begins with its namespace, as in kv/NAME/KEY"
)
_EXAMPLES = """\b
Examples:
  federation purge 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08/4
  federation purge --action HASH/SIZE --dry-run
  federation purge urn:fdc:buildstream.build:2020:artifact:project/element/KEY
  federation purge kv/main/KEY --yes
  federation purge --instance pr/1234 --older-than 30d --yes
"""


class PurgeChoice(NamedTuple):
    """A name to purge; size_bytes: of what is here, None if nothing is known to be."""

    thing: Purgeable
    label: str
    size_bytes: int | None


@click.command(cls=Command, epilog=_EXAMPLES)
@click.argument("name", metavar="DIGEST|URI|NAMESPACE/KEY", required=False)
@click.option("--action", type=DigestType(), help="Purge the results of this action.")
@click.option(
    "--instance",
    help='Only entries of this instance name, which may be ""; alone: all of them.'
    "  [default: all instances]",
)
@click.option("--older-than", type=DurationType(), help="Only entries stored longer ago, as 30d.")
@click.option("--dry-run", is_flag=True, help="Show what would be purged, and change nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@place_options
@json_option
def purge(
    name: str | None,
    action: Digest | None,
    instance: str | None,
    older_than: float | None,
    dry_run: bool,
    yes: bool,
    config_path: Path | None,
    data_dir: Path | None,
    as_json: bool,
) -> None:
    """Delete a blob, or action results, assets or keyed entries, from this node and from all its
    peers. Until a client pushes it again, neither peers nor upstreams bring it back.

    A blob is gone at once: running reads of it end, leases and pins do not matter, and entries that
    need it are hidden. The blobs that an entry names stay. What was not here is purged, too, if its
    name is complete: a DIGEST with its size, an action, or a keyed entry.

    Works on the data directory, beside nodes that serve it or without any. Peers are told within a
    second, or when they can be reached. See storage.purge-keep for how long a purge is remembered.
    Exits with 1 if there was nothing to purge.
    """
    if name is not None and action is not None:
        raise click.UsageError("give one of DIGEST, URI, NAMESPACE/KEY and --action")
    if name is None and action is None and instance is None:
        raise click.UsageError("give a DIGEST, a URI, NAMESPACE/KEY, --action or --instance")
    is_blob = DIGEST.fullmatch(name or "") is not None
    # Refused, not ignored: whoever gives one of them wants to purge less than that.
    if is_blob and (instance is not None or older_than is not None):
        raise click.UsageError("blobs have no instance and no age: all names of them are one blob")
    where = place(config_path, data_dir)
    before_s = None if older_than is None else SystemClock().wall_s() - older_than

    def choose() -> Iterator[PurgeChoice]:
        """Look again each time: there may be more than memory has room for."""
        if is_blob:
            return iter(_blob(where, name or ""))
        return _entries(where, name, action, instance, before_s)

    if dry_run:
        _show(_planned(choose()), dry_run=True, as_json=as_json)
        return
    if not yes:
        _confirm(choose())
    _show(_purged(where, choose()), dry_run=False, as_json=as_json)


def _blob(where: Place, name: str) -> Sequence[PurgeChoice]:
    match = DIGEST.fullmatch(name)
    assert match is not None
    with where.operations.explaining() as explainer:
        digest = digest_in(match, explainer)
        if digest is None:
            raise click.UsageError("no blob with this hash is here; give HASH/SIZE to purge it")
        if digest.is_empty:
            raise click.UsageError("the empty blob is held everywhere, and cannot be purged")
        held = explainer.blob(digest)
    return [PurgeChoice(digest, "", digest.size_bytes if held["here"] else None)]


def _entries(
    where: Place,
    name: str | None,
    action: Digest | None,
    instance: str | None,
    before_s: float | None,
) -> Iterator[PurgeChoice]:
    """Yield the entries that the options name, and whatever else is known by its whole name.

    before_s: only what was stored before that (wall clock).
    """
    every = EntrySelection(instance, before_s=before_s)
    selections = [every._replace(action=action)]
    absent = [] if action is None else [key_of(instance or "", action)]
    if name is not None and (keyed := split_name(name)) is not None:
        namespace, key = keyed
        action = action_of(namespace, key)
        below = "" if namespace == "ac" else namespace  # where the HTTP cache keeps it
        selections = [every._replace(action=action)]
        absent = [key_of(below if instance is None else instance, action)]
        if namespace == "ac" and (match := DIGEST.fullmatch(key)) is not None:
            with where.operations.explaining() as explainer:
                named = action_in(match, explainer)
            selections.append(every._replace(action=named, is_sized=match[3] is not None))
    elif name is not None:
        selections = [every._replace(uri=name)]
    for selection in selections:
        for found in where.operations.find_entries(selection):
            # An entry that is here is purged as it is; only an absent one is purged by its name.
            absent = [key for key in absent if key != found.key]
            yield PurgeChoice(found.key, found.label, found.size_bytes)
    # An absent entry has no age.
    if before_s is None:
        yield from (PurgeChoice(key, str(action), None) for key in absent)


def _confirm(chosen: Iterator[PurgeChoice]) -> None:
    """Return if the person at the terminal agrees. Raises UsageError, Abort."""
    if not sys.stdin.isatty():
        raise click.UsageError("say --yes where nobody can be asked, or --dry-run")
    count = 0
    # All are counted before the question, and none is kept: there may be millions.
    for count, each in enumerate(chosen, start=1):
        if count <= _LISTED:
            click.echo(_name_of(each.thing, each.label), err=True)
    if count > _LISTED:
        click.echo(f"and {count - _LISTED} more", err=True)
    if count:
        click.confirm("Purge here and at all peers?", abort=True, err=True)


def _purged(where: Place, chosen: Iterator[PurgeChoice]) -> Iterator[PurgeOutcome]:
    """Purge, some at a time."""
    # One transaction each: all at once would keep the writer from clients for as long.
    while part := [(each.thing, each.label) for each in islice(chosen, _AT_ONCE)]:
        yield from where.operations.purge(part, asked_by())


def _planned(chosen: Iterator[PurgeChoice]) -> Iterator[PurgeOutcome]:
    for thing, label, size_bytes in chosen:
        yield PurgeOutcome(thing, label, size_bytes or 0, size_bytes is not None)


def _show(outcomes: Iterator[PurgeOutcome], *, dry_run: bool, as_json: bool) -> None:
    shown: list[dict[str, Any]] = []
    count = size_bytes = 0
    for each in outcomes:
        count, size_bytes = count + 1, size_bytes + each.size_bytes
        if len(shown) < _SHOWN:
            facts = {"object": _name_of(each.thing, each.label), **_place_of(each.thing)}
            found = {"bytes": each.size_bytes, "was-here": each.was_here}
            pinned = {"was-pinned": True} if each.was_pinned else {}
            shown.append({**facts, **found, **pinned})
    dry = {"dry-run": True} if dry_run else {}
    emit({**dry, "count": count, "bytes": size_bytes, "purged": shown}, as_json=as_json)
    if not count:
        click.echo(_NOTHING, err=True)
        sys.exit(FOUND_PROBLEMS)


def _name_of(thing: Purgeable, label: str) -> str:
    return str(thing) if isinstance(thing, Digest) else label


def _place_of(thing: Purgeable) -> dict[str, str]:
    if isinstance(thing, Digest):
        return {"kind": "blob"}
    return {"kind": thing.kind.name.lower().replace("_", " "), "instance": thing.instance}
