"""`python -m tests.scale.reality`: does the simulation say what real nodes do?

It measures the costs on a real PostgreSQL, has one and two nodes serve the same calls as simulated
ones with these costs, and prints both beside each other.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack

from federation.storage.shared.catalogue.rows import SiteRole
from tests.scale.calls import CallRates, SiteCaller
from tests.scale.measure import cpu_s, measure, open_real
from tests.scale.site import Load, load_of
from tests.support.postgres import Postgres, database_of, postgres

_SETTLES_S = 3.0
_TOLD_S = 1.5  # a backend tells what it did about once a second
_RATES = {"idle": CallRates(), "busy": CallRates(writes=60, finds=10, reads=20, entries=20)}
_BACKENDS = "SELECT pid FROM pg_stat_activity WHERE datname = '{name}'"
_COMMITS = "SELECT xact_commit FROM pg_stat_database WHERE datname = '{name}'"


async def observe(
    server: Postgres, nodes: int, rates: CallRates, seconds: float
) -> tuple[Load, int]:
    """Return what real nodes do to a database under these calls, and how many connections are open.

    Statements are not told apart: the database counts transactions.
    """
    url, loop = server.new_database(), asyncio.get_running_loop()
    name = database_of(url)

    def counted() -> tuple[int, float, int]:
        """Transactions, CPU and connections so far."""
        pids = [pid for (pid,) in server.sql(_BACKENDS.format(name=name))]
        return int(server.sql(_COMMITS.format(name=name))[0][0]), cpu_s(pids), len(pids)

    async with AsyncExitStack() as opened:
        callers = []
        for number in range(nodes):
            node = await open_real(url, 8)
            opened.push_async_callback(node.close)
            node.leads.lead(SiteRole.UPKEEP)
            callers.append(SiteCaller(node.blobs, node.index, random.Random(number)))
        await asyncio.sleep(_SETTLES_S)
        commits, used_s, _ = counted()
        begun_s = loop.time()
        await asyncio.gather(*(caller.serve(rates, seconds) for caller in callers))
        await asyncio.sleep(max(0.0, begun_s + seconds - loop.time()) + _TOLD_S)
        took_s = loop.time() - begun_s
        commits_after, used_after_s, connections = counted()
    server.drop_database(url)
    waits_s = sorted(wait_s for caller in callers for wait_s in caller.waits_s)
    statements = {"all": commits_after - commits}
    return Load(took_s, statements, used_after_s - used_s, 0.0, 0, waits_s), connections


def compared(real: Load, simulated: Load) -> Iterator[tuple[str, float, float]]:
    """Yield what is compared: its name, simulated, and measured."""
    yield "statements/s", simulated.statements_s, real.statements_s
    cpu = [1000 * each.cpu_s / each.seconds for each in (simulated, real)]
    yield "database CPU, ms/s", cpu[0], cpu[1]
    for share in (0.5, 0.99) if real.waits_s else ():
        waits = [1000 * each.wait_s(share) for each in (simulated, real)]
        yield f"write p{share * 100:.0f}, ms", waits[0], waits[1]


def report(server: Postgres, rounds: int, rows: int, seconds: float) -> Iterator[str]:
    """Yield lines: the costs measured, and the comparison."""
    found = asyncio.run(measure(server, rounds, rows))
    for name, value in (*found.costs._asdict().items(), *found.rows._asdict().items()):
        yield f"{name} = {value}"
    yield "\n| nodes | | simulated | measured | of it |\n| --- | --- | --- | --- | --- |"
    for nodes in (1, 2):
        for kind, rates in _RATES.items():
            real, connections = asyncio.run(observe(server, nodes, rates, seconds))
            simulated = load_of(1, nodes, rates, real.seconds, found.costs)
            for name, expected, seen in compared(real, simulated):
                shown = f"{expected:.3g} | {seen:.3g} | {expected / seen:.2f}"
                yield f"| {nodes} {kind} | {name} | {shown} |"
            yield f"| {nodes} {kind} | connections | {simulated.used_max} | {connections} | |"


def main() -> int:
    """Measure, compare and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.scale.reality", description=__doc__)
    parser.add_argument("--rounds", type=int, default=300, help="calls of each kind")
    parser.add_argument("--rows", type=int, default=200_000, help="blobs in the catalogue")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each comparison")
    args = parser.parse_args()
    with postgres() as server:
        for line in report(server, args.rounds, args.rows, args.seconds):
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
