"""federation pin, unpin and pins."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from federation.cli.command import Command, json_option
from federation.cli.options import asked_by, place, place_options
from federation.cli.output import emit
from federation.cli.pin_targets import PinChoice, chosen_targets, target_options
from federation.cli.values import DateType, DurationType
from federation.closure.pinned import pin_walk
from federation.config.model import LimitsConfig
from federation.core.clock import SystemClock, utc_text
from federation.core.errors import FederationError
from federation.core.index import NO_STAMP
from federation.core.pins import NOTE_MAX_CHARS, UNTIL_MAX_S, Pin, PinReport
from federation.server.exit_codes import FOUND_PROBLEMS

_PIN_EXAMPLES = """\b
Examples:
  federation pin 'urn:fdc:buildstream.build:2020:artifact:project/*' --note "release 4.2"
  federation pin --instance release --until 2027-06-30
  federation pin --action HASH/SIZE --for 30d
  federation pin 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08/4
  federation pin kv/main/KEY
"""


@click.command(cls=Command, epilog=_PIN_EXAMPLES)
@target_options
@click.option(
    "--until", type=DateType(), help="The last day, or moment in UTC: YYYY-MM-DD[THH:MM]."
)
@click.option(
    "--for", "for_s", type=DurationType(), help="For how long, as 30d.  [default: for good]"
)
@click.option("--note", default="", help="Why, for people.")
@place_options
@json_option
def pin(
    names: Sequence[str],
    action: Sequence[Any],
    instance: str | None,
    until: float | None,
    for_s: float | None,
    note: str,
    config_path: Path | None,
    data_dir: Path | None,
    as_json: bool,
) -> None:
    """Keep what matches from eviction, with all that it names: what is here now, and what comes.

    A URI may be a pattern with *, ? and [...]; it means assets with any qualifiers. A pin that
    exists gets the new date and note. Pins take at most storage.pins-max of the quota: the first
    that would exceed that is refused, with the numbers. What comes later and does not fit is not
    pinned: `federation pins` says how much that is.

    Works on the data directory, beside nodes that serve it or without any; a node keeps what comes
    later. Peers with `pins: true` are told. A purge takes pinned objects, too.
    Exits with 1 if something that a pin names is missing here.
    """
    if until is not None and for_s is not None:
        raise click.UsageError("give one of --until and --for")
    if len(note) > NOTE_MAX_CHARS:
        raise click.UsageError(f"--note has at most {NOTE_MAX_CHARS} characters")
    now_s = SystemClock().wall_s()
    until_s = now_s + for_s if for_s is not None else until
    if until_s is not None and until_s <= now_s:
        raise click.UsageError("the pin would have ended already")
    if until_s is not None and until_s > UNTIL_MAX_S:
        raise click.UsageError(
            "the pin would end after the year 9999; without a date it is for good"
        )
    where = place(config_path, data_dir)
    chosen = chosen_targets(where, names, action, instance)
    limits = where.file.limits if where.file is not None else LimitsConfig()
    walk = pin_walk(limits)
    made: list[PinReport] = []
    try:
        # One by one: each is tried and promised by itself, and the numbers of a refusal are
        # those of one pin.
        for each in chosen:
            report = where.operations.pin(_wanted(each, until_s, note), walk)
            made.append(report)
    except FederationError:
        if made:
            before = ", ".join(each.pin.label for each in made)
            click.echo(f"pinned before that one was refused: {before}", err=True)
        raise
    emit({"pinned": [shown(each) for each in made]}, as_json=as_json)
    if not all(each.is_whole for each in made):
        sys.exit(FOUND_PROBLEMS)


def _wanted(choice: PinChoice, until_s: float | None, note: str) -> Pin:
    return Pin(choice.target, NO_STAMP, choice.label, until_s, note, asked_by())


@click.command(
    cls=Command,
    epilog="\b\nExamples:\n  federation unpin --instance release\n"
    "  federation unpin 'urn:fdc:buildstream.build:2020:artifact:project/*'",
)
@target_options
@place_options
@json_option
def unpin(
    names: Sequence[str],
    action: Sequence[Any],
    instance: str | None,
    config_path: Path | None,
    data_dir: Path | None,
    as_json: bool,
) -> None:
    """Remove pins: each target as it was given to `federation pin`.

    What they kept, and no other pin keeps, is evicted when its time comes, once a node has looked
    at what the others need. Peers with `pins: true` are told.
    Exits with 1 if there was no such pin.
    """
    where = place(config_path, data_dir)
    chosen = chosen_targets(where, names, action, instance)
    gone = where.operations.unpin([each.target for each in chosen], asked_by())
    emit({"unpinned": [each.label for each in gone]}, as_json=as_json)
    if not gone:
        sys.exit(FOUND_PROBLEMS)


@click.command(cls=Command, epilog="\b\nExamples:\n  federation pins\n  federation pins --json")
@place_options
@json_option
def pins(config_path: Path | None, data_dir: Path | None, as_json: bool) -> None:
    """List the pins, what each takes of the quota, whether it has all, and when it ends.

    What several pins need counts for one of them. "missing" is what an entry names and is not here;
    a node fetches it from upstreams, or else from peers. "left-out" counts matching entries that
    are not pinned, as pins take all they may (storage.pins-max).
    """
    report = place(config_path, data_dir).operations.pins()
    emit(
        {
            "bytes": report.size_bytes,
            "max-bytes": report.max_bytes,
            "pins": [shown(each) for each in report.pins],
        },
        as_json=as_json,
    )


def shown(report: PinReport) -> dict[str, Any]:
    """Return what people and scripts are shown of a pin."""
    return dict(_shown(report))


def _shown(report: PinReport) -> Iterator[tuple[str, Any]]:
    pin = report.pin
    yield "target", pin.label
    yield "kind", pin.target.kind.value
    if pin.target.instance is not None:
        yield "instance", pin.target.instance
    yield "bytes", report.size_bytes
    yield "entries", report.entries
    yield "blobs", report.blobs
    yield "whole", report.is_whole
    if not report.is_settled:
        yield "being-looked-for", True
    if report.incomplete:
        yield "incomplete-entries", report.incomplete
    if report.missing:
        yield "missing-blobs", report.missing
    if report.left_out:
        yield "entries-left-out", report.left_out
    yield "until", None if pin.until_s is None else utc_text(pin.until_s)
    if pin.note:
        yield "note", pin.note
    yield "by", pin.by
    yield "at", utc_text(pin.at_s)
