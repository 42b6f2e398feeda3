"""A peer that is sent to over TLS: certificates that are struck off the list, and that expire."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.replication.mesh import held_in, is_idle, only_peer
from tests.faults.replication.work import name_all, push
from tests.support.certificates import Files, self_signed
from tests.support.polling import pass_time, wait_until
from tests.support.process import Node
from tests.support.process_client import Client


class Pair:
    """Node a sends to node b, which lets in who is on its list."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.good = self_signed(folder, "good")
        self.expired = self_signed(folder, "expired", expired=True)
        self.me = self_signed(folder, "me")
        self.listed, self.trusted = folder / "peers.crt", folder / "trusted.crt"
        self.allow()
        both = [each.certificate.read_bytes() for each in (self.good, self.expired)]
        self.trusted.write_bytes(b"".join(both))
        self.show(self.good)
        tls = {
            "server-cert": str(folder / "server.crt"),
            "server-key": str(folder / "server.key"),
            "peer-certs": str(self.listed),
        }
        listeners = [
            {"address": "127.0.0.1:0", "push": True},
            {"address": "127.0.0.1:0", "push": True, "tls": tls},
        ]
        self.b = Node(folder / "b", {"listeners": listeners}, name="b")
        self.a = Node(folder / "a", name="a")

    def start(self) -> Pair:
        self.b.start()
        auth = {
            "server-cert": str(self.trusted),
            "client-cert": str(self.me.certificate),
            "client-key": str(self.me.key),
        }
        peer: dict[str, Any] = {"name": "b", "url": f"https://{self.b.addresses[1]}", "auth": auth}
        peer["connection-config"] = {"retry-delay": 20, "request-timeout": "5s", "stall": "2s"}
        self.a.settings = {"peers": [peer]}
        self.a.start()
        self.caught_up()
        # It keeps its address over restarts, as it is configured.
        first, second = (dict(each) for each in self.b.settings["listeners"])
        second["address"] = self.b.addresses[1]
        self.b.settings = {"listeners": [first, second]}
        return self

    def show(self, files: Files) -> None:
        """Let b show this certificate."""
        shutil.copy(files.key, self.folder / "server.key")
        shutil.copy(files.certificate, self.folder / "server.crt")

    def allow(self, *files: Files) -> None:
        """Let b's list be these, and by default our own."""
        kept = files or (self.me,)
        new = self.folder / "peers.new"
        new.write_bytes(b"".join(each.certificate.read_bytes() for each in kept))
        new.rename(self.listed)

    def caught_up(self) -> None:
        try:
            wait_until(lambda: is_idle(only_peer(self.a)), "b has everything")
        except AssertionError as error:
            raise AssertionError(f"{error}: {only_peer(self.a)}\n{self.a.log_tail}") from None
        there, here = held_in(self.b.data_dir), held_in(self.a.data_dir)
        assert there == here

    def close(self) -> None:
        self.a.close()
        self.b.close()


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    made = Pair(tmp_path)
    try:
        yield made.start()
    finally:
        made.close()


def test_r26_struck_off_the_list_in_mid_stream_and_put_back(pair: Pair) -> None:
    with Client(pair.a.address) as client:
        push(client, "before", 50)
        pair.caught_up()
        pair.allow(pair.good)  # another one
        wait_until(lambda: _is_refused(pair, client), "it is refused")
        held = held_in(pair.b.data_dir)
        digests = push(client, "meanwhile", 50)
        name_all(client, "meanwhile", digests)
        pass_time(0.3)
        assert held_in(pair.b.data_dir) == held
        assert only_peer(pair.a)["lag-objects"] >= 60
        assert only_peer(pair.a)["parked"] == 0
        pair.allow()
        pair.b.stop()  # a peer that denies everything is asked ever more rarely; a new start helps
        pair.b.start()
        pair.caught_up()


def _is_refused(pair: Pair, client: Client) -> bool:
    push(client, f"at {len(only_peer(pair.a))} {pair.a.log.count('push_accepted')}", 1)
    return bool(only_peer(pair.a)["state"] == "refused")


def test_a_peer_whose_certificate_expired(pair: Pair) -> None:
    with Client(pair.a.address) as client:
        pair.b.stop()
        pair.show(pair.expired)
        pair.b.start()
        digests = push(client, "meanwhile", 50)
        name_all(client, "meanwhile", digests)
        wait_until(lambda: only_peer(pair.a)["last-error"], "it is refused")
        wait_until(lambda: only_peer(pair.a)["state"] in {"refused", "unreachable"}, "it says so")
        assert only_peer(pair.a)["lag-objects"] == 60
        assert held_in(pair.b.data_dir).blobs == frozenset()
        assert only_peer(pair.a)["parked"] == 0
        pair.show(pair.good)  # taken up without a restart
        pair.caught_up()
