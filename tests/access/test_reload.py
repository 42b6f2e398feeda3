"""Certificates and lists are replaced under traffic, and nobody who may stay notices."""

from __future__ import annotations

import signal
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from federation.core.digest import digest_of
from tests.access import page
from tests.support.certificates import Files, self_signed
from tests.support.polling import wait_until
from tests.support.process import Node
from tests.support.process_client import outcome

OK, DENIED = grpc.StatusCode.OK, grpc.StatusCode.PERMISSION_DENIED


class Site:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server = self_signed(folder)
        self.list = folder / "authorized.crt"
        self.alice, self.bob = self_signed(folder, "alice"), self_signed(folder, "bob")
        self.authorize(self.alice, self.bob)
        self.node = page.server(folder / "artifacts", page.PUSH, "push")

    @property
    def trusted(self) -> Path:
        return self.server.certificate

    def authorize(self, *listed: Files) -> None:
        fresh = self.folder / "fresh"
        fresh.write_bytes(b"".join(files.certificate.read_bytes() for files in listed))
        fresh.replace(self.list)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    with site.node.start():
        yield site


def certificate_shown(node: Node) -> bytes:
    host, _, port = page.local(node).partition(":")
    return ssl.get_server_certificate((host, int(port)), timeout=60).encode()


def test_a06_a_lone_leaf_of_an_authority_is_let_in_and_its_sisters_are_not(tmp_path: Path) -> None:
    authority = self_signed(tmp_path, "authority")
    site = Site(tmp_path)
    leaf, sister = (self_signed(tmp_path, name, issuer=authority) for name in ("leaf", "sister"))
    site.authorize(leaf)
    with site.node.start() as node:
        with page.connect(node, site.trusted, leaf) as client:
            client.write(b"from the leaf")
        for other in (sister, authority):
            with page.connect(node, site.trusted, other) as client:
                assert outcome(lambda: client.write(b"from another")) is not OK
                assert outcome(client.capabilities) is not OK
        with page.connect(node, site.trusted, leaf) as client:
            missing = client.find_missing([digest_of(b"from the leaf"), digest_of(b"from another")])
            assert missing == {digest_of(b"from another")}


@pytest.mark.parametrize("hang_up", [False, True])
def test_a09_who_is_taken_off_the_list_is_refused_on_the_open_connection(
    site: Site, hang_up: bool
) -> None:
    with (
        page.connect(site.node, site.trusted, site.alice) as alice,
        page.connect(site.node, site.trusted, site.bob) as bob,
    ):
        alice.write(b"alice, while listed")
        bob.write(b"bob, always listed")
        site.authorize(site.bob)
        if hang_up:
            site.node.signal(signal.SIGHUP)
        wait_until(
            lambda: outcome(lambda: alice.write(b"alice, later")) is DENIED,
            "a refusal",
        )
        assert outcome(alice.capabilities) is DENIED
        assert bob.find_missing([digest_of(b"alice, while listed")]) == set()
        assert "CN=alice" in site.node.log


def test_a_newcomer_is_let_in_without_a_restart(site: Site) -> None:
    carol = self_signed(site.folder, "carol")
    with page.connect(site.node, site.trusted, carol) as client:
        assert outcome(client.capabilities) is grpc.StatusCode.UNAVAILABLE
    page.append(carol.certificate, site.list)
    wait_until(lambda: "tls_files_taken" in site.node.log, "the new list")
    with page.connect(site.node, site.trusted, carol) as client:
        client.write(b"carol")


def test_a07_a11_bad_files_change_nothing_and_the_log_says_which(site: Site) -> None:
    good = site.list.read_bytes()
    site.list.write_bytes(good[:-40])
    wait_until(lambda: "block 2" in site.node.log, "a complaint about the list")
    assert str(site.list) in site.node.log
    stranger = self_signed(site.folder, "stranger")
    site.server.key.write_bytes(stranger.key.read_bytes())
    site.list.write_bytes(good)
    wait_until(lambda: "does not belong" in site.node.log, "a complaint")
    assert certificate_shown(site.node) == site.trusted.read_bytes()
    for me in (site.alice, site.bob):
        with page.connect(site.node, site.trusted, me) as client:
            client.write(b"still served")


def test_a10_a_new_server_certificate_under_traffic_fails_no_call(site: Site) -> None:
    old = site.trusted.read_bytes()
    ended = threading.Event()
    failed: list[grpc.StatusCode] = []
    done = 0

    def work() -> None:
        nonlocal done
        with page.connect(site.node, trusted_then, site.alice) as client:
            while not ended.is_set():
                code = outcome(lambda: client.find_missing([digest_of(b"x")]))
                done += 1
                if code is not OK:
                    failed.append(code)

    trusted_then = site.folder / "old.crt"
    trusted_then.write_bytes(old)
    traffic = threading.Thread(target=work)
    traffic.start()
    try:
        wait_until(lambda: done > 100, "traffic")
        fresh = self_signed(site.folder, "fresh-server")
        fresh.key.replace(site.server.key)
        fresh.certificate.replace(site.server.certificate)
        wait_until(lambda: "tls_files_taken" in site.node.log, "the new pair")
        with page.connect(site.node, site.trusted, site.alice) as client:
            client.write(b"under the new certificate")
        with page.connect(site.node, trusted_then, site.alice) as client:
            assert outcome(client.capabilities) is grpc.StatusCode.UNAVAILABLE
        before = done
        wait_until(lambda: done > before + 100, "more traffic on the old connection")
    finally:
        ended.set()
        traffic.join(20)
    assert failed == []


def test_a21_a_list_that_is_replaced_all_the_time_is_never_empty_or_half(site: Site) -> None:
    with page.connect(site.node, site.trusted, site.alice) as alice:
        alice.write(b"before")
        for turn in range(300):
            site.authorize(*([site.alice], [site.bob, site.alice])[turn % 2])
            site.node.signal(signal.SIGHUP)
            assert outcome(alice.capabilities) is OK
        with page.connect(site.node, site.trusted, site.alice) as again:
            again.write(b"after")
    assert "tls_files_refused" not in site.node.log
    assert "client_refused" not in site.node.log
