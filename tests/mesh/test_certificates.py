"""What other nodes say about members, and what of it is not believed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from federation.access.keygen import make_pair
from federation.core.errors import InvalidRequest, RequestTooLarge
from federation.mesh.certificates import check_member, der_of, pem_of
from federation.wire.mesh import (
    CERTIFICATE_MAX_BYTES,
    MEMBERS_MAX,
    encode_introduction,
    encode_join,
    parse_introduction,
    parse_join,
)
from tests.mesh.sites import NOW_S, MeshSite
from tests.support.certificates import self_signed


@pytest.fixture
def tokyo(tmp_path: Path) -> MeshSite:
    return MeshSite(tmp_path, "tokyo")


def test_a_member_as_it_is_made_is_fine(tokyo: MeshSite, tmp_path: Path) -> None:
    check_member(tokyo.me, NOW_S)
    for url in ("https://10.1.2.3:1", "https://[::1]:65535"):
        check_member(MeshSite(tmp_path / url[-5:].strip(":"), "tokyo", url).me, NOW_S)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"name": ""}, "the name ''"),
        ({"name": "../../etc/passwd"}, "letters, digits"),
        ({"name": "a/b"}, "letters, digits"),
        ({"name": ".hidden"}, "letters, digits"),
        ({"name": "_self"}, "letters, digits"),
        ({"name": "tokyo\n"}, "letters, digits"),
        ({"name": "x" * 65}, "letters, digits"),
        ({"name": "osaka"}, "is for CN=tokyo"),
        ({"url": "http://tokyo.example.com:11002"}, "uses TLS"),
        ({"url": "https://tokyo.example.com"}, "with the port"),
        ({"url": "https://tokyo.example.com:0"}, "with the port"),
        ({"url": "https://tokyo.example.com:11002/x"}, "nothing behind"),
        ({"url": "https://u@tokyo.example.com:11002"}, "host:port"),
        ({"url": "https://${HOME}:11002"}, "host:port"),
        ({"url": "https://tokyo.example.com\n:11002"}, "nothing behind|host:port"),
        ({"url": "https://osaka.example.com:11002"}, "not for osaka"),
        ({"url": "https://tokyo.example.com:99999"}, "Port|port"),
        ({"client_der": b""}, "client"),
        ({"client_der": b"\x30\x03abc"}, "client"),
        ({"server_der": b"\x30\x03abc"}, "server"),
    ],
)
def test_what_could_mean_something_else_in_a_file_is_refused(
    tokyo: MeshSite, change: dict[str, Any], reason: str
) -> None:
    with pytest.raises(InvalidRequest, match=reason):
        check_member(tokyo.me._replace(**change), NOW_S)


def test_an_expired_certificate_is_refused(tokyo: MeshSite) -> None:
    old = make_pair("client", ["tokyo"], "ec", NOW_S - 10 * 86400, 1)
    with pytest.raises(InvalidRequest, match="expired"):
        check_member(tokyo.me._replace(client_der=der_of(old.certificate)), NOW_S)


def test_a_certificate_that_would_keep_another_member_out_is_refused(tmp_path: Path) -> None:
    """TLS takes the first certificate of a subject for all, unless key identifiers differ."""
    paris = MeshSite(tmp_path, "paris")
    tokyo = MeshSite(tmp_path, "tokyo")
    for path in (paris.folder.files.accepted).iterdir():
        assert path.name == "_self.crt"
    shadow = self_signed(tmp_path, "shadow", cn="paris")
    pem = shadow.certificate.read_bytes()
    with pytest.raises(InvalidRequest, match="is for CN=paris"):
        paris.introduce(tokyo.me._replace(client_der=der_of(pem)))
    # A member of the same name elsewhere, whose certificate has no identifiers.
    paris.introduce(tokyo.me)
    same = self_signed(tmp_path, "same", cn="tokyo").certificate.read_bytes()
    paris.folder.remove("tokyo")
    (paris.folder.files.accepted / "old.crt").write_bytes(pem_of(tokyo.me.client_der))
    with pytest.raises(InvalidRequest, match="could not tell"):
        paris.folder.check(tokyo.me._replace(client_der=der_of(same)), paris.me, set(), NOW_S)


def test_messages_are_bounded(tokyo: MeshSite) -> None:
    assert parse_join(encode_join(tokyo.me)) == tokyo.me
    assert parse_introduction(encode_introduction([tokyo.me] * 2)) == [tokyo.me] * 2
    big = tokyo.me._replace(server_der=b"x" * (CERTIFICATE_MAX_BYTES + 1))
    with pytest.raises(InvalidRequest, match="certificate of more than"):
        parse_join(encode_join(big))
    with pytest.raises(InvalidRequest, match="characters"):
        parse_join(encode_join(tokyo.me._replace(url="x" * 301)))
    with pytest.raises(RequestTooLarge):
        parse_introduction(encode_introduction([tokyo.me] * (MEMBERS_MAX + 1)))
