"""S02-S04: cut the power under mixed uploads, and lose nothing that was acknowledged.

    python -m tests.faults.storage.power_cut --rounds 20 [--flag 2] [--seed N]     (root; Linux)

The data directory is on ext4 on a loop device. The disk's shutdown call drops what was not made
durable: with flag 2 the journal too, with 1 the journal is written, with 0 everything is. --lying
is the control: strace fakes every fsync and fdatasync to succeed, and then the oracle must report
loss, or this harness proves nothing.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click

from tests.faults.storage.clean import assert_clean
from tests.faults.storage.disks import FLUSH_NOTHING, Disk
from tests.faults.storage.load import Load
from tests.faults.storage.strace import prefix
from tests.support.oracle import Oracle
from tests.support.process import Node
from tests.support.process_client import Client

LYING = prefix("fsync:retval=0", "fdatasync:retval=0")


@dataclass
class Result:
    """What a run of cuts did."""

    seed: int
    flag: int
    rounds: int = 0
    calls: int = 0
    blobs: int = 0
    entries: int = 0


def power_cut_loop(
    folder: Path,
    rounds: int,
    seed: int,
    *,
    flag: int = FLUSH_NOTHING,
    lying: bool = False,
    tell: Callable[[Result], None] = lambda _: None,
) -> Result:
    """Run the rounds in folder. Raises AssertionError at the first loss.

    Config and log lie in folder, off the disk that dies.
    """
    rng = random.Random(seed)
    result = Result(seed, flag)
    with Disk(folder, "1G") as disk, Oracle(folder / "acknowledged.jsonl") as oracle:
        data_dir = disk.mount_point / "data"
        for number in range(rounds):
            with Node(data_dir, prefix=LYING if lying else (), files_dir=folder).start() as node:
                _judge(node, oracle, f"seed {seed}, flag {flag}, after round {number}")
                load = Load(node.address, oracle, f"{seed}:{number}", large_bytes=2**20).start()
                time.sleep(rng.uniform(0.05, 0.6))
                # The processor stops with the disk. Else a sync that is under way while the disk is
                # shut down could still report success, and the node acknowledge after its end.
                node.pause()
                disk.cut(flag)
                node.kill()
                result.calls += load.stop().calls
            disk.renew()
            result.rounds = number + 1
            result.blobs, result.entries = len(oracle.blobs), len(oracle.actions)
            tell(result)
        with Node(data_dir, files_dir=folder).start() as node:
            _judge(node, oracle, f"seed {seed}, flag {flag}, at the end")
            assert node.stop() == 0, node.log_tail
    return result


def _judge(node: Node, oracle: Oracle, when: str) -> None:
    try:
        with Client(node.address) as client:
            oracle.verify(client).check()
            oracle.verify_unacknowledged(client).check()
        assert_clean(node.data_dir)
    except AssertionError as error:
        raise AssertionError(f"{when}: {error}\n{node.log_tail}") from error


@click.command()
@click.option("--rounds", default=20, show_default=True)
@click.option("--flag", default=FLUSH_NOTHING, show_default=True, type=click.IntRange(0, 2))
@click.option("--seed", type=int, help="Repeat a run's data; default: a new one, printed.")
@click.option("--lying", is_flag=True, help="Fake fsync: the run must end in reported loss.")
def main(rounds: int, flag: int, seed: int | None, lying: bool) -> None:
    """Cut the power of a loaded node again and again and check what it acknowledged."""
    seed = random.SystemRandom().randrange(2**32) if seed is None else seed
    click.echo(f"seed {seed}, shutdown flag {flag}")
    with tempfile.TemporaryDirectory() as folder:
        result = power_cut_loop(
            Path(folder), rounds, seed, flag=flag, lying=lying, tell=lambda r: click.echo(f"{r}")
        )
    click.echo(f"nothing acknowledged is lost or wrong: {result}")


if __name__ == "__main__":
    main()
