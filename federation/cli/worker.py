"""federation worker: what `workers: N` starts N times. Not for people."""

from __future__ import annotations

import socket

import click

from federation.cli.command import Command
from federation.core.errors import CannotStart
from federation.server.workers.control import Control


@click.command("worker", cls=Command, hidden=True)
def worker() -> None:
    """Serve a share of a node's ports, as the parent process says on standard input."""
    try:
        channel = socket.socket(fileno=0)
    except OSError:
        raise CannotStart("`federation serve` with `workers` starts this command") from None
    control = Control(channel)
    orders = control.read_orders()
    if orders is None:
        return  # the parent ended before it could say what to serve
    from federation.server.run import run_node  # noqa: PLC0415 - loaded only here, see run.py

    run_node(
        orders.config,
        lambda _addresses: None,
        orders.file,
        share=orders.share,
        control=control,
        passed=orders.passed,
        again=orders.again,
    )
