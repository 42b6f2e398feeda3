"""The benchmarks still run. What they measure is nobody's promise here."""

import json
import subprocess
import sys
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(1000)


def quick(server: str, *rows: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks", "--quick", "--json"]
    command += [part for name in server.split() for part in ("--server", name)]
    command += [part for row in rows for part in ("--only", row)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert ended.returncode == 0, ended.stderr
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


def test_quick_rows_of_each_table_run_against_the_node() -> None:
    rows = ("capabilities", "batch-update-100", "mirror-readers", "http-put-keys")
    found = quick("federation", *rows)
    results, ways = found["results"], found["mirror"]
    assert [result["row"] for result in results] == ["capabilities", "batch-update-100"]
    assert [result["row"] for result in found["http"]] == ["http-put-keys"]
    assert all(
        result["calls"] >= 1 and result["median"] > 0 for result in [*results, *found["http"]]
    )
    reads = {(way["server"], way["state"]): way["upstream_reads"] for way in ways}
    assert reads == {
        ("upstream", "direct"): 10,
        ("disk", "synced"): 0,
        ("federation", "cold"): 1,
        ("federation", "warm"): 0,
    }


@pytest.mark.servers
def test_quick_rows_run_against_a_node_of_a_shared_site() -> None:
    read, write = "site-read-256MiB-uncached", "site-16-slow-disk"

    found = quick("federation-shared obstore", read, write)["site"]

    expected = [(read, "federation-shared"), (read, "obstore"), (write, "federation-shared")]
    assert [(each["row"], each["server"]) for each in found] == expected
    assert all(each["calls"] >= 1 and each["median"] > 0 for each in found)
