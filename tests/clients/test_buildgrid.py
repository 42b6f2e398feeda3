"""BuildGrid's command line with this node as its CAS and action cache."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest

from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from tests.clients.tools import Counted, Result, run, tool, tree
from tests.support.process import Node

pytestmark = pytest.mark.clients

BIG_BYTES = 9_000_000


@pytest.fixture
def files(tmp_path: Path) -> Path:
    bits = random.Random(2)
    root = tmp_path / "files"
    (root / "sub" / "deep").mkdir(parents=True)
    (root / "hollow").mkdir()
    (root / "big").write_bytes(bits.randbytes(BIG_BYTES))
    (root / "empty").touch()
    (root / "sub" / "run").write_text("#!/bin/sh\n")
    (root / "sub" / "run").chmod(0o755)
    (root / "sub" / "link").symlink_to("run")
    for number in range(700):  # more than go in one of its batches
        (root / "sub" / "deep" / str(number)).write_bytes(bits.randbytes(2000))
    return root


def bgd(cwd: Path, node: Node, group: str, *args: str, instance: str = "") -> Result:
    remote = ("--remote", f"http://{node.address}", "--instance-name", instance)
    # `capabilities` is a command, the others are groups of commands: options come first in both.
    return run(tool("bgd"), group, *remote, *args, cwd=cwd, env={})


def digest_of_last(result: Result) -> str:
    found: list[str] = re.findall(r"digest=\[([0-9a-f]{64}/\d+)\]", result.output)
    assert found, result.output
    return found[-1]


@pytest.mark.parametrize("instance", ["", "team/a"])
def test_a_folder_comes_back_as_it_was(
    tmp_path: Path, files: Path, node: Node, instance: str
) -> None:
    counted = Counted(node)
    pushed = bgd(tmp_path, node, "cas", "upload-dir", "--verify", str(files), instance=instance)
    root = digest_of_last(pushed)
    assert counted.bytes_in() >= BIG_BYTES + 700 * 2000
    out = tmp_path / "out"
    bgd(tmp_path, node, "cas", "download-dir", "--verify", root, str(out), instance=instance)
    assert counted.calls("GetTree") >= 1
    assert tree(out) == tree(files)


def test_uploading_again_is_ordinary(tmp_path: Path, files: Path, node: Node) -> None:
    first = bgd(tmp_path, node, "cas", "upload-dir", str(files))
    again = bgd(tmp_path, node, "cas", "upload-dir", str(files))
    assert digest_of_last(again) == digest_of_last(first)
    assert "ailed" not in again


def test_files_come_back_as_they_were(tmp_path: Path, files: Path, node: Node) -> None:
    for name in ("big", "empty", "sub/run"):
        digest = digest_of_last(bgd(tmp_path, node, "cas", "upload-file", str(files / name)))
        out = tmp_path / "out" / name
        out.parent.mkdir(parents=True, exist_ok=True)
        bgd(tmp_path, node, "cas", "download-file", digest, str(out))
        assert out.read_bytes() == (files / name).read_bytes()


def test_the_action_cache_takes_and_returns_a_result(
    tmp_path: Path, files: Path, node: Node
) -> None:
    output = digest_of_last(bgd(tmp_path, node, "cas", "upload-file", str(files / "big")))
    hash_hex, size = output.split("/")
    wanted = reapi.ActionResult(exit_code=7, stdout_raw=b"said")
    wanted.output_files.add(path="big", digest={"hash": hash_hex, "size_bytes": int(size)})
    (tmp_path / "result").write_bytes(wanted.SerializeToString())
    result = digest_of_last(bgd(tmp_path, node, "cas", "upload-file", str(tmp_path / "result")))
    action = f"{'ab' * 32}/123"  # names nothing that is in CAS, as bgd allows

    counted = Counted(node)
    assert "Miss" in bgd(tmp_path, node, "actioncache", "get", action)
    bgd(tmp_path, node, "actioncache", "update", action, result)
    got = bgd(tmp_path, node, "actioncache", "get", "--json", action)
    assert counted.calls("UpdateActionResult") == 1
    assert counted.calls("GetActionResult", "NOT_FOUND") == 1
    assert counted.hits("action_result") == 1
    found = json.loads(got.output[got.output.index("{") :])
    assert found["exitCode"] == 7
    assert found["outputFiles"][0]["digest"]["hash"] == hash_hex


def test_capabilities_name_what_the_node_takes(tmp_path: Path, node: Node) -> None:
    said = bgd(tmp_path, node, "capabilities").output
    cache = json.loads(said[said.index("{") :])["cacheCapabilities"]
    assert "SHA256" in cache["digestFunctions"]
    assert cache["actionCacheUpdateCapabilities"]["updateEnabled"] is True
    assert 2**20 < int(cache["maxBatchTotalSizeBytes"]) < 4 * 2**20
