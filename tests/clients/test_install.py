"""install/: read by the tools of its kinds, and a service installed by its one command.

There is no container engine and no Kubernetes here: their files are checked, not run.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.clients.tools import ROOT as TOOLS

INSTALL = Path(__file__).parents[2] / "install"
pytestmark = pytest.mark.clients


def run(*command: str | Path, **environment: str) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_hadolint_has_nothing_to_say_about_the_containerfile() -> None:
    assert run(TOOLS / "hadolint/bin/hadolint", INSTALL / "Containerfile") == ""


def test_the_kubernetes_example_is_valid_in_every_object() -> None:
    run(TOOLS / "kubernetes/bin/kubernetes-validate", "--strict", INSTALL / "kubernetes/node.yaml")


def test_shellcheck_has_nothing_to_say_about_the_setup() -> None:
    assert run(TOOLS / "shellcheck/bin/shellcheck", INSTALL / "setup") == ""


def test_systemd_takes_the_user_and_the_folders(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    root = f"--root={tmp_path}"
    run("systemd-sysusers", root, INSTALL / "sysusers.conf")
    assert "federation:" in (tmp_path / "etc/passwd").read_text()
    if os.geteuid() == 0:
        run("systemd-tmpfiles", "--create", root, INSTALL / "tmpfiles.conf")
        assert (tmp_path / "var/lib/federation").stat().st_mode & 0o777 == 0o700


@pytest.mark.timeout(900)
def test_one_command_installs_all_that_a_service_needs(tmp_path: Path) -> None:
    root = tmp_path / "root"
    run(INSTALL / "setup", "--root", root)
    for name in (
        "opt/federation/bin/federation",
        "usr/lib/sysusers.d/federation.conf",
        "usr/lib/tmpfiles.d/federation.conf",
        "usr/lib/systemd/system/federation.service",
        "etc/federation/federation.yaml",
        "usr/local/share/man/man1/federation.1",
        "usr/local/share/bash-completion/completions/federation",
    ):
        assert (root / name).is_file(), name
    mine = root / "etc/federation/federation.yaml"
    mine.write_text(mine.read_text() + "offline: true\n")
    run(INSTALL / "setup", "--root", root)  # an upgrade
    assert "offline: true" in mine.read_text()
    venv = root / "opt/federation"
    run(venv / "bin/python", "-m", "federation", "check-config", mine)
    script = (venv / "bin/federation").read_text()
    assert "/opt/federation/bin/python" in script
    named = str(root).encode()
    assert [
        path
        for path in venv.rglob("*")
        if path.is_file() and not path.is_symlink() and named in path.read_bytes()
    ] == [], "files name the folder that they were made in"
    shutil.rmtree(root)
