"""What a serving process does to itself before it serves."""

import os
import resource
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from federation.core.errors import CannotStart
from federation.server import process, systemd


def test_w33_the_pure_python_protobuf_is_refused() -> None:
    process.check_protobuf("upb")
    with pytest.raises(CannotStart, match="runs on its python implementation"):
        process.check_protobuf("python")


def test_w33_the_protobuf_that_is_installed_will_do() -> None:
    process.prepare()


def test_the_soft_limit_of_open_files_is_raised() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(64, soft), hard))
        process.raise_file_limit()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_o19_no_file_of_ours_becomes_standard_error() -> None:
    script = (
        "import os, sys\n"
        "from federation.server.process import open_standard_files\n"
        "open_standard_files()\n"
        "number = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY)\n"
        "sys.exit(0 if number > 2 else 1)\n"
    )
    command = 'exec "$0" -c "$1" "$2" <&- >&- 2>&-'
    done = subprocess.run(
        ["sh", "-c", command, sys.executable, script, os.devnull], check=False, timeout=60
    )
    assert done.returncode == 0


@pytest.mark.parametrize("abstract", [False, True])
def test_o21_the_service_manager_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool
) -> None:
    name = f"@federation-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{name[1:]}" if abstract else name)
        manager.settimeout(60)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        systemd.notify("READY=1")
        assert manager.recv(100) == b"READY=1"


def test_o21_no_service_manager_is_no_trouble(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    systemd.notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    systemd.notify("READY=1")
