"""The harness itself: what it measures when nothing attacks, and that it can fail."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.attacks.harness import MIB, Attacked

CAPABILITIES = "build.bazel.remote.execution.v2.Capabilities/GetCapabilities"


@pytest.mark.parametrize("open_to_all", [True, False])
def test_a_node_that_nobody_attacks_passes(tmp_path: Path, open_to_all: bool) -> None:
    with Attacked(tmp_path, open_to_all=open_to_all) as node, node.watched() as seen:
        seen.judge()
        assert seen.worst_s > 0


def test_a_raw_call_is_answered(tmp_path: Path) -> None:
    with Attacked(tmp_path) as node, node.connection() as raw:
        allowed = raw.unary(CAPABILITIES, b"", node.bearer(node.reader_token))
        refused = raw.unary(CAPABILITIES, b"")
        raw.flush()
        raw.wait_for(2)
        assert raw.statuses == {allowed: "0", refused: "16"}


def test_memory_that_grows_is_seen(tmp_path: Path) -> None:
    with Attacked(tmp_path, open_to_all=True) as node, node.watched() as seen:
        # More than a busy machine is allowed. The highest is written by the thread that samples it.
        seen._before_bytes -= 100 * MIB
        with pytest.raises(AssertionError, match=r"grew by 1\d\d MiB"):
            seen.judge_memory()
        seen._before_bytes += 100 * MIB
