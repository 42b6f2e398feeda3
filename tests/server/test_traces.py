"""A trace of two real nodes, as a collector gets it: client, node, upstream."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as collector_pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as collector_grpc
from opentelemetry.proto.trace.v1 import trace_pb2 as otlp

from federation._proto.google.bytestream import bytestream_pb2 as bs
from federation.core.digest import Digest, digest_of
from tests.support.polling import wait_until
from tests.support.process import serve
from tests.support.process_client import Client

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = [("traceparent", f"00-{TRACE}-{CALLER}-01"), ("tracestate", "vendor=1")]
BLOB = b"traced" * 100_000


class Collector(collector_grpc.TraceServiceServicer):
    """Keeps what it is sent: each span, and the node that sent it."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, otlp.Span]] = []

    def Export(  # noqa: N802 - gRPC's name
        self, request: collector_pb.ExportTraceServiceRequest, context: grpc.ServicerContext
    ) -> collector_pb.ExportTraceServiceResponse:
        for told in request.resource_spans:
            facts = {x.key: x.value.string_value for x in told.resource.attributes}
            for scope in told.scope_spans:
                self.spans += [(facts["service.instance.id"], span) for span in scope.spans]
        return collector_pb.ExportTraceServiceResponse()

    def of(self, trace_id: str) -> dict[str, tuple[str, otlp.Span]]:
        """Return the spans of a trace, and who sent them, by their ids."""
        found = list(self.spans)
        return {
            span.span_id.hex(): (node, span)
            for node, span in found
            if span.trace_id.hex() == trace_id
        }


@contextmanager
def collecting() -> Iterator[tuple[Collector, str]]:
    collector = Collector()
    server = grpc.server(ThreadPoolExecutor(max_workers=2))
    collector_grpc.add_TraceServiceServicer_to_server(collector, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield collector, f"http://127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def settings(name: str, traces: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"node-name": name, "traces": traces, **more}


def test_a_trace_goes_from_the_client_through_the_node_to_its_upstream(tmp_path: Path) -> None:
    digest = digest_of(BLOB)
    with collecting() as (collector, url):
        traces = {"endpoint": url, "sample": 0}
        with serve(tmp_path / "far", settings("far", traces), name="far") as far:
            upstreams = [{"name": "hq", "url": f"grpc://{far.address}"}]
            near_settings = settings("near", traces, upstreams=upstreams)
            with (
                serve(tmp_path / "near", near_settings, name="near") as near,
                Client(far.address) as there,
                Client(near.address) as here,
            ):
                there.write(BLOB)
                _read(here, digest)
                wait_until(lambda: _is_whole(collector), "both nodes told of the trace")
    spans = collector.of(TRACE)
    (root,) = (x for x in spans.values() if x[1].parent_span_id.hex() == CALLER)
    assert root[0] == "near"
    assert root[1].name == "google.bytestream.ByteStream/Read"
    assert root[1].trace_state == "vendor=1"
    for node, span in spans.values():
        parent = spans.get(span.parent_span_id.hex(), ("", None))
        if node == "far":  # its calls are those that near has made
            assert parent[0] == "near"
            assert parent[1] is not None
            assert parent[1].kind == otlp.Span.SPAN_KIND_CLIENT
            assert parent[1].name == span.name
        elif span is not root[1]:
            assert parent == root
    untraced = [span for _, span in collector.spans if span.trace_id.hex() != TRACE]
    assert untraced == [], "sample: 0 begins no trace"


def _read(client: Client, digest: Digest) -> None:
    name = f"blobs/{digest.hash_hex}/{digest.size_bytes}"
    request = bs.ReadRequest(resource_name=name)
    answer = client.bytestream.Read(request, metadata=SAMPLED, timeout=60)
    assert b"".join(part.data for part in answer) == BLOB


def _is_whole(collector: Collector) -> bool:
    told = {(node, span.name) for node, span in collector.of(TRACE).values()}
    return {(x, "google.bytestream.ByteStream/Read") for x in ("near", "far")} <= told


def test_a_node_begins_traces_by_itself_and_tells_of_the_last_ones_at_its_end(
    tmp_path: Path,
) -> None:
    with collecting() as (collector, url):
        node_settings = settings("alone", {"endpoint": url})
        with serve(tmp_path / "node", node_settings) as node, Client(node.address) as client:
            client.write(BLOB)
            assert client.find_missing([digest_of(BLOB)]) == set()
            assert node.stop() == 0
        names = {span.name.rpartition("/")[2]: span for _, span in collector.spans}
    assert {"Write", "FindMissingBlobs"} <= set(names)
    assert names["Write"].parent_span_id == b""
    assert names["Write"].trace_id != names["FindMissingBlobs"].trace_id
    taken_ns = names["Write"].end_time_unix_nano - names["Write"].start_time_unix_nano
    assert 0 < taken_ns < 60 * 10**9


def test_a_client_over_http_is_traced_as_well(tmp_path: Path) -> None:
    with collecting() as (collector, url):
        listeners = [{"address": "127.0.0.1:0", "push": True, "protocol": "http"}]
        node_settings = settings("node", {"endpoint": url, "sample": 0}, listeners=listeners)
        with serve(tmp_path / "node", node_settings) as node:
            path = f"http://{node.address}/kv/main/key"
            request = urllib.request.Request(path, BLOB, dict(SAMPLED), method="PUT")
            urllib.request.urlopen(request, timeout=60).close()
            urllib.request.urlopen(path, timeout=60).close()
            assert node.stop() == 0
        (span,) = (span for _, span in collector.spans)
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, CALLER)
    assert span.name == "http.Cache/PutEntry"


def test_a_replicated_object_is_traced_at_both_nodes(tmp_path: Path) -> None:
    with collecting() as (collector, url):
        traces = {"endpoint": url}
        with serve(tmp_path / "far", settings("far", traces), name="far") as far:
            peers = [{"name": "far", "url": f"grpc://{far.address}"}]
            near_settings = settings("near", traces, peers=peers)
            with (
                serve(tmp_path / "near", near_settings, name="near") as near,
                Client(near.address) as here,
            ):
                here.write(BLOB)
                wait_until(lambda: _pairs(collector, "BatchUpdateBlobs"), "traced at both")


def _pairs(collector: Collector, method: str) -> bool:
    """Whether a call of this method was told of by who made it and by who answered it."""
    made = {
        span.span_id
        for node, span in list(collector.spans)
        if node == "near" and span.kind == otlp.Span.SPAN_KIND_CLIENT
    }
    return any(
        node == "far" and span.name.endswith(f"/{method}") and span.parent_span_id in made
        for node, span in list(collector.spans)
    )


@pytest.mark.parametrize("transport", ["grpcio", "http2"])
def test_a_collector_that_is_away_is_no_trouble(tmp_path: Path, transport: str) -> None:
    traces = {"endpoint": "http://127.0.0.1:1"}
    node_settings = settings("node", traces, transport=transport)
    with serve(tmp_path / "node", node_settings) as node, Client(node.address) as client:
        client.write(BLOB)
        wait_until(lambda: "traces_not_sent" in node.log, "it has noticed")
        assert client.read(digest_of(BLOB)) == BLOB
        assert node.http_get("/readyz")[0] == 200
        assert node.stop() == 0
