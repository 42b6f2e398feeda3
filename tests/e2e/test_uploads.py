"""Uploads over a real connection: W07, W11, W13."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import grpc
import pytest

from federation._proto.google.bytestream import bytestream_pb2 as bs
from federation.core.digest import digest_of
from tests.faults.storage.clean import assert_clean
from tests.faults.storage.proxy import CuttingProxy
from tests.faults.storage.strace import attached
from tests.support.polling import wait_until
from tests.support.process import Node
from tests.support.process_client import Client, outcome

_RSS_FLAT_BYTES = 48 * 2**20
# What gRPC has of a client that does not stop sending: little, but its windows grow beside a node
# that is kept from running (54 MiB were seen).
_WINDOWS_BYTES = 128 * 2**20
_CPU_MAX_S = 40  # [<5 s] on a machine of its own; here it only catches something quadratic


@pytest.mark.parametrize("size", [8000, pytest.param(100_000, marks=pytest.mark.heavy)])
def test_w07_an_upload_of_one_byte_messages_costs_little(
    size: int, node: Node, client: Client
) -> None:
    data = os.urandom(size)
    client.write(os.urandom(100_000), chunk_bytes=100)
    rss, cpu_s = node.rss_bytes(), node.cpu_s()
    client.timeout_s = 100
    assert client.write(data, chunk_bytes=1) == len(data)
    assert client.read(digest_of(data)) == data
    assert node.cpu_s() - cpu_s < _CPU_MAX_S
    assert node.rss_bytes() - rss < _RSS_FLAT_BYTES
    assert_clean(node.data_dir)


@pytest.mark.heavy
def test_w07_the_disk_sees_few_writes_of_an_upload_in_tiny_messages(
    node: Node, client: Client, tmp_path: Path
) -> None:
    data, trace = os.urandom(80_000), tmp_path / "trace"
    run = next((node.data_dir / "run").glob("*.json")).stem
    first = node.data_dir / "incoming" / f"{run}-0"
    with attached(node, "write", paths=[first], out=str(trace)):
        assert client.write(data, chunk_bytes=4) == len(data)
    lines = [line for line in trace.read_text().splitlines() if "write(" in line]
    assert 0 < len(lines) < 20, f"{len(lines)} writes"


def test_w07_an_upload_in_messages_just_under_the_limit(node: Node, client: Client) -> None:
    data = os.urandom(40 * 2**20)
    client.write(os.urandom(8 * 2**20))
    rss = node.rss_bytes()
    assert client.write(data, chunk_bytes=8 * 2**20 - 2000) == len(data)
    assert node.rss_bytes() - rss < _RSS_FLAT_BYTES + 32 * 2**20
    assert client.read(digest_of(data)) == data


def test_w11_a_blob_already_held_is_answered_early_while_the_client_keeps_sending(
    node: Node, client: Client
) -> None:
    data = os.urandom(64 * 2**20)
    client.write(data)
    name = client.upload_name(digest_of(data))
    sent = [0]

    def requests() -> Iterator[bs.WriteRequest]:
        for at in range(0, len(data), 2**20):
            sent[0] += 1
            yield bs.WriteRequest(
                resource_name=name,
                write_offset=at,
                data=data[at : at + 2**20],
                finish_write=at + 2**20 == len(data),
            )

    rss = node.rss_bytes()
    for _ in range(16):  # 1 GiB in all
        assert client.bytestream.Write(requests(), timeout=60).committed_size == len(data)
    assert node.rss_bytes() - rss < _WINDOWS_BYTES
    assert_clean(node.data_dir)


@pytest.mark.parametrize("chunk_bytes", [16_384, 2**20])
def test_w13_a_cut_connection_is_continued_at_the_committed_size(
    chunk_bytes: int, node: Node, client: Client
) -> None:
    data = os.urandom(10 * 2**20)
    name, committed = _cut_upload(node, client, data, chunk_bytes)
    assert 0 < committed <= 6 * 2**20
    assert client.find_missing([digest_of(data)]) == {digest_of(data)}
    assert client.write(data, name=name, offset=committed) == len(data)
    assert client.read(digest_of(data)) == data
    assert client.write_status(name) == (len(data), True)
    assert_clean(node.data_dir)


def _cut_upload(node: Node, client: Client, data: bytes, chunk_bytes: int) -> tuple[str, int]:
    """Cut an upload at 60 %; returns its name and how much the node says it kept.

    A node that is kept from running until the connection is gone has kept nothing; then again.
    """
    for _ in range(5):
        name = client.upload_name(digest_of(data), str(uuid.uuid4()))
        with CuttingProxy(node.address, cut_after_bytes=6 * 2**20) as proxy:
            with Client(proxy.address) as cut:
                code = outcome(partial(cut.write, data, name=name, chunk_bytes=chunk_bytes))
            assert code is grpc.StatusCode.UNAVAILABLE
            assert proxy.was_cut.wait(10)
        wait_until(
            lambda: node.metrics().value("federation_requests_running") == 0, "the stream to end"
        )
        committed, complete = client.write_status(name)
        assert not complete
        if committed:
            break
    return name, committed


def test_w13_a_cut_upload_may_also_start_over(node: Node, client: Client) -> None:
    data = os.urandom(5 * 2**20)
    name = client.upload_name(digest_of(data), str(uuid.uuid4()))
    for cut_after in (3 * 2**20, 2**20):
        with (
            CuttingProxy(node.address, cut_after_bytes=cut_after) as proxy,
            Client(proxy.address) as cut,
        ):
            assert outcome(lambda: cut.write(data, name=name)) is grpc.StatusCode.UNAVAILABLE
    assert client.write(data, name=name) == len(data)
    assert client.read(digest_of(data)) == data
    assert_clean(node.data_dir)
