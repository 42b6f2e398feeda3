"""The unit files of docs/examples are ones that systemd takes, and start what they say."""

from __future__ import annotations

import configparser
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from federation.cli import main
from tests.access import page

pytestmark = pytest.mark.clients

UNITS = Path(__file__).parents[2] / "docs" / "examples" / "systemd"
INSTALLED = "/opt/federation/bin"
NAMES = [
    "bst-artifact-serve-receive.service",
    "bst-artifact-serve.service",
    "federation.service",
    "federation.socket",
]


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """Copies that start the programs of this test's environment."""
    for unit in UNITS.iterdir():
        text = unit.read_text().replace(INSTALLED, str(Path(sys.executable).parent))
        (tmp_path / unit.name).write_text(text)
    return tmp_path


def analyze(*args: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("systemd-analyze")
    assert program, "systemd-analyze is not installed: tests/clients/install does it"
    return subprocess.run([program, *args], capture_output=True, text=True, check=False, timeout=60)


def test_there_are_these_units() -> None:
    assert sorted(unit.name for unit in UNITS.iterdir()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_systemd_finds_nothing_wrong(units: Path, name: str) -> None:
    done = analyze("verify", "--man=no", str(units / name))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_systemd_would_find_something_wrong(units: Path) -> None:
    unit = units / "federation.service"
    unit.write_text(unit.read_text().replace("ProtectHome=yes", "ProtectHone=yes"))
    assert "ProtectHone" in analyze("verify", "--man=no", str(unit)).stderr


def test_our_unit_leaves_little_of_the_machine_open(units: Path) -> None:
    unit = str(units / "federation.service")
    done = analyze("security", "--no-pager", "--offline=yes", "--threshold=20", unit)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("bst-artifact-serve.service", page.PULL),
        ("bst-artifact-serve-receive.service", page.PUSH),
    ],
)
def test_the_old_pages_units_start_what_the_page_says(name: str, options: str) -> None:
    command = _command(name)
    assert command[0] == f"{INSTALLED}/bst-artifact-server"
    given = [Path(word).name for word in command[1:-1]]
    port = given[given.index("--port") + 1]
    assert given == [port if word == "0" else word for word in options.split()]


def test_the_reload_of_our_unit_is_a_command_that_there_is(tmp_path: Path) -> None:
    unit = _read("federation.service")["Service"]
    _, *reload = shlex.split(unit["ExecReload"])
    _, *serve = shlex.split(unit["ExecStart"])
    assert serve[1:] == reload[1:], "both name the same file"
    done = CliRunner().invoke(main, [reload[0], "--config", str(tmp_path / "none.yaml")])
    assert done.exit_code == 2
    assert "cannot be read" in done.stderr


def _command(name: str) -> list[str]:
    return shlex.split(_read(name)["Service"]["ExecStart"])


def _read(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNITS / name)
    return parser
