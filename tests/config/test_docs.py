"""The example file and the page about the configuration say what the model says."""

import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from federation.config.file import load, loads
from federation.config.keys import walk
from federation.config.model import Config
from federation.config.peers import PeerConfig, PeerConnectionConfig
from federation.config.upstreams import ConnectionConfig

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "config.example.yaml"


def with_examples() -> str:
    """The example file with its `#key` lines taken in."""
    return re.sub(
        r"^( *)#(?=( *# | *(- )?[a-z-]+:))", r"\1", EXAMPLE.read_text(), flags=re.MULTILINE
    )


def paths(value: object, below: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield (*below, key)
            yield from paths(inner, (*below, key))
    elif isinstance(value, list):
        for inner in value:
            yield from paths(inner, below)


def is_as_of_a_listener(path: tuple[str, ...]) -> bool:
    """Whether a key is shown where the listeners are: the HTTP address has the same sections."""
    return path[:1] == ("http",) and len(path) > 2


def test_the_example_says_what_the_defaults_are() -> None:
    assert load(EXAMPLE) == Config()


def test_the_example_names_every_key_and_no_other() -> None:
    named = set(paths(yaml.safe_load(with_examples())))
    assert named == {key.path for key in walk() if not is_as_of_a_listener(key.path)}


def test_the_example_shows_a_fixed_default_as_such() -> None:
    shown = set(paths(yaml.safe_load(EXAMPLE.read_text())))
    hidden = {
        key.dotted for key in walk() if key.path not in shown and not is_as_of_a_listener(key.path)
    }
    examples = (
        "instances",
        "upstreams",
        "peers",
        "namespaces",
        "listeners.auth.",
        "pull.schedule",
    )
    assert {name for name in hidden if not name.startswith(examples)} == {
        "listeners.auth",
        "listeners.tls.peer-certs",
        "listeners.tls.client-ca",
        "node-name",
        "data-dir",
        "storage.cache",
        "storage.catalogue",
        "storage.objects",
        "storage.objects.bucket",
        "storage.objects.credentials",
        "storage.objects.endpoint",
        "storage.objects.prefix",
        "storage.objects.region",
        "storage.quota",
        "storage.reserve",
        "storage.reserve-max",
        "listeners.tls",
        "listeners.tls.server-cert",
        "listeners.tls.server-key",
        "listeners.tls.client-certs",
        "listeners.tls.invitations",
        "mesh.url",
        "mesh.address",
    }


def test_what_the_example_shows_in_comments_is_allowed_too() -> None:
    text = with_examples().replace("engine: embedded", "engine: shared")
    found = loads(text, EXAMPLE, {})
    assert found.storage.objects is not None
    assert found.storage.objects.credentials == ROOT / "s3-credentials"
    assert found.storage.quota == 500 * 2**30
    tls = found.listeners[0].tls
    assert tls is not None
    assert tls.server_key == ROOT / "server.key"
    assert found.upstreams[0].auth.client_key == ROOT / "me.key"
    assert found.upstreams[0].connection_config == ConnectionConfig()
    (peer,) = found.peers
    assert peer.connection_config == PeerConnectionConfig()
    assert peer.window == PeerConfig.model_fields["window"].default


def test_every_key_has_a_comment_above_it_in_the_example() -> None:
    lines = EXAMPLE.read_text().splitlines()
    for at, line in enumerate(lines):
        if re.match(r" *#?[a-z-]+: *\S", line) and "- address" not in line:
            above = lines[at - 1].strip()
            neighbour = re.match(r"#?(high-watermark|server-cert)", above)
            assert above.startswith("#") or neighbour or above == "scrub:", line


def test_every_key_is_described() -> None:
    assert [key.dotted for key in walk() if not key.field.description] == []


def test_the_page_is_made_from_the_model() -> None:
    done = subprocess.run([sys.executable, ROOT / "docs/generate.py", "--check"], check=False)
    assert done.returncode == 0, "docs/configuration.md is stale: run docs/generate.py"


def test_a_stale_page_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "generate.py"
    script.write_text((ROOT / "docs/generate.py").read_text())
    module = runpy.run_path(str(script))
    monkeypatch.setattr(sys, "argv", ["generate.py", "--check"])
    assert module["main"]() == 1
    monkeypatch.setattr(sys, "argv", ["generate.py"])
    assert module["main"]() == 0
    monkeypatch.setattr(sys, "argv", ["generate.py", "--check"])
    assert module["main"]() == 0
