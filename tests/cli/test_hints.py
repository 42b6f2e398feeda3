"""What `serve` tells people can be pasted as it is."""

from collections.abc import Mapping
from typing import Any, Literal

import pytest
import yaml

from federation.cli.hints import HintTarget, bazel, buildstream, choose, hints, http_caches
from federation.config.model import Config

PULL = {"address": "0.0.0.0:11001"}
TLS = {"server-cert": "/etc/server.crt", "server-key": "/etc/server.key"}


def target(*listeners: Mapping[str, Any], protocol: Literal["grpc", "http"] = "grpc") -> HintTarget:
    config = Config.model_validate({"listeners": list(listeners)})
    found = choose(config, [listener.address for listener in config.listeners], protocol)
    assert found is not None
    return found


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


HTTP = {"address": "127.0.0.1:8990", "protocol": "http", "push": True}


def test_clients_of_the_http_cache_get_a_line_each() -> None:
    lines = http_caches(target(PULL, HTTP, protocol="http"))
    for line in (
        "build --remote_cache=http://127.0.0.1:8990\n",
        "remote_storage = http://127.0.0.1:8990/kv/ccache\n",
        "SCCACHE_WEBDAV_ENDPOINT=http://127.0.0.1:8990/kv/sccache\n",
        "url = 'http://127.0.0.1:8990/gradle/'; push = true",
        "TURBO_API=http://127.0.0.1:8990 TURBO_TEAM=team TURBO_TOKEN=any\n",
        "NX_SELF_HOSTED_REMOTE_CACHE_SERVER=http://127.0.0.1:8990\n",
        "host: 'http://127.0.0.1:8990'",
        "--cas-remote=http://127.0.0.1:8990",
    ):
        assert line in lines + "\n"


def test_a_token_stands_where_each_client_wants_it() -> None:
    secured = {**HTTP, "push": False, "auth": {"tokens": "/etc/tokens"}}
    lines = http_caches(target(secured, protocol="http"))
    assert "--remote_cache=http://ci:TOKEN@127.0.0.1:8990" in lines
    assert "SCCACHE_WEBDAV_TOKEN=TOKEN" in lines
    assert "NX_SELF_HOSTED_REMOTE_CACHE_ACCESS_TOKEN=TOKEN" in lines
    assert "TURBO_TOKEN=TOKEN" in lines
    assert "auth: {token: 'CACHE_TOKEN'}" in lines
    assert "push = true" not in lines
    assert "--remote_upload_local_results=false" in lines


@pytest.mark.parametrize("anonymous", ["none", "pull"])
def test_buildbox_casd_has_a_line_where_it_needs_no_token(anonymous: str) -> None:
    auth = {"tokens": "/etc/tokens", "anonymous": anonymous}
    lines = http_caches(target({**HTTP, "auth": auth}, protocol="http"))
    assert ("buildbox-casd" in lines) == (anonymous == "pull")


def test_ccache_has_no_line_where_it_needs_tls() -> None:
    lines = http_caches(target({**HTTP, "tls": TLS}, protocol="http"))
    assert "https://127.0.0.1:8990/gradle/" in lines
    assert "ccache.conf" not in lines


def test_each_protocol_has_its_part_of_what_serve_prints() -> None:
    both = Config.model_validate({"listeners": [PULL, HTTP]})
    text = hints(both, ["0.0.0.0:11001", "127.0.0.1:8990"])
    assert "BuildStream" in text
    assert "Clients of HTTP caches" in text
    alone = hints(Config.model_validate({"listeners": [HTTP]}), ["127.0.0.1:8990"])
    assert "BuildStream" not in alone
    assert "grpc" not in alone
