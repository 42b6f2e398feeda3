"""federation reload."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from typing import Any

import click

from federation.cli.command import Command, json_option
from federation.cli.options import place, place_options
from federation.cli.output import emit
from federation.core.clock import SystemClock
from federation.core.errors import CannotStart
from federation.server.exit_codes import BAD_USAGE, CANNOT_RUN, FOUND_PROBLEMS, OK
from federation.server.reload import RELOAD
from federation.storage.contract import Operations

_WAIT_S = 30.0
_LOOK_EVERY_S = 0.05
_SHOWN = ("changed", "needs-restart", "error")


@click.command(
    cls=Command,
    epilog="\b\nExamples:\n  federation reload --config /etc/federation.yaml\n  federation reload",
)
@place_options
@json_option
def reload(config_path: Path | None, data_dir: Path | None, as_json: bool) -> None:
    """Make the serving processes read their configuration and TLS files again.

    Each process that serves the data directory reads the file that it was started with; the command
    waits for all of them. If anything in a file is wrong, the process reports it and changes
    nothing. The quota, most limits, upstreams, peers, `offline` and the log level change at once,
    without a failed call. Other changes need a restart: the command names them and exits with 1. It
    exits with 2 if a process refuses its file.
    """
    where = place(config_path, data_dir)
    operations = where.operations
    serving = operations.processes()
    if not serving:
        raise CannotStart(f"no process serves {where.data_dir}")
    # Before the signal: a reload that began earlier may have read the file as it was.
    asked_s = SystemClock().monotonic_s()
    unasked = {each["id"]: reason for each in serving if (reason := _ask(operations, each))}
    answers = _wait(
        operations, [each["id"] for each in serving if each["id"] not in unasked], asked_s
    )
    told = [_told(each, unasked, answers) for each in serving]
    emit({"processes": told}, as_json=as_json)
    sys.exit(max(_code(each) for each in told))


def _ask(operations: Operations, process: dict[str, Any]) -> str | None:
    """Send the signal; return why that was not possible, None if it was."""
    if "pid" not in process:
        return "it is just starting"
    return operations.send_signal(process, signal.SIGHUP)


def _wait(operations: Operations, ids: list[str], asked_s: float) -> dict[str, dict[str, Any]]:
    """Return by id what each process has announced after a reload that began since asked_s."""
    clock = SystemClock()
    answers: dict[str, dict[str, Any]] = {}
    while len(answers) < len(ids) and clock.monotonic_s() < asked_s + _WAIT_S:
        for each in operations.processes():
            outcome = each.get(RELOAD)
            # The monotonic clock is the same for all processes of the machine.
            if each["id"] in ids and outcome and outcome["began-monotonic-s"] >= asked_s:
                answers[each["id"]] = each
        time.sleep(_LOOK_EVERY_S)
    return answers


def _told(
    process: dict[str, Any], unasked: dict[str, str], answers: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    now = answers.get(process["id"], process)
    told = {key: now.get(key) for key in ("pid", "config", "listeners")}
    if process["id"] in unasked:
        return {**told, "not-known": unasked[process["id"]]}
    if process["id"] not in answers:
        return {**told, "not-known": f"no answer within {_WAIT_S:g} s"}
    return {**told, **{key: now[RELOAD][key] for key in _SHOWN}}


def _code(told: dict[str, Any]) -> int:
    if "not-known" in told:
        return CANNOT_RUN
    if told["error"] is not None:
        return BAD_USAGE
    return FOUND_PROBLEMS if told["needs-restart"] else OK
