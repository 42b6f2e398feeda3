"""federation pull."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from federation.cli.command import Command, config_option, json_option
from federation.cli.output import emit
from federation.cli.progress import Tell, progress_with_text
from federation.cli.values import DigestType, SizeType, WindowType, qualifiers_of
from federation.config.file import load
from federation.config.model import Config
from federation.config.types import RATE_MIN_BYTES_S
from federation.core.clock import Clock, SystemClock
from federation.core.digest import Digest, DigestFunction
from federation.core.errors import ConfigError
from federation.core.pace import Pace
from federation.core.wanted import Wanted, parse_list, parse_wanted
from federation.core.window import Window
from federation.server.exit_codes import FOUND_PROBLEMS, INTERRUPTED
from federation.server.pull_once import warming
from federation.server.status.formats import rounded
from federation.upstream.pull_schedule import read_list
from federation.upstream.warmer import WarmReport, WarmScope

_TELL_EVERY_S = 0.25
_EXAMPLES = """\b
Examples:
  federation pull --config node.yaml urn:fdc:buildstream.build:2020:artifact:project/element/KEY
  federation pull --config node.yaml --action HASH/SIZE --instance main
  federation pull --config node.yaml --from-list nightly.txt --limit-rate 10M --resume
  make-list | federation pull --config node.yaml --from-list - --window 20:00-06:00

\b
A list has one name a line, as on the command line; `action HASH/SIZE` stands for --action:
  # the release branch
  urn:fdc:buildstream.build:2020:artifact:project/element/KEY
  action 3b1f...c9/142
  9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08/4
"""


@click.command(cls=Command, epilog=_EXAMPLES)
@click.argument("names", metavar="[URI|DIGEST]...", nargs=-1)
@click.option(
    "--action",
    "actions",
    type=DigestType(),
    multiple=True,
    help="Pull the result of this action, and what it names. Can be repeated.",
)
@click.option(
    "--from-list",
    "list_path",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    metavar="FILE",
    help="Also pull what this file names; - is standard input.",
)
@click.option("--instance", default="", help="The instance name of the assets and actions.")
@click.option(
    "--qualifier",
    "qualifiers",
    multiple=True,
    metavar="NAME=VALUE",
    help="Ask for the assets with this qualifier. Can be repeated.",
)
@click.option(
    "--digest-function",
    "function",
    type=click.Choice([each.wire_name for each in DigestFunction]),
    default="sha256",
    help="The digest function of the assets.  [default: sha256]",
)
@click.option(
    "--limit-rate",
    "rate",
    type=SizeType(),
    default=0,
    help="Take at most so many bytes a second on average, e.g. 10M.  [default: no limit]",
)
@click.option(
    "--window", type=WindowType(), help="Pull only at this local time, and wait until it comes."
)
@click.option(
    "--resume",
    is_flag=True,
    help="Do not ask upstreams about names whose whole content is here, be it outdated or not.",
)
@config_option("The configuration with the data directory and the upstreams; needed.")
@json_option
def pull(
    names: tuple[str, ...],
    actions: tuple[Digest, ...],
    list_path: Path | None,
    instance: str,
    qualifiers: tuple[str, ...],
    function: str,
    rate: int,
    window: Window | None,
    resume: bool,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Bring assets, action results and blobs here from the upstreams, each with everything that it
    names, before anybody asks for them.

    A URI is an asset, such as a BuildStream artifact; a DIGEST (HASH/SIZE or blake3/HASH/SIZE) is a
    single blob. The command itself pulls into the data directory of --config, whether or not a node
    serves it, within the quota. What is here already is not pulled again, so an interrupted command
    is continued by repeating it: Ctrl-C leaves what has come. Exits with 1 if something could not
    be found or brought, which is listed. `pull.schedule` in the configuration has a node do the
    same every day.
    """
    wanted = _wanted(names, actions, list_path)
    if rate and rate < RATE_MIN_BYTES_S:
        raise click.UsageError("--limit-rate: at least 64K")
    asked = qualifiers_of(qualifiers)
    scope = WarmScope(instance, DigestFunction[function.upper()], tuple(asked.items()))
    # A default has no upstreams, which the error then says.
    config = Config() if config_path is None else load(config_path)
    clock = SystemClock()
    pace = Pace(clock, bytes_s=rate, window=window)
    report = WarmReport()
    try:
        with progress_with_text("names") as tell:
            asyncio.run(_pull(config, pace, clock, wanted, scope, report, tell, resume=resume))
    except (KeyboardInterrupt, asyncio.CancelledError):
        emit({**_facts(report), "interrupted": True}, as_json=as_json)
        sys.exit(INTERRUPTED)
    emit(_facts(report), as_json=as_json)
    if report.whole < report.names:
        sys.exit(FOUND_PROBLEMS)


def _wanted(
    names: Sequence[str], actions: Sequence[Digest], list_path: Path | None
) -> list[Wanted]:
    """Return everything that is named. Raises ConfigError, UsageError, OSError."""
    try:
        found = [parse_wanted(name) for name in names]
        found += [Wanted(digest=action, is_action=True) for action in actions]
        if list_path == Path("-"):
            found += parse_list(sys.stdin)
        elif list_path is not None:
            found += read_list(list_path)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    # A list may be empty: a script that makes it may find nothing to pull.
    if not found and list_path is None:
        raise click.UsageError("give a URI, a DIGEST, --action or --from-list")
    return found


async def _pull(
    config: Config,
    pace: Pace,
    clock: Clock,
    wanted: Sequence[Wanted],
    scope: WarmScope,
    report: WarmReport,
    tell: Tell,
    *,
    resume: bool,
) -> None:
    # Killed without an end of its own, it would keep eviction back for as long as its leases. Not
    # by way of SIGINT: commands that a script starts in the background ignore that.
    command = asyncio.current_task()
    assert command is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, command.cancel)
    async with warming(config, pace, clock, resume=resume) as warmer:
        running = asyncio.ensure_future(warmer.run(wanted, scope, report))
        try:
            while not running.done():
                tell(report.done, report.names, _state(report, pace))
                await asyncio.wait({running}, timeout=_TELL_EVERY_S)
            await running
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


def _state(report: WarmReport, pace: Pace) -> str:
    paused = "; paused until the window opens" if pace.opens_in_s else ""
    brought = f"{report.brought.blobs} blobs, {rounded(report.brought.size_bytes)}"
    return f"{brought}{paused}"


def _facts(report: WarmReport) -> dict[str, Any]:
    return {
        "names": report.names,
        "whole": report.whole,
        "not-found": report.not_found,
        "incomplete": report.incomplete,
        "brought-blobs": report.brought.blobs,
        "brought-bytes": report.brought.size_bytes,
        "problems": [{"name": name, "reason": reason} for name, reason in report.problems],
    }
