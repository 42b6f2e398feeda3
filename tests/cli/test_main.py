"""The command itself: what it lists, and that one command does not load the others."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from federation.cli import main

_ROOT = click.Context(main)


def _is_hidden(name: str) -> bool:
    command = main.get_command(_ROOT, name)
    assert command is not None, name
    return command.hidden


_SHOWN = [name for name in main.list_commands(_ROOT) if not _is_hidden(name)]


@pytest.mark.parametrize("command", [[], *([name] for name in _SHOWN)])
def test_help_has_examples_and_exit_codes(command: list[str]) -> None:
    done = CliRunner().invoke(main, [*command, "--help"])
    assert done.exit_code == 0
    assert "Exit codes:" in done.stdout
    if command:
        assert "Example" in done.stdout


def test_the_version() -> None:
    done = CliRunner().invoke(main, ["--version"])
    assert (done.exit_code, done.stdout) == (0, "federation, version 0.1.0\n")


def test_help_lists_every_command_that_is_for_people() -> None:
    shown = CliRunner().invoke(main, ["--help"]).stdout
    section = shown.partition("Commands:")[2].partition("Exit codes:")[0]
    assert [line.split()[0] for line in section.strip().splitlines()] == _SHOWN


def test_help_loads_nothing_that_takes_long() -> None:
    script = (
        "import sys; from federation.cli import main; main(['--help'], standalone_mode=False);"
        "print({'grpc', 'aiohttp', 'apsw', 'rich', 'cryptography'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "set()"


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("stauts", "Did you mean 'status'?"),
        ("checkconfig", "Did you mean 'check-config'?"),
        ("workr", "No such command 'workr'."),  # it is not listed
    ],
)
def test_a_command_that_is_mistyped_is_told_what_is_like_it(typed: str, said: str) -> None:
    done = CliRunner().invoke(main, [typed])
    assert done.exit_code == 2
    assert done.output.rstrip().endswith(said)
