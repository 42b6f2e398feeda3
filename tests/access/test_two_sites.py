"""Nodes that send to and read from each other over TLS, and are known by certificate or token."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from federation.access.rights import Role
from federation.access.tokens import RANDOM_BYTES, make_token
from federation.core.clock import SystemClock
from federation.core.digest import digest_of
from tests.access.served import Site
from tests.support.certificates import Files, self_signed
from tests.support.polling import wait_until
from tests.support.process import Node, federation
from tests.support.process_client import Client

DATA = b"pushed in paris" * 1000


class Sites:
    """Tokyo receives, and asks its callers who they are; paris is pushed to."""

    def __init__(self, folder: Path) -> None:
        self.paris, self.tokyo = folder / "paris", folder / "tokyo"
        self.paris.mkdir()
        self.tokyo.mkdir()
        self.site = Site(self.tokyo)
        self.me = self_signed(self.paris, "paris")
        self.token = make_token(
            Role.PEER, bytes(RANDOM_BYTES), SystemClock().wall_s(), name="paris"
        )
        (self.tokyo / "tokens").write_text(self.token.line + "\n")
        (self.paris / "token").write_text(self.token.text + "\n")

    def receiving(self, how: str) -> Node:
        """Describe tokyo, which knows paris in this way."""
        listed: Files = self_signed(self.tokyo, "somebody") if how == "nobody" else self.me
        if how == "token":
            self.site.listen(auth={"tokens": str(self.tokyo / "tokens")})
        elif how == "client":
            self.site.listen(client_certs=listed.certificate)
        else:
            self.site.listen(peer_certs=listed.certificate)
        return self.site.node()

    def sending(self, how: str, tokyo: Node) -> Node:
        """Describe paris, which sends to tokyo."""
        auth = {"server-cert": str(self.site.server.certificate)}
        if how == "token":
            auth["access-token"] = str(self.paris / "token")
        else:
            auth |= {"client-cert": str(self.me.certificate), "client-key": str(self.me.key)}
        url = f"https://localhost:{tokyo.address.rpartition(':')[2]}"
        peers = [{"name": "tokyo", "url": url, "auth": auth}]
        return Node(self.paris / "data", {"peers": peers}, name="paris")


def shown_by(node: Node, *args: str) -> dict[str, Any]:
    """Return what a command says about the node's data directory."""
    done = federation(*args, "--data-dir", str(node.data_dir), "--json")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def pushes(node: Node) -> list[dict[str, Any]]:
    return [json.loads(line) for line in node.log.splitlines() if '"push_accepted"' in line]


@pytest.mark.parametrize("how", ["peer", "token", "client"])
def test_what_is_pushed_here_arrives_there_in_the_senders_name(tmp_path: Path, how: str) -> None:
    sites = Sites(tmp_path)
    with sites.receiving(how).start() as tokyo, sites.sending(how, tokyo).start() as paris:
        with Client(paris.address) as client:
            client.write(DATA)
        wait_until(lambda: pushes(tokyo), "the blob in tokyo")
        (line,) = pushes(tokyo)
        assert str(digest_of(DATA)) in (line.get("digest"), *line.get("digests", ()))
        name = "token paris (" if how == "token" else "certificate CN=paris "
        assert line["identity"].startswith(name)
        # Whoever may only push is believed nothing about where its writes come from.
        assert shown_by(tokyo, "explain", str(digest_of(DATA)))["source"].partition(" ")[0] == (
            "client" if how == "client" else "peer"
        )


def test_a03_a_peer_that_is_not_known_sends_nothing_and_both_sides_say_so(tmp_path: Path) -> None:
    sites = Sites(tmp_path)
    (sites.tokyo / "tokens").write_text("")
    with sites.receiving("token").start() as tokyo, sites.sending("token", tokyo).start() as paris:
        with Client(paris.address) as client:
            client.write(DATA)
        wait_until(lambda: "client_refused" in tokyo.log, "a refusal in tokyo")
        assert "the token is unknown here" in tokyo.log
        wait_until(
            lambda: "the token is unknown here" in json.dumps(shown_by(paris, "status")),
            "the reason in paris",
        )
        assert pushes(tokyo) == []
        assert sites.token.text not in paris.log + tokyo.log


def test_p5_who_may_push_is_told_of_what_is_here_and_who_may_only_read_of_what_it_would_find(
    tmp_path: Path,
) -> None:
    sites = Sites(tmp_path)
    sites.site.listen(auth={"tokens": str(sites.tokyo / "tokens"), "anonymous": "pull"})
    with Node(sites.paris / "data", name="upstream").start() as upstream:
        with Client(upstream.address) as client:
            client.write(DATA)
        asked = [{"name": "paris", "url": f"http://{upstream.address}"}]
        with sites.site.node(upstreams=asked).start() as node:
            with sites.site.connect(node, token=sites.token.text) as pusher:
                assert pusher.find_missing([digest_of(DATA)]) == {digest_of(DATA)}
            with sites.site.connect(node) as reader:
                assert reader.find_missing([digest_of(DATA)]) == set()
            with sites.site.connect(node, token=sites.token.text) as pusher:
                assert pusher.find_missing([digest_of(DATA)]) == {digest_of(DATA)}
