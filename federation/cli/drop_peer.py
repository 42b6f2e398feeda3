"""federation drop-peer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import structlog

from federation.cli.command import Command, json_option
from federation.cli.options import Place, check_peer, place, place_options
from federation.cli.output import emit
from federation.cli.processes import facts_of_processes
from federation.core.errors import ConfigError
from federation.storage.reports import KnownPeer

_log = structlog.get_logger(__name__)


@click.command(
    "drop-peer",
    cls=Command,
    epilog="\b\nExamples:\n  federation drop-peer tokyo\n"
    "  federation drop-peer tokyo --lose-unacknowledged",
)
@click.argument("peer")
@click.option(
    "--lose-unacknowledged",
    "loses",
    is_flag=True,
    help="Drop it even if some objects have not been replicated to it.",
)
@place_options
@json_option
def drop_peer_command(
    peer: str, loses: bool, config_path: Path | None, data_dir: Path | None, as_json: bool
) -> None:
    """Delete what is recorded about a peer that was removed from the configuration.

    Until then the node keeps the peer's position in the change log and, within limits, does not
    evict what the peer has not acknowledged. Refused while the peer is in the configuration of
    --config or of a running process, and, without --lose-unacknowledged, while not everything has
    been replicated to it.
    """
    where = place(config_path, data_dir)
    # Read before it is dropped: what is told afterwards comes from this.
    known = check_peer(where, peer)
    _check_gone(where, peer)
    if not known.is_whole and not loses:
        raise ConfigError(
            f"not everything has been replicated to {peer}: {_lacks(known)}. "
            "Reconcile it, or drop it anyway with --lose-unacknowledged"
        )
    where.operations.drop_peer(peer)
    facts = _facts(known)
    if not known.is_whole:
        _log.warning("peer_dropped", **{k.replace("-", "_"): v for k, v in facts.items()})
    emit(facts, as_json=as_json)


def _check_gone(where: Place, peer: str) -> None:
    """Raise ConfigError while the peer is configured: it would come back at once."""
    if where.file is not None and any(each.name == peer for each in where.file.peers):
        raise ConfigError(f"{peer} is in the configuration; remove it first")
    for process in facts_of_processes(where.operations):
        # Silence must not count as "not configured": the peer would come back with a full resync.
        if where.file is None and "not-known" in process:
            raise ConfigError(
                f"process {process['pid']} does not say which peers it has "
                f"({process['not-known']}); give its configuration with --config"
            )
        if any(each.get("name") == peer for each in process.get("peers", ())):
            pid = process["pid"]
            raise ConfigError(
                f"process {pid} has {peer} in its configuration; remove it there and reload"
            )


def _lacks(known: KnownPeer) -> str:
    following = len(known.lags) == len(known.lanes)
    parts = [] if following else ["what is missing is unknown, as it needs a resync"]
    parts += [
        f"{lag.objects} objects ({lag.size_bytes} bytes) are not acknowledged"
        for lag in known.lags.values()
        if lag.objects
    ]
    parts += [f"{known.parked} are parked"] if known.parked else []
    return ", ".join(parts)


def _facts(known: KnownPeer) -> dict[str, Any]:
    return {
        "dropped": known.name,
        "unacknowledged-objects": sum(lag.objects for lag in known.lags.values()),
        "unacknowledged-bytes": sum(lag.size_bytes for lag in known.lags.values()),
        "needed-resync": len(known.lags) < len(known.lanes),
        "parked": known.parked,
    }
