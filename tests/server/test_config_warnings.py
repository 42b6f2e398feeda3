"""What a configuration allows that its owner may not have meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from federation.config.model import Config
from federation.server.config_warnings import advice
from tests.support.certificates import self_signed


def told(config: Config) -> list[tuple[str, str]]:
    return [(each.event, each.text) for each in advice(config)]


def test_secrets_that_others_can_read_are_told(tmp_path: Path) -> None:
    names = ("token", "client.key", "jwt", "spans", "bucket")
    token, key, jwt, spans, bucket = secrets = [tmp_path / name for name in names]
    for each in secrets:
        each.write_text("x" * 40)
        each.chmod(0o600)
    (certificate := tmp_path / "client.crt").touch(0o600)
    auth = {"access-token": token, "client-cert": certificate, "client-key": key}
    listener = {
        "address": "127.0.0.1:0",
        "auth": {"jwt": {"keys": jwt, "algorithms": ["HS256"], "audience": "here"}},
    }
    config = Config.model_validate(
        {
            "data-dir": tmp_path,
            "listeners": [listener],
            "upstreams": [{"name": "hq", "url": "https://hq:1", "auth": auth}],
            "traces": {"endpoint": "https://hq:2", "access-token": spans},
            "storage": {
                "engine": "shared",
                "catalogue": "postgresql://hq/cache",
                "objects": {"bucket": "cache", "endpoint": "https://hq:3", "credentials": bucket},
                "quota": "1T",
                "cache": "10G",
            },
        }
    )
    assert told(config) == []
    for each in secrets:
        each.chmod(0o644)
    found = told(config)
    assert {event for event, _ in found} == {"secret_exposed"}
    for each in secrets:
        assert any(f"chmod o= {each}" in text for _, text in found)


def test_lists_that_others_can_write_are_told_with_their_folders(tmp_path: Path) -> None:
    server, client = self_signed(tmp_path), self_signed(tmp_path, "client")
    server.key.chmod(0o600)
    folder = tmp_path / "lists"
    folder.mkdir()
    listed, tokens = folder / "clients.crt", tmp_path / "tokens"
    listed.write_bytes(client.certificate.read_bytes())
    tokens.write_text("")
    config = Config.model_validate(
        {
            "data-dir": tmp_path,
            "listeners": [
                {
                    "address": "127.0.0.1:0",
                    "tls": {
                        "server-cert": server.certificate,
                        "server-key": server.key,
                        "client-certs": listed,
                    },
                    "auth": {"tokens": tokens},
                }
            ],
        }
    )
    assert told(config) == []
    tokens.chmod(0o666)
    folder.chmod(0o777)
    assert [event for event, _ in told(config)] == ["file_writable"] * 2
    assert {text.rpartition(" ")[2] for _, text in told(config)} == {str(tokens), str(folder)}
    folder.chmod(0o1777)  # as /tmp: nobody replaces what is another's
    assert [text.rpartition(" ")[2] for _, text in told(config)] == [str(tokens)]


def test_a_configuration_that_others_can_write_is_told(tmp_path: Path) -> None:
    config, file = Config.model_validate({"data-dir": tmp_path}), tmp_path / "node.yaml"
    file.write_text("")
    file.chmod(0o644)
    assert advice(config, file) == []
    file.chmod(0o646)
    assert [each.event for each in advice(config, file)] == ["file_writable"]


def test_clients_that_tls_cannot_tell_apart_are_told(tmp_path: Path) -> None:
    server = self_signed(tmp_path)
    server.key.chmod(0o600)
    alike = [self_signed(tmp_path, f"alike{n}", cn="ci") for n in range(2)]
    listed = tmp_path / "listed.crt"
    listed.write_bytes(b"".join(each.certificate.read_bytes() for each in alike))
    config = Config.model_validate(
        {
            "data-dir": tmp_path,
            "listeners": [
                {
                    "address": "127.0.0.1:0",
                    "tls": {
                        "server-cert": server.certificate,
                        "server-key": server.key,
                        "client-certs": listed,
                    },
                }
            ],
        }
    )
    ((event, text),) = told(config)
    assert event == "listed_clients_alike"
    assert "keygen" in text


def test_a_proxy_on_loopback_without_a_secret_is_told(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x" * 40)
    secret.chmod(0o600)

    def config(**proxy: object) -> Config:
        auth = {"proxy": {"addresses": ["127.0.0.0/8"], "client-certs": tmp_path / "c", **proxy}}
        listener = {"address": "127.0.0.1:0", "auth": auth}
        return Config.model_validate({"data-dir": tmp_path, "listeners": [listener]})

    ((event, text),) = told(config())
    assert event == "proxy_without_secret"
    assert "auth.proxy.secret" in text
    assert told(config(secret=secret)) == []
    assert told(config(addresses=["10.0.0.7"])) == []


@pytest.mark.parametrize(
    ("http", "events"),
    [
        ({}, []),
        ({"address": None}, []),
        ({"pages": "admin"}, ["pages_for_nobody"]),
        ({"address": "0.0.0.0:8981"}, ["pages_for_nobody"]),
        ({"address": "0.0.0.0:8981", "pages": "open"}, ["pages_open"]),
    ],
)
def test_pages_that_nobody_or_everybody_sees_are_told(
    tmp_path: Path, http: dict[str, str], events: list[str]
) -> None:
    config = Config.model_validate({"data-dir": tmp_path, "http": http})
    assert [event for event, _ in told(config)] == events


def test_files_for_other_servers_that_cannot_be_read_are_told_with_their_keys(
    tmp_path: Path,
) -> None:
    (there := tmp_path / "there.crt").touch(0o600)
    config = Config.model_validate(
        {
            "data-dir": tmp_path,
            "upstreams": [
                {"name": "a", "url": "https://a:1", "auth": {"server-cert": there}},
                {"name": "b", "url": "https://b:1", "auth": {"server-cert": tmp_path / "b.crt"}},
            ],
            "peers": [{"name": "c", "url": "https://c:1", "auth": {"access-token": tmp_path}}],
        }
    )
    absent, folder = [text for event, text in told(config) if event == "file_unreadable"]
    assert absent == (
        f"upstreams[1].auth.server-cert: {tmp_path}/b.crt: No such file or directory; "
        "b is not asked until it can be read"
    )
    assert folder.startswith(f"peers[0].auth.access-token: {tmp_path}: Is a directory; c is not")
