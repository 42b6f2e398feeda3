"""buildbox-casd that reads blobs over HTTP: from a node, its peer and a mirror of it."""

from __future__ import annotations

import random
from pathlib import Path
from urllib.request import urlopen

import grpc
import pytest

from federation.core.digest import Digest, digest_of
from tests.clients.casd import casd
from tests.clients.http.builds import CacheAddress
from tests.clients.http.sites import http_sites, over_http
from tests.support.process_client import Client, action_result, code_of

pytestmark = [pytest.mark.clients, pytest.mark.timeout(400)]

_BITS = random.Random(5)
BLOBS = [_BITS.randbytes(size) for size in (1, 1000, 9_000_000)]
DIGESTS = [digest_of(data) for data in BLOBS]
ACTION = digest_of(b"an action that nobody uploads")


def read_all(folder: Path, at: CacheAddress) -> list[bytes | grpc.StatusCode]:
    """Read every blob through a casd with an empty store."""
    options = ("--cas-protocol=http", f"--cas-remote={at.url}")
    with casd(folder, *options) as reader:

        def read(digest: Digest) -> bytes | grpc.StatusCode:
            try:
                return reader.read(digest)
            except grpc.RpcError as error:
                return code_of(error)

        return [read(digest) for digest in DIGESTS]


def test_casd_reads_from_each_node_also_without_the_first(tmp_path: Path) -> None:
    with http_sites(tmp_path) as sites:
        none = [grpc.StatusCode.NOT_FOUND] * len(BLOBS)
        assert read_all(tmp_path / "before", over_http(sites.paris)) == none
        with Client(sites.paris.address) as builder:
            for data in BLOBS:
                builder.write(data)
            outputs = [(f"out-{number}", digest) for number, digest in enumerate(DIGESTS)]
            builder.update_action_result(ACTION, action_result(outputs))
        assert read_all(tmp_path / "first", over_http(sites.paris)) == BLOBS

        # Its path has no size, and the upstream is not asked without: see docs/protocol.md.
        mirror = over_http(sites.mirror)
        assert read_all(tmp_path / "unknown", mirror) == none
        with urlopen(f"{mirror.url}/ac/{ACTION.hash_hex}", timeout=60) as answer:
            assert answer.status == 200
        assert read_all(tmp_path / "known", mirror) == BLOBS

        sites.wait_until_replicated()
        sites.lose_paris()
        assert read_all(tmp_path / "peer", over_http(sites.tokyo)) == BLOBS
        assert read_all(tmp_path / "alone", mirror) == BLOBS
