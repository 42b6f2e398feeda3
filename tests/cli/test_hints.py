"""What `serve` tells people can be pasted as it is."""

from collections.abc import Mapping
from typing import Any

import pytest
import yaml

from federation.cli.hints import HintTarget, bazel, buildstream, choose, hints
from federation.config.model import Config

PULL = {"address": "0.0.0.0:11001"}
TLS = {"server-cert": "/etc/server.crt", "server-key": "/etc/server.key"}


def target(*listeners: Mapping[str, Any]) -> HintTarget:
    config = Config.model_validate({"listeners": list(listeners)})
    return choose(config, [listener.address for listener in config.listeners])


def test_buildstream_reads_its_part() -> None:
    server = {"url": "http://127.0.0.1:8980", "push": True}
    assert yaml.safe_load(buildstream(target({"address": "127.0.0.1:8980", "push": True}))) == {
        "artifacts": {"servers": [server]},
        "source-caches": {"servers": [server]},
    }


def test_a_listener_that_takes_pushes_is_preferred() -> None:
    assert target(PULL, {"address": "[::1]:1", "push": True}).address.port == 1
    assert target(PULL, {"address": "[::1]:1"}).address.port == 11001


def test_tls_and_pull_only_are_said() -> None:
    found = target({"address": "cache.example:1", "tls": TLS})
    server = yaml.safe_load(buildstream(found))["artifacts"]["servers"][0]
    assert server == {
        "url": "https://cache.example:1",
        "auth": {"server-cert": "/etc/server.crt"},
    }
    assert bazel(found).split() == [
        "build",
        "--remote_cache=grpcs://cache.example:1",
        "build",
        "--tls_certificate=/etc/server.crt",
        "build",
        "--remote_upload_local_results=false",
    ]


def test_a_client_certificate_is_asked_for_where_one_is_needed() -> None:
    listed = {**TLS, "client-certs": "/etc/authorized.crt"}
    found = target({"address": "cache.example:1", "push": True, "tls": listed})
    server = yaml.safe_load(buildstream(found))["artifacts"]["servers"][0]
    assert server["auth"]["client-cert"] == "client.crt"
    assert server["auth"]["client-key"] == "client.key"
    assert "build --tls_client_certificate=client.crt" in bazel(found)
    assert "build --tls_client_key=client.key" in bazel(found)


def test_a_token_is_asked_for_where_one_is_taken() -> None:
    auth = {"tokens": "/etc/tokens"}
    found = target({"address": "cache.example:1", "push": True, "tls": TLS, "auth": auth})
    server = yaml.safe_load(buildstream(found))["artifacts"]["servers"][0]
    assert server["auth"] == {"server-cert": "/etc/server.crt", "access-token": "token.txt"}
    assert 'build --remote_header="authorization=Bearer TOKEN"' in bazel(found)
    assert "client.crt" not in buildstream(found) + bazel(found)


def test_every_address_of_the_machine_is_shown_as_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "paris")
    assert "http://paris:11001" in buildstream(target(PULL))


def test_the_real_port_is_shown() -> None:
    config = Config.model_validate({"listeners": [{"address": "127.0.0.1:0", "push": True}]})
    text = hints(config, ["127.0.0.1:4711"])
    assert "grpc://127.0.0.1:4711" in text
    assert ":0\n" not in text
