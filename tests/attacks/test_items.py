"""Messages of very many tiny items, from readers and from upstreams."""

from __future__ import annotations

from pathlib import Path

import pytest

from federation.core.digest import Digest, digest_of
from tests.attacks.harness import MIB, Attacked
from tests.attacks.raw_calls import (
    ACTIONS,
    ASSET,
    CAS,
    REAPI,
    REFERENCES,
    call_raw,
    hostile_server,
    kept_up,
)
from tests.support.process_client import message, outcome

# Of each method a field that is repeated, or would be skipped one by one.
ITEMS = {
    f"{CAS}/BatchReadBlobs": b"\x12\x00",
    f"{CAS}/FindMissingBlobs": b"\x12\x00",
    f"{CAS}/BatchUpdateBlobs": b"\x12\x00",
    f"{CAS}/GetTree": b"\x12\x00",
    f"{ACTIONS}/GetActionResult": b"\x2a\x00",
    f"{ACTIONS}/UpdateActionResult": b"\xf2\x01\x00",
    f"{ASSET}.Fetch/FetchBlob": b"\x2a\x00",
    f"{ASSET}.Fetch/FetchDirectory": b"\x2a\x00",
    f"{ASSET}.Push/PushBlob": b"\x3a\x00",
    f"{ASSET}.Push/PushDirectory": b"\x3a\x00",
    f"{REFERENCES}/UpdateReference": b"\x12\x00",
    f"{REAPI}.Capabilities/GetCapabilities": b"\x12\x00",
    "grpc.health.v1.Health/Check": b"\x12\x00",
}


@pytest.mark.parametrize("size_mib", [1, 7])
def test_messages_of_tiny_items_cost_next_to_nothing(tmp_path: Path, size_mib: int) -> None:
    with (
        Attacked(tmp_path) as node,
        node.client(node.attacker_token) as attacker,
        node.watched() as seen,
    ):
        refused = {}
        for method, item in ITEMS.items():
            refused[method] = call_raw(attacker, method, item * (size_mib * MIB // len(item)))
        assert set(refused.values()) <= {"INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"}, refused
        batch = b"\x12\x00" * (size_mib * MIB // 2)
        method = f"{CAS}/BatchReadBlobs"
        with kept_up(lambda: call_raw(attacker, method, batch), threads=2):
            seen.judge()
        node.check_limit_hit("message.fields")


def test_a_thousand_malformed_digests_are_told_and_more_refuse_the_batch(tmp_path: Path) -> None:
    malformed = b"\x12\x44\x0a\x40" + b"X" * 64 + b"\x10\x01"
    with Attacked(tmp_path) as node, node.client(node.reader_token) as reader:
        method = f"{CAS}/BatchReadBlobs"
        assert call_raw(reader, method, malformed * 1000) == "OK"
        assert call_raw(reader, method, malformed * 1001) == "INVALID_ARGUMENT"


def test_a_request_larger_than_its_method_needs_is_refused(tmp_path: Path) -> None:
    with Attacked(tmp_path) as node, node.client(node.reader_token) as reader:
        long = b"\x0a\x80\x80\x80\x01" + bytes(2 * MIB)  # an instance name of 2 MiB
        for method in (f"{REAPI}.Capabilities/GetCapabilities", f"{ASSET}.Fetch/FetchBlob"):
            assert call_raw(reader, method, long) in {"INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"}
        node.check_limit_hit("message.size")


@pytest.mark.parametrize("item", [b"\x0a\x00", b"\x12\x00", b"\x12\x02\x0a\x00"])
def test_answers_of_an_upstream_are_counted_before_they_are_read(
    tmp_path: Path, item: bytes
) -> None:
    def dense(size_mib: float) -> bytes:
        return item * int(size_mib * MIB / len(item))

    answers = {
        f"{REAPI}.Capabilities/GetCapabilities": dense(0.2),
        f"{CAS}/FindMissingBlobs": dense(0.9),
        f"{CAS}/BatchReadBlobs": dense(7.9),
        f"{ACTIONS}/GetActionResult": dense(3.9),
        f"{ASSET}.Fetch/FetchBlob": dense(0.9),
        f"{ASSET}.Fetch/FetchDirectory": dense(0.9),
    }
    wanted = Digest(digest_of(b"nowhere").hash, 1000)
    with hostile_server(answers) as (address, asked):
        settings = {"upstreams": [{"name": "hostile", "url": f"grpc://{address}"}]}
        with (
            Attacked(tmp_path, settings=settings) as node,
            node.client(node.reader_token) as reader,
            node.watched() as seen,
        ):

            def ask() -> None:
                outcome(lambda: reader.batch_read([wanted]))
                reader.find_missing([wanted])
                outcome(lambda: reader.get_action_result(wanted))
                outcome(lambda: reader.fetch_blob("urn:nowhere"))
                call_raw(reader, f"{ASSET}.Fetch/FetchDirectory", b"\x2a\x0burn:nowhere")

            ask()
            with kept_up(ask, threads=2):
                seen.judge()
            assert len(set(asked)) >= 2, asked
            assert message(wanted).size_bytes == 1000
