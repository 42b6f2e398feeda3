"""S01: kill -9 under mixed uploads, again and again, and lose nothing that was acknowledged.

    python -m tests.faults.storage.kill_loop --rounds 200 [--seed N] [--json FILE]

A round starts the node on the same data directory, loads it for 0 to 400 ms and kills it. After
the next start everything that was ever acknowledged must be found and everything of the last
round must be read back and hashed; the whole journal is read back every RE_READ_EVERY rounds and
at the end. The data directory itself is checked too (clean.py).
"""

from __future__ import annotations

import json
import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import click

from federation.core.digest import Digest
from tests.faults.storage.clean import assert_clean
from tests.faults.storage.load import Load
from tests.support.oracle import Oracle
from tests.support.process import Node
from tests.support.process_client import Client

RE_READ_EVERY = 20
LOADED_MAX_S = 0.4


@dataclass
class Result:
    """What a loop did."""

    seed: int
    rounds: int = 0
    calls: int = 0
    starts_s: list[float] = field(default_factory=list)
    blobs: int = 0
    entries: int = 0
    cut_off: int = 0

    def summary(self) -> dict[str, object]:
        """The facts to print."""
        return {
            "seed": self.seed,
            "rounds": self.rounds,
            "calls acknowledged": self.calls,
            "blobs acknowledged": self.blobs,
            "entries acknowledged": self.entries,
            "blobs cut off and judged": self.cut_off,
            "longest start (s)": round(max(self.starts_s, default=0), 3),
            "median start (s)": round(sorted(self.starts_s)[len(self.starts_s) // 2], 3),
            "lost or wrong": 0,
        }


def kill_loop(
    folder: Path, rounds: int, seed: int, tell: Callable[[Result], None] = lambda _: None
) -> Result:
    """Run the rounds in folder. Raises AssertionError at the first loss; the seed is in it."""
    rng = random.Random(seed)
    result = Result(seed)
    node = Node(folder / "data")
    with node, Oracle(folder / "acknowledged.jsonl") as oracle:
        verified = 0
        for number in range(rounds + 1):
            node.start()
            result.starts_s.append(node.start_s)
            try:
                verified = _judge(node, oracle, verified, result, number % RE_READ_EVERY == 0)
            except AssertionError as error:
                raise AssertionError(f"seed {seed}, after round {number}: {error}") from error
            if number < rounds:
                _round(node, oracle, f"{seed}:{number}", rng.uniform(0, LOADED_MAX_S), result)
                tell(result)
        with Client(node.address) as client:
            oracle.verify(client).check()
        assert node.stop() == 0, node.log_tail
        assert_clean(node.data_dir)
    assert "Traceback" not in node.log, node.log_tail
    return result


def _round(node: Node, oracle: Oracle, seed: str, loaded_s: float, result: Result) -> None:
    load = Load(node.address, oracle, seed).start()
    time.sleep(loaded_s)
    node.kill()
    done = load.stop()
    assert not done.faults, done.faults[:5]
    result.rounds += 1
    result.calls += done.calls
    result.blobs, result.entries = len(oracle.blobs), len(oracle.actions) + len(oracle.assets)


def _judge(node: Node, oracle: Oracle, verified: int, result: Result, all_of_it: bool) -> int:
    """Compare the restarted node with the oracle; returns how much of the journal that covers."""
    known: list[Digest] = list(oracle.blobs)
    with Client(node.address) as client:
        for at in range(0, len(known), 10_000):
            missing = client.find_missing(known[at : at + 10_000])
            assert not missing, f"{len(missing)} acknowledged blobs are missing: {missing}"
        oracle.verify(client, blobs=known if all_of_it else known[verified:]).check()
        result.cut_off += oracle.verify_unacknowledged(client).check().blobs
    assert_clean(node.data_dir, contents=all_of_it)
    return len(known)


@click.command()
@click.option("--rounds", default=200, show_default=True)
@click.option("--seed", type=int, help="Repeat a run's data; default: a new one, printed.")
@click.option("--folder", type=click.Path(path_type=Path), help="Work here, and leave the files.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the result here.")
def main(rounds: int, seed: int | None, folder: Path | None, json_path: Path | None) -> None:
    """Kill a loaded node again and again and check what it acknowledged."""
    seed = random.SystemRandom().randrange(2**32) if seed is None else seed
    click.echo(f"seed {seed}")
    with tempfile.TemporaryDirectory() as temporary:
        result = kill_loop(folder or Path(temporary), rounds, seed, _tell)
    click.echo()
    for name, fact in result.summary().items():
        click.echo(f"{name:28} {fact}")
    if json_path:
        json_path.write_text(json.dumps(result.summary(), indent=2) + "\n")


def _tell(result: Result) -> None:
    click.echo(f"\rround {result.rounds}, {result.blobs} blobs, {result.entries} entries", nl=False)


if __name__ == "__main__":
    main()
