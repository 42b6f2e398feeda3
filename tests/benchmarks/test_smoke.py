"""The benchmarks still run. What they measure is nobody's promise here."""

import json
import subprocess
import sys


def test_quick_rows_of_each_table_run_against_the_node() -> None:
    command = [sys.executable, "-m", "benchmarks", "--quick", "--json", "--server", "federation"]
    command += ["--only", "capabilities", "--only", "batch-update-100"]
    command += ["--only", "mirror-readers", "--only", "http-put-keys"]

    ended = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)

    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
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
