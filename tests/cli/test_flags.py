"""Flags become the same configuration as a file would, and complaints name the flag."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from federation.cli import main
from federation.cli.bst_artifact_server import bst_artifact_server
from federation.cli.serve import from_flags
from federation.config.model import Config
from federation.core.errors import ConfigError


def test_no_flags_are_the_defaults() -> None:
    assert from_flags({}) == Config()


def test_every_flag_has_its_key() -> None:
    found = from_flags(
        {
            "address": "[::1]:1",
            "push": False,
            "http": "none",
            "quota": "5G",
            "data_dir": "data",
            "node_name": "paris",
            "log_level": "debug",
            "log_format": "json",
            "tls_cert": "/c",
            "tls_key": "k",
        }
    )
    listener = found.listeners[0]
    assert (listener.address, listener.push) == ("[::1]:1", False)
    assert listener.tls is not None
    assert (listener.tls.server_cert, listener.tls.server_key) == (Path("/c"), Path.cwd() / "k")
    assert found.http.address is None
    assert found.storage.quota == 5 * 2**30
    assert (found.data_dir, found.node_name) == (Path.cwd() / "data", "paris")
    assert (found.log.level, found.log.format) == ("debug", "json")


@pytest.mark.parametrize(
    ("address", "push"),
    [("127.0.0.1:1", True), ("[::1]:1", True), ("0.0.0.0:1", False), ("cache.example:1", False)],
)
def test_pushing_has_to_be_said_where_others_can_connect(address: str, push: bool) -> None:
    assert from_flags({"address": address}).listeners[0].push is push
    assert from_flags({"address": address, "push": True}).listeners[0].push


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"quota": "lots"}, "--quota: a size is a whole number"),
        ({"address": "here"}, "--address: an address is host:port"),
        ({"http": "8981"}, "--http: an address is host:port"),
        ({"http": "127.0.0.1:8980"}, "--http: a listener has the address 127.0.0.1:8980 already"),
        ({"node_name": ""}, "--node-name: must not be empty"),
        ({"tls_cert": "c"}, "a certificate and a key belong together"),
        ({"tls_key": "k"}, "a certificate and a key belong together"),
    ],
)
def test_a_complaint_names_the_flag(flags: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigError, match=f"^{says}"):
        from_flags(flags)


def test_all_complaints_come_at_once() -> None:
    with pytest.raises(ConfigError, match=r"(?s)--address.*--quota"):
        from_flags({"address": "x", "quota": "x"})


def test_a_file_and_flags_together_are_refused() -> None:
    done = CliRunner().invoke(main, ["serve", "--config", "f", "--no-push"])
    assert done.exit_code == 2
    assert "cannot be combined with other options" in done.stderr


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["dir"], "Missing option '--port'"),
        (["--port", "1"], "Missing argument 'DIR'"),
        (["--port", "70000", "dir"], "70000 is not in the range"),
        (["--port", "1", "--quota", "x", "dir"], "--quota: a size is"),
        (["--port", "1", "--server-key", "k", "dir"], "a certificate and a key belong together"),
        (["--port", "1", "--client-certs", "c", "dir"], "--client-certs: needs TLS"),
        (["--port", "1", "--client-certs", "c", "--server-key", "k", "dir"], "belong together"),
        (["--port", "1", "--head-room-min", "2", "--head-room-max", "1", "dir"], "is more than"),
        (["--port", "1", "--head-room-min", "-1", "dir"], "-1 is not in the range"),
        (["--port", "1", "--no-such-option", "dir"], "No such option"),
    ],
)
def test_the_old_command_line_refuses_bad_usage(args: list[str], says: str) -> None:
    done = CliRunner().invoke(bst_artifact_server, args)
    assert done.exit_code == 2
    assert says in done.stderr
