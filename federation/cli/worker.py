"""federation worker: a process that `workers: N` starts N times. Users do not run it."""

from __future__ import annotations

import socket

import click

from federation.cli.command import Command
from federation.core.errors import CannotStart
from federation.server.workers.control import Control


@click.command("worker", cls=Command, hidden=True)
def worker() -> None:
    """Serve a node's ports together with other workers; the parent process sends what to serve."""
    try:
        # See Worker.run: the parent's end is at standard input.
        channel = socket.socket(fileno=0)
    except OSError:
        raise CannotStart("`federation serve` with `workers` starts this command") from None
    control = Control(channel)
    orders = control.read_orders()
    if orders is None:
        return  # the parent has ended
    from federation.server.run import run_node  # noqa: PLC0415 - loaded only here, see run.py

    run_node(
        orders.config,
        lambda _addresses: None,
        orders.file,
        slot=orders.slot,
        control=control,
        passed=orders.passed,
        again=orders.again,
    )
