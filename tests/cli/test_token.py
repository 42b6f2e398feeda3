"""federation token: what it prints once, what it keeps, and what a broken file keeps it from."""

import json
import stat
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from federation.access.rights import Role
from federation.access.tokens import parse_tokens
from tests.support.process import federation


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tokens"


def run(*args: str | Path, code: int = 0) -> CompletedProcess[str]:
    done = federation("token", *map(str, args))
    assert done.returncode == code, done.stderr
    return done


def test_what_is_printed_is_found_in_the_file_and_is_not_in_it(file: Path) -> None:
    done = run("new", "--role", "push", "--name", "ci", "--expires", "90d", "--file", file)
    (text,) = done.stdout.split()
    assert "valid for 90d" in done.stderr
    assert text not in done.stderr
    found = parse_tokens(file.read_bytes(), "here").find(text)
    assert found is not None
    assert (found.role, found.name) == (Role.PUSH, "ci")
    assert text.rpartition("_")[2] not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o640


def test_tokens_are_added_behind_what_is_there_and_its_mode_stays(file: Path) -> None:
    file.write_text("# ours")
    file.chmod(0o600)
    made = [
        json.loads(run("new", "--role", role, "--file", file, "--json").stdout)
        for role in ("pull", "admin")
    ]
    assert file.read_text().startswith("# ours\n{")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    shown = json.loads(run("list", "--file", file, "--json").stdout)["tokens"]
    assert [(x["id"], x["role"]) for x in shown] == [(x["id"], x["role"]) for x in made]
    assert all("token" not in each and "sha256" not in each for each in shown)
    run("revoke", made[0]["id"], "--file", file)
    kept = parse_tokens(file.read_bytes(), "here")
    assert kept.find(made[0]["token"]) is None
    stays = kept.find(made[1]["token"])
    assert stays is not None
    assert stays.role is Role.ADMIN
    assert file.read_text().startswith("# ours\n{")
    assert "no token with the ID" in run("revoke", made[0]["id"], "--file", file, code=2).stderr


def test_the_configuration_says_which_file(tmp_path: Path, file: Path) -> None:
    config = tmp_path / "f.yaml"
    config.write_text(
        "listeners:\n- {address: 127.0.0.1:1, auth: {tokens: tokens}}\n- {address: 127.0.0.1:2}\n"
    )
    args = ("new", "--role", "pull", "--instance", "a", "--instance", "b/*", "--config", config)
    text = run(*args).stdout.strip()
    found = parse_tokens(file.read_bytes(), "x").find(text)
    assert found is not None
    assert found.instances.patterns == ("a", "b/*")
    config.write_text("listeners:\n- {address: 127.0.0.1:1}\n")
    assert "say which with --file" in run(*args, code=2).stderr


@pytest.mark.parametrize(
    "args", [("--expires", "soon"), ("--expires", "0"), ("--name", "a\nb"), ("--instance", "")]
)
def test_what_cannot_be_meant_leaves_no_file(file: Path, args: tuple[str, str]) -> None:
    done = run("new", "--role", "push", "--file", file, *args, code=2)
    assert "Traceback" not in done.stderr
    assert not file.exists()


def test_a_broken_file_is_not_added_to(file: Path) -> None:
    file.write_text("{}\n")
    done = run("new", "--role", "push", "--file", file, code=2)
    assert f"{file}:1: id: missing" in done.stderr
    assert done.stdout == ""
    assert file.read_text() == "{}\n"
