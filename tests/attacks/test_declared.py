"""Uploads that declare much: what they take from others by it."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from federation._proto.google.bytestream import bytestream_pb2 as bs
from federation.core.digest import Digest, digest_of
from tests.attacks.harness import MIB, Attacked
from tests.support.polling import wait_until
from tests.support.process_client import Client


class Held:
    """Uploads that stay open, each with so many bytes of what it declared."""

    def __init__(self, client: Client, count: int, declared: int, sent: int) -> None:
        self._over = threading.Event()
        client.at_close(self._over.set)
        self.calls: list[Any] = [
            client.bytestream.Write.future(self._messages(client, at, declared, sent), timeout=90)
            for at in range(count)
        ]

    def _messages(
        self, client: Client, at: int, declared: int, sent: int
    ) -> Iterator[bs.WriteRequest]:
        digest = Digest(digest_of(b"%d" % at).hash, declared)
        name = client.upload_name(digest)
        for offset in range(0, sent, MIB):
            data = bytes(min(MIB, sent - offset))
            yield bs.WriteRequest(resource_name=name, write_offset=offset, data=data)
        self._over.wait(90)


def test_declarations_refuse_nobody_and_evict_nothing(tmp_path: Path) -> None:
    settings = {"storage": {"quota": "64M", "lease": "1s", "inline-max": 0}}
    with (
        Attacked(tmp_path, settings=settings) as node,
        node.client() as honest,
        node.client(node.attacker_token) as attacker,
    ):
        held = [os.urandom(4 * MIB) for _ in range(8)]
        for data in held:
            honest.write(data)
        with node.watched() as seen:
            uploads = Held(attacker, 13, 30 * MIB, 1)
            wait_until(
                lambda: node.node.metrics().value("federation_uploads_open") >= 13, "all open"
            )
            seen.judge()
            honest.write(os.urandom(4 * MIB))
            assert not any(call.done() for call in uploads.calls)
            assert honest.find_missing(map(digest_of, held)) == set()


def test_bytes_of_unfinished_uploads_are_bounded_for_each_caller(tmp_path: Path) -> None:
    settings = {"storage": {"quota": "64M", "lease": "1s", "inline-max": 0}}
    with (
        Attacked(tmp_path, settings=settings) as node,
        node.client() as honest,
        node.client(node.attacker_token) as attacker,
    ):
        held = [os.urandom(4 * MIB) for _ in range(4)]
        for data in held:
            honest.write(data)
        with node.watched() as seen:
            # The oldest may go on as far as it likes; that of all others is bounded.
            uploads = Held(attacker, 4, 12 * MIB, 11 * MIB)
            node.check_limit_hit("upload-bytes-per-caller")
            seen.judge()
            honest.write(os.urandom(4 * MIB))
            assert not any(call.done() for call in uploads.calls)
            assert honest.find_missing(map(digest_of, held)) == set()
