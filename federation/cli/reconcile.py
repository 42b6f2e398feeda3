"""federation reconcile."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from federation.cli.command import Command, json_option
from federation.cli.options import Place, check_peer, place, place_options
from federation.cli.output import emit
from federation.cli.processes import facts_of_processes
from federation.cli.progress import Report, progress
from federation.core.errors import SourceUnavailable
from federation.server.exit_codes import FOUND_PROBLEMS
from federation.storage.reports import KnownPeer

_LOOK_EVERY_S = 0.5


@click.command(
    cls=Command,
    epilog="\b\nExamples:\n  federation reconcile tokyo\n  federation reconcile tokyo --wait",
)
@click.argument("peer")
@click.option(
    "--wait", "waits", is_flag=True, help="Wait until it is done. Ctrl-C only ends the wait."
)
@place_options
@json_option
def reconcile(
    peer: str, waits: bool, config_path: Path | None, data_dir: Path | None, as_json: bool
) -> None:
    """Compare everything stored here with a peer, and send what the peer lacks.

    This includes what the rules mark as `when: manual`. The process that replicates begins within
    seconds, in the order of last use, and continues after a restart; new objects go first. With
    --wait, exits with 1 if objects are parked for the peer afterwards.
    """
    where = place(config_path, data_dir)
    check_peer(where, peer)
    where.operations.reconcile(peer)
    # Read again: the record has the number of this request now, which the wait compares.
    asked = check_peer(where, peer)
    if not waits:
        serving = len(where.operations.processes())
        emit({"peer": peer, "reconcile-asked": True, "processes": serving}, as_json=as_json)
        return
    with progress(f"{peer}: objects offered") as report:
        now = wait_until_done(where, asked, report)
    emit(_facts(asked, now), as_json=as_json)
    if now.parked:
        sys.exit(FOUND_PROBLEMS)


def wait_until_done(where: Place, asked: KnownPeer, report: Report) -> KnownPeer:
    """Wait for the reconciliation that was asked for, and return the peer's record.

    Raises SourceUnavailable if no process is left that would do it.
    """
    while True:
        # Before the record, which shows whether a process that has ended by then had finished.
        serving = facts_of_processes(where.operations)
        now = check_peer(where, asked.name)
        if now.done >= asked.asked:
            return now
        report(_offered(serving, asked.name), _held(where))
        if not serving:
            raise SourceUnavailable(
                "replication",
                f"no process serves {where.data_dir}; what was asked for is done when one does",
            )
        time.sleep(_LOOK_EVERY_S)


def _offered(processes: Sequence[Mapping[str, Any]], name: str) -> int:
    """Return how many objects the process that replicates has compared so far."""
    peers = [peer for process in processes for peer in process.get("peers", ())]
    return sum(
        lane["offered"] for peer in peers if peer["name"] == name for lane in peer["lanes"].values()
    )


def _held(where: Place) -> int:
    facts = where.operations.summary()
    return int(facts["blobs"] + facts["entries"])


def _facts(before: KnownPeer, now: KnownPeer) -> dict[str, Any]:
    return {
        "peer": now.name,
        "reconciled": True,
        "sent-objects": now.sent_objects - before.sent_objects,
        "sent-bytes": now.sent_bytes - before.sent_bytes,
        "parked": now.parked,
    }
