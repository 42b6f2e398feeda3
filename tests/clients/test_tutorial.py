"""The tutorial's commands, run as they are written, print what it says that they print."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

import pytest

pytestmark = pytest.mark.clients

ROOT = Path(__file__).parents[2]
TUTORIAL = (ROOT / "docs/tutorial.md").read_text()
_BLOCK = re.compile(r"^```(sh|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_MARK = "--- block"  # printed before the output of each
_LONGEST_S = 100


class Step(NamedTuple):
    """Commands, and what they print; None: the tutorial does not say."""

    commands: str
    output: str | None


def steps() -> list[Step]:
    found: list[Step] = []
    for kind, text in _BLOCK.findall(TUTORIAL):
        if kind == "sh":
            found.append(Step(text, None))
        else:
            found[-1] = found[-1]._replace(output=text)
    return found


def matches(line: str, expected: str) -> bool:
    """Whether a line is as expected, where * stands for any text."""
    return fnmatchcase(" ".join(line.split()), " ".join(expected.split()))


def differences(output: str, expected: str) -> list[str]:
    """Return the expected lines that are not printed in this order; `...` stands for any lines."""
    lines = output.splitlines()
    missing, may_skip = [], False
    for wanted in expected.splitlines():
        if wanted == "...":
            may_skip = True
            continue
        at = next((n for n, line in enumerate(lines) if matches(line, wanted)), None)
        if at is None or (at > 0 and not may_skip):
            missing.append(wanted)
        else:
            lines, may_skip = lines[at + 1 :], False
    return missing if may_skip or missing else [f"unexpected: {line}" for line in lines]


def test_its_first_command_is_the_readmes() -> None:
    install = steps()[0].commands.strip()
    assert f"{install} && .venv/bin/federation serve" in (ROOT / "README.md").read_text()


def test_its_commands_do_what_it_says(tmp_path: Path) -> None:
    _, *following = steps()  # the installed program is the one under test
    folder = tmp_path / ".venv/bin"
    folder.mkdir(parents=True)
    (folder / "federation").symlink_to(Path(sys.executable).with_name("federation"))
    outputs = run("".join(f"echo {_MARK}\n{step.commands}" for step in following), tmp_path)
    assert len(outputs) == len(following)
    for step, output in zip(following, outputs, strict=True):
        if step.output is not None:
            found = differences(output.strip(), step.output.strip())
            assert found == [], f"{step.commands}{output}"


def run(script: str, folder: Path) -> list[str]:
    """Return what the script prints after each mark, in a network where all ports are free."""
    unshare = ["unshare", "-n"] if os.geteuid() == 0 else ["unshare", "-rn"]
    process = subprocess.Popen(
        [*unshare, "bash", "-euc", f"ip link set lo up\n{script}"],
        cwd=folder,
        env={**os.environ, "HOME": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=_LONGEST_S)
    finally:
        with contextlib.suppress(ProcessLookupError):  # whatever is left of its nodes
            os.killpg(process.pid, signal.SIGKILL)
    logs = "".join(f"{path}:\n{path.read_text()}" for path in folder.glob("sites/*/log"))
    assert process.returncode == 0, output + logs
    return output.split(f"{_MARK}\n")[1:]
