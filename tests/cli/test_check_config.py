"""check-config: the exit code, the message, the JSON."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from federation.cli import main
from tests.support.certificates import self_signed

EXAMPLE = Path(__file__).parents[2] / "config.example.yaml"


def run(*args: str | Path) -> Result:
    return CliRunner().invoke(main, ["check-config", *map(str, args)])


def test_a_good_file() -> None:
    done = run(EXAMPLE)
    assert (done.exit_code, done.stdout, done.stderr) == (0, f"{EXAMPLE}: good\n", "")


def test_a_good_file_as_json() -> None:
    facts = json.loads(run(EXAMPLE, "--json").stdout)
    assert facts["problems"] == facts["warnings"] == []
    assert facts["config"]["storage"]["inline-max"] == 65536
    assert facts["config"]["listeners"][0]["address"] == "127.0.0.1:8980"


def test_o06_every_problem_of_a_bad_file_is_shown_and_the_code_is_2(tmp_path: Path) -> None:
    file = tmp_path / "node.yaml"
    file.write_text("quota: 1G\nlimits:\n  streams: -1\n")
    done = run(file)
    assert (done.exit_code, done.stdout) == (2, "")
    assert f"{file}:1: quota: unknown key; did you mean storage.quota?" in done.stderr
    assert f"{file}:3: limits.streams: found -1; must be at least 1" in done.stderr


def test_a_bad_file_as_json(tmp_path: Path) -> None:
    file = tmp_path / "node.yaml"
    file.write_text("limits:\n  streams: -1\n")
    done = run(file, "--json")
    assert done.exit_code == 2
    assert json.loads(done.stdout)["problems"] == [
        {
            "file": str(file),
            "line": 2,
            "path": "limits.streams",
            "message": "found -1; must be at least 1",
        }
    ]


def test_certificates_are_checked_too(tmp_path: Path) -> None:
    files = self_signed(tmp_path)
    file = tmp_path / "node.yaml"
    file.write_text(
        "listeners:\n- address: 0.0.0.0:1\n  push: true\n"
        "  tls: {server-cert: server.crt, server-key: server.key}\n"
    )
    done = run(file)
    assert done.exit_code == 0
    assert done.stderr == f"{file}: warning: 0.0.0.0:1: whoever reaches this address may push\n"
    files.key.chmod(0o644)
    assert "other users of this machine may read this key" in run(file).stderr
    files.key.unlink()
    done = run(file)
    assert done.exit_code == 2
    key = f"{file}:4: listeners[0].tls.server-key"
    assert f"{key}: {files.key}: No such file or directory; `federation keygen`" in done.stderr


def test_a_list_of_clients_is_checked_and_ends_the_warning(tmp_path: Path) -> None:
    files = self_signed(tmp_path, hosts=())
    file = tmp_path / "node.yaml"
    file.write_text(
        "listeners:\n- address: 0.0.0.0:1\n  push: true\n"
        f"  tls: {{server-cert: {files.certificate}, server-key: {files.key},"
        " client-certs: authorized.crt}\n"
    )
    listed = tmp_path / "authorized.crt"
    listed.write_bytes(files.certificate.read_bytes())
    done = run(file)
    assert done.exit_code == 0
    (line,) = done.stderr.splitlines()
    assert "no subject alternative name" in line
    listed.write_bytes(files.certificate.read_bytes() + files.key.read_bytes())
    done = run(file)
    assert done.exit_code == 2
    place = f"listeners[0].tls.client-certs: {listed}: block 2 (line"
    assert place in done.stderr
    assert "a private key" in done.stderr


@pytest.mark.parametrize("args", [[], ["--no-such-option"], ["a", "b"]])
def test_wrong_usage_is_2(args: list[str]) -> None:
    assert run(*args).exit_code == 2
