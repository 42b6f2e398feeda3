"""keygen: pairs that TLS libraries take, files not overwritten by chance, text to paste."""

from __future__ import annotations

import json
import ssl
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result
from cryptography import x509

from federation.access.exposed_files import is_exposed
from federation.access.keygen import make_pair
from federation.access.tls import lacks_names, load_pair
from federation.cli import main
from federation.config.model import TlsConfig
from federation.core.errors import ConfigError
from tests.access.page import connect
from tests.support.certificates import Files
from tests.support.process import serve

NOW_S = 1_800_000_000.0


def keygen(*args: str) -> Result:
    return CliRunner().invoke(main, ["keygen", *args])


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("key_type", ["ec", "rsa"])
def test_pairs_made_here_connect_a_client_and_a_server(tmp_path: Path, key_type: str) -> None:
    options = ("--key-type", key_type)
    assert keygen("server", "localhost", "127.0.0.1", *options).exit_code == 0
    assert keygen("client", "alice", *options).exit_code == 0
    tls = {"server-cert": "server.crt", "server-key": "server.key", "client-certs": "client.crt"}
    settings = {"listeners": [{"address": "127.0.0.1:0", "push": True, "tls": tls}]}
    trusted, me = tmp_path / "server.crt", Files(tmp_path / "client.crt", tmp_path / "client.key")
    with serve(tmp_path / "data", settings) as node, connect(node, trusted, me) as client:
        assert client.write(b"by alice") == 8


def test_the_certificate_has_the_names_and_is_no_authority(tmp_path: Path) -> None:
    assert keygen("server", "cache.example.com", "10.0.0.5", "::1", "--days", "30").exit_code == 0
    made = x509.load_pem_x509_certificate((tmp_path / "server.crt").read_bytes())
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["cache.example.com"]
    found = names.get_values_for_type(x509.IPAddress)
    assert [str(address) for address in found] == ["10.0.0.5", "::1"]
    assert not made.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert (made.not_valid_after_utc - made.not_valid_before_utc).days == 30
    assert not lacks_names(tmp_path / "server.crt")
    context = ssl.create_default_context(cafile=str(tmp_path / "server.crt"))
    assert len(context.get_ca_certs()) == 0, "an authority would be listed"


def test_the_key_is_readable_by_its_owner_alone(tmp_path: Path) -> None:
    assert keygen("client", "alice").exit_code == 0
    key = tmp_path / "client.key"
    assert key.stat().st_mode & 0o777 == 0o600
    assert not is_exposed(key)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["client.crt", "client.key"]


@pytest.mark.parametrize("there", ["server.crt", "server.key"])
def test_nothing_is_overwritten_unless_told_to(tmp_path: Path, there: str) -> None:
    (tmp_path / there).write_text("precious")
    done = keygen("server", "localhost")
    assert done.exit_code == 3
    assert f"{there}: exists already; --force replaces it" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == [there]
    assert (tmp_path / there).read_text() == "precious"
    assert keygen("server", "localhost", "--force").exit_code == 0
    files = TlsConfig(server_cert=tmp_path / "server.crt", server_key=tmp_path / "server.key")
    load_pair(files, "here")
    assert (tmp_path / "server.key").stat().st_mode & 0o777 == 0o600


def test_the_printed_configurations_can_be_pasted() -> None:
    done = keygen("client", "alice", "--url", "https://cache:11002", "--out", "keys-alice")
    text = done.stdout
    _, *parts = text.strip().split("\n\n")
    titles = [title.rstrip(":") for title in parts[::2]]
    by_title = dict(zip(titles, parts[1::2], strict=True))
    auth = {
        "server-cert": "server.crt",
        "client-cert": "keys-alice.crt",
        "client-key": "keys-alice.key",
    }
    server = {"url": "https://cache:11002", "push": True, "auth": auth}
    user = yaml.safe_load(by_title["BuildStream 2, in ~/.config/buildstream.conf"])
    assert user == {"artifacts": {"servers": [server]}, "source-caches": {"servers": [server]}}
    project = yaml.safe_load(by_title["BuildStream 2, in project.conf"])
    assert project == {"artifacts": [server], "source-caches": [server]}
    old = yaml.safe_load(by_title["BuildStream 1, in either"])
    assert old == {"artifacts": {"url": "https://cache:11002", "push": True, **auth}}
    assert by_title["Bazel, in .bazelrc"].split() == [
        "build",
        "--remote_cache=grpcs://cache:11002",
        "build",
        "--tls_certificate=server.crt",
        "build",
        "--tls_client_certificate=keys-alice.crt",
        "build",
        "--tls_client_key=keys-alice.key",
    ]
    assert "federation authorize keys-alice.crt" in text


def test_a_server_is_told_how_to_be_configured() -> None:
    text = keygen("server", "cache.example.com").stdout
    section = text.split("\n\n")[2]
    assert yaml.safe_load(section)["listeners"][0]["tls"]["server-key"] == "server.key"
    assert "url: https://cache.example.com:11001" in text
    assert "push: true" not in text


def test_scripts_get_json() -> None:
    facts = json.loads(keygen("client", "alice@example.com", "--json").stdout)
    assert facts["certificate"] == "client.crt"
    assert len(facts["fingerprint-sha256"].split(":")) == 32


@pytest.mark.parametrize(
    "name", ["https://cache", "cache:11001", "a b", "", "x" * 65, "bücher.example", "*", "a\nb"]
)
def test_what_cannot_be_a_name_is_refused(tmp_path: Path, name: str) -> None:
    done = keygen("server", name)
    assert done.exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_an_e_mail_address_is_no_server() -> None:
    make_pair("client", ["alice@example.com"], "ec", NOW_S, 1)
    with pytest.raises(ConfigError, match="a host name or an IP address"):
        make_pair("server", ["alice@example.com"], "ec", NOW_S, 1)


def test_a_wildcard_is_a_server_name_only() -> None:
    make_pair("server", ["*.example.com"], "ec", NOW_S, 1)
