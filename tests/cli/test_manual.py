"""The man page and the completions that are made from the commands."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from federation.cli import main
from federation.cli.manual import man_page


def test_the_man_page_has_every_command_and_every_option() -> None:
    assert isinstance(main, click.Group)
    page = man_page(main).replace("\\-", "-")
    context = click.Context(main, info_name="federation")
    for name in main.list_commands(context):
        command = main.get_command(context, name)
        assert command is not None
        if command.hidden:
            assert f".SS federation {name}" not in page
            continue
        assert f".SS federation {name}" in page
        for parameter in command.params:
            assert all(option in page for option in parameter.opts if option.startswith("-"))
    assert "\b" not in page


def test_all_files_are_written_and_written_again(tmp_path: Path) -> None:
    for _ in range(2):
        done = CliRunner().invoke(main, ["manual", "--prefix", str(tmp_path), "--json"])
        assert done.exit_code == 0, done.output
    names = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert names == {
        "share/man/man1/federation.1",
        "share/bash-completion/completions/federation",
        "share/zsh/site-functions/_federation",
        "share/fish/vendor_completions.d/federation.fish",
    }


@pytest.mark.skipif(shutil.which("groff") is None, reason="no groff here")
def test_roff_has_no_complaint(tmp_path: Path) -> None:
    CliRunner().invoke(main, ["manual", "--prefix", str(tmp_path)])
    page = tmp_path / "share/man/man1/federation.1"
    done = subprocess.run(
        ["groff", "-man", "-Tascii", "-ww", "-z", str(page)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_bash_takes_the_completion(tmp_path: Path) -> None:
    CliRunner().invoke(main, ["manual", "--prefix", str(tmp_path)])
    script = tmp_path / "share/bash-completion/completions/federation"
    done = subprocess.run(
        ["bash", "-euc", f"source {script}; complete -p federation"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "_federation_completion" in done.stdout
