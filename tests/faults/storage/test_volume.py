"""A volume that goes away under a running node, and comes back: nothing is lost or false."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import grpc

from federation.core.digest import digest_of
from tests.faults.storage.clean import assert_clean
from tests.faults.storage.conftest import file_blob, small_blob
from tests.faults.storage.disks import tmpfs
from tests.faults.storage.strace import attached
from tests.support.polling import wait_until
from tests.support.process import Node, serve
from tests.support.process_client import Client, action_result, outcome

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


def _ready(node: Node) -> bool:
    return node.http_get("/readyz")[0] == 200


def test_s17_blobs_whose_volume_vanishes_are_unavailable_until_it_is_back(
    node: Node, client: Client
) -> None:
    blobs = [file_blob() for _ in range(60)]
    digests = [digest_of(data) for data in blobs]
    for data in blobs:
        client.write(data)
    small, action = small_blob(), digest_of(os.urandom(8))
    client.batch_update([small])
    client.update_action_result(action, action_result([("out", digests[0])]))
    with tmpfs(node.data_dir / "blobs"):
        for digest in digests:
            assert outcome(partial(client.find_missing, [digest])) is UNAVAILABLE
            assert outcome(partial(client.read, digest)) is UNAVAILABLE
        assert outcome(lambda: client.get_action_result(action)) is UNAVAILABLE
        assert client.batch_read([digest_of(small)]) == {digest_of(small): small}
        assert client.find_missing([digest_of(small)]) == set()
        assert outcome(lambda: client.write(file_blob())) is UNAVAILABLE
        wait_until(lambda: not _ready(node), "/readyz to say 503")
        status, body = node.http_get("/readyz")
        assert status == 503
        assert "volume-id is not there" in json.loads(body)["reason"]
    wait_until(lambda: _ready(node), "/readyz to say 200")
    assert client.find_missing(digests) == set()
    for digest, data in zip(digests, blobs, strict=True):
        assert client.read(digest) == data
    assert client.get_action_result(action) is not None
    assert node.metrics().value("federation_quarantined_total") == 0
    client.write(file_blob())
    assert_clean(node.data_dir)


def test_s17_a_data_directory_that_is_unmounted_lazily_comes_back_whole(tmp_path: Path) -> None:
    """The catalogue's open files live on; every path leads to the folder below."""
    whole, data_dir = tmp_path / "volume", tmp_path / "data"
    with tmpfs(whole):
        (whole / "data").mkdir()
        data_dir.mkdir()
        with _bound(whole / "data", data_dir), serve(data_dir, files_dir=tmp_path) as node:
            with Client(node.address) as client:
                blobs = [file_blob() for _ in range(20)]
                digests = [digest_of(data) for data in blobs]
                for data in blobs:
                    client.write(data)
                _run("umount", "-l", str(data_dir))
                try:
                    wait_until(lambda: not _ready(node), "/readyz to say 503")
                    for digest in digests:
                        assert outcome(partial(client.find_missing, [digest])) is UNAVAILABLE
                        assert outcome(partial(client.read, digest)) is UNAVAILABLE
                    assert outcome(lambda: client.batch_update([small_blob()])) is not None
                finally:
                    _run("mount", "--bind", str(whole / "data"), str(data_dir))
                wait_until(lambda: _ready(node), "/readyz to say 200")
                assert client.find_missing(digests) == set()
                for digest, data in zip(digests, blobs, strict=True):
                    assert client.read(digest) == data
                new = file_blob()
                client.write(new)
                assert client.read(digest_of(new)) == new
            assert node.stop() == 0
            assert_clean(data_dir)


@contextmanager
def _bound(source: Path, target: Path) -> Iterator[None]:
    _run("mount", "--bind", str(source), str(target))
    try:
        yield
    finally:
        _run("umount", "-l", str(target))


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()}"


def test_s14_a_disk_that_gives_errors_for_a_while_costs_no_blob(
    node: Node, client: Client, tmp_path: Path
) -> None:
    blobs = [file_blob(100_000) for _ in range(300)]
    for at in range(0, len(blobs), 30):
        client.batch_update(blobs[at : at + 30])
    digests, trace = [digest_of(data) for data in blobs], tmp_path / "trace"
    failing = [f"{call}:error=EIO" for call in ("newfstatat", "statx", "openat", "openat2")]
    with attached(node, *failing, out=str(trace)):
        assert outcome(lambda: client.find_missing(digests)) is UNAVAILABLE
        for digest in digests[:20]:
            assert outcome(partial(client.read, digest)) is UNAVAILABLE
    assert "(INJECTED" in trace.read_text(errors="replace")
    wait_until(lambda: _ready(node), "/readyz to say 200")
    assert client.find_missing(digests) == set()
    for digest, data in zip(digests, blobs, strict=True):
        assert client.read(digest) == data
    assert node.metrics().value("federation_quarantined_total") == 0
    assert_clean(node.data_dir)


def test_s17_a_node_is_not_started_without_its_volume(data_dir: Path) -> None:
    data = file_blob()
    with serve(data_dir) as node, Client(node.address) as client:
        client.write(data)
        assert node.stop() == 0
        with tmpfs(data_dir / "blobs"):
            node.launch()
            assert node.wait_exit() == 3
            assert "Mount the volume" in node.log
            assert "Traceback" not in node.log
            assert not list((data_dir / "blobs").iterdir())
        node.start()
        with Client(node.address) as again:
            assert again.read(digest_of(data)) == data
    assert_clean(data_dir)
