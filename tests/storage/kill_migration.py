"""O12: migrate copies of a catalogue, and kill -9 each migration at a random moment.

    python -m tests.storage.kill_migration FOLDER SEED ROUNDS

FOLDER/first holds a data directory of an older schema. Each round's copy must be as it was
afterwards, or migrated as a whole, and then go on to be migrated. Prints counts as JSON.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path

from federation.core.clock import SystemClock
from federation.storage.catalogue import schema


def main(folder: Path, seed: int, rounds: int) -> None:
    """Run the rounds. Raises AssertionError at the first half-migrated catalogue."""
    rng = random.Random(seed)
    whole = _copy(folder, "whole")
    clock = SystemClock()
    begun_s = clock.monotonic_s()
    _migrate(whole)
    took_s = clock.monotonic_s() - begun_s
    counted: Counter[str] = Counter({"killed": 0, "untouched": 0, "finished": 0})
    before, after = _content(folder / "first" / "catalogue.sqlite"), _content(whole)
    assert before != after
    for number in range(rounds):
        path = _copy(folder, f"round{number}")
        _kill_in_migration(path, rng.uniform(0, took_s * 1.3))
        counted["killed"] += 1
        found = _content(path)
        if found == before:
            counted["untouched"] += 1
        else:
            assert found == after, f"seed {seed}, round {number}: half migrated"
            counted["finished"] += 1
        _migrate(path)
        assert _content(path) == after, f"seed {seed}, round {number}: not migrated afterwards"
    sys.stdout.write(json.dumps(counted) + "\n")


def _copy(folder: Path, name: str) -> Path:
    path = folder / name
    path.mkdir()
    return Path(shutil.copy(folder / "first" / "catalogue.sqlite", path / "catalogue.sqlite"))


def _migrate(path: Path) -> None:
    connection = schema.connect(path)
    schema.bring_up(connection)
    connection.close()


def _kill_in_migration(path: Path, after_s: float) -> None:
    """Fork a process that migrates and then waits, and kill it."""
    child = os.fork()
    if child == 0:
        _migrate_and_wait(path)
    time.sleep(after_s)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL


def _migrate_and_wait(path: Path) -> None:
    connection = schema.connect(path)
    schema.bring_up(connection)
    signal.pause()
    os._exit(1)


def _content(path: Path) -> object:
    """All there is, in a form that two ways to the same place share."""
    connection = schema.connect(path, read_only=True)
    tables = connection.execute(
        "SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name"
    ).fetchall()
    verdict = connection.execute("PRAGMA integrity_check").fetchall()
    assert verdict == [("ok",)], verdict
    rows = {str(name): connection.execute(f"SELECT * FROM {name}").fetchall() for (name,) in tables}
    version = schema.stored_version(connection)
    connection.close()
    return version, rows


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
